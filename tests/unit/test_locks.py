"""Locks on folders: who waits, what happens when the folder goes, and what forks and kills do to them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ray_anystorage.transfer.locks import locked

FORKS = """
import os, signal, sys
from ray_anystorage.transfer.locks import locked

def state():
    try:
        with locked(sys.argv[1], wait=False):
            return "free"
    except BlockingIOError:
        return "taken"

with locked(sys.argv[1]):
    child = os.fork()
    if child == 0:
        sys.exit()
    os.waitpid(child, 0)
    print(state())
    child = os.fork()
    if child == 0:
        signal.pause()
print(state())
os.kill(child, signal.SIGKILL)
"""


def wait_for_waiter(folder: str) -> None:
    """Return when somebody waits for the lock of a folder; fail where nobody comes to wait."""
    inode, deadline = os.stat(folder).st_ino, time.monotonic() + 30
    while not any("->" in line and f":{inode} " in line for line in Path("/proc/locks").read_text().splitlines()):
        assert time.monotonic() < deadline, f"nobody waits for {folder}"
        time.sleep(0.005)


def test_alone_excludes_all_and_shared_only_alone(tmp_path: Path) -> None:
    folder = str(tmp_path / "a" / "b")
    with locked(folder), pytest.raises(BlockingIOError), locked(folder, shared=True, wait=False):
        pass
    with locked(folder, shared=True), pytest.raises(BlockingIOError), locked(folder, wait=False):
        pass
    with locked(folder, shared=True), locked(folder, shared=True, wait=False):
        pass
    with locked(folder, wait=False):
        pass


def test_who_waited_for_a_folder_that_went_holds_the_new_one(tmp_path: Path) -> None:
    folder, held, done = str(tmp_path / "folder"), threading.Event(), threading.Event()

    def wait() -> None:
        with locked(folder):
            held.set()
            done.wait()

    waiting = threading.Thread(target=wait)
    with locked(folder):
        waiting.start()
        wait_for_waiter(folder)
        os.rename(folder, tmp_path / "gone")
    held.wait()
    try:
        with pytest.raises(BlockingIOError), locked(folder, wait=False):
            pass
    finally:
        done.set()
        waiting.join()


def test_a_folder_that_goes_while_it_is_found_to_be_there_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real, looks = tmp_path / "folder", os.path.isdir, list[str]()
    folder.mkdir()

    def removed_first(path: str) -> bool:
        looks.append(path)
        if len(looks) == 1:
            folder.rmdir()
        return real(path)

    monkeypatch.setattr(os.path, "isdir", removed_first)  # makedirs looks here once mkdir has said that it exists
    with locked(str(folder)):
        assert looks == [str(folder)]
        assert real(folder)


@pytest.mark.parametrize("kind", ["file", "dangling"])
def test_what_is_no_folder_is_an_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "path"
    path.touch() if kind == "file" else path.symlink_to(tmp_path / "nothing")
    with pytest.raises(OSError, match="path"), locked(str(path)):
        pass


def test_a_fork_neither_ends_a_lock_nor_keeps_it(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", FORKS, str(tmp_path / "folder")], capture_output=True, text=True)
    assert (ran.stdout.split(), ran.returncode) == (["taken", "free"], 0), ran.stderr
