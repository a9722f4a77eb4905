"""Staging: what is taken over, how it is bounded, who holds what, and what dead processes leave."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ray_anystorage.checkpoint import node, staging, taking
from ray_anystorage.checkpoint.manifest import FOLDER
from ray_anystorage.checkpoint.staging import Staging
from ray_anystorage.checkpoint.staging_place import Place
from ray_anystorage.checkpoint.tree import scan
from ray_anystorage.errors import CheckpointSaveError, RequestError, SourceChangedError, UnsavableFileError
from ray_anystorage.transfer.disk import copy_content
from tests.harness.mounts import free_bytes, reflinking, tmpfs


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The node's temporary directory."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def place(temporary: Path) -> Iterator[Staging]:
    """This process's staging."""
    yield staging.of_process("run", 1)
    staging.discard()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkpoint's directory of 3,000 bytes in two files."""
    return fill(tmp_path / "source")


def fill(directory: Path, content: bytes = b"x" * 1000) -> Path:
    (directory / "sub").mkdir(parents=True)
    (directory / "empty").mkdir()
    (directory / "weights").write_bytes(content)
    (directory / "sub" / "more").write_bytes(content * 2)
    return directory


def names(directory: str | Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in Path(directory).rglob("*"))


ALL = ["empty", "sub", "sub/more", "weights"]


def test_a_directory_on_the_device_is_moved_and_an_empty_one_of_its_mode_is_left(place: Staging, source: Path) -> None:
    source.chmod(0o750)
    inode = (source / "weights").stat().st_ino
    staged = place.stage(str(source), keep=False)
    assert staged is not None
    assert (staged.size, staged.moved_from) == (3000, str(source))
    assert names(staged.directory) == ALL
    assert (Path(staged.directory) / "weights").stat().st_ino == inode, "it was copied"
    assert os.listdir(source) == []
    assert stat.S_IMODE(source.stat().st_mode) == 0o750


def test_a_temporary_directory_can_be_left_at_once(place: Staging) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "weights").write_bytes(b"1")
        staged = place.stage(directory, keep=False)
    assert staged is not None
    assert Path(staged.directory, "weights").read_bytes() == b"1"


@pytest.mark.parametrize("content", [b"", b"x" * 1000, os.urandom(3 << 20)], ids=["empty", "small", "large"])
def test_what_is_kept_is_copied_and_shares_no_bytes(place: Staging, tmp_path: Path, content: bytes) -> None:
    source = fill(tmp_path / "kept", content)
    staged = place.stage(str(source), keep=True)
    assert staged is not None
    assert staged.moved_from is None
    (source / "weights").write_bytes(b"rewritten")
    with (source / "sub" / "more").open("r+b") as file:
        file.write(b"torn")
    assert names(source) == names(staged.directory) == ALL
    assert Path(staged.directory, "weights").read_bytes() == content
    assert Path(staged.directory, "sub", "more").read_bytes() == content * 2


def test_what_is_kept_is_reflinked_where_the_disk_can_and_never_hard_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with reflinking(tmp_path / "disk") as disk:
        small_disk(tmp_path, monkeypatch, disk)
        place = Staging("run", 1)
        source, content = fill(disk / "kept", os.urandom(8 << 20)), (disk / "kept" / "weights").read_bytes()
        before = free_bytes(disk)
        staged = place.stage(str(source), keep=True)
        assert staged is not None
        assert before - free_bytes(disk) < len(content) // 4, "24 MiB were copied"
        with (source / "weights").open("r+b") as file:
            file.write(b"written into")
        (source / "sub" / "more").write_bytes(b"rewritten")
        assert Path(staged.directory, "weights").read_bytes() == content
        assert Path(staged.directory, "sub", "more").read_bytes() == content * 2
        assert {os.stat(path).st_nlink for path in Path(staged.directory).rglob("*") if path.is_file()} == {1}
        place.discard()


def linked_in(source: Path) -> Path:
    (source / "link").symlink_to("weights")
    return source


def linked_folder(source: Path) -> Path:
    (source.parent / "elsewhere").mkdir()
    (source.parent / "elsewhere" / "file").write_bytes(b"1")
    (source / "folder").symlink_to("../elsewhere")
    return source


def hard_linked(source: Path) -> Path:
    os.link(source / "weights", source.parent / "another name")
    return source


def itself_a_link(source: Path) -> Path:
    (source.parent / "alias").symlink_to(source)
    return source.parent / "alias"


def committed(source: Path) -> Path:
    (source / FOLDER).mkdir()
    (source / FOLDER / "commit.json").write_bytes(b"{}")
    return source


def in_the_home(source: Path) -> Path:
    (source.parent / "home").mkdir()
    return source.rename(source.parent / "home" / "checkpoint_1")


def part_of_one(source: Path) -> Path:
    return in_the_home(source) / "sub"


def in_the_cache(source: Path) -> Path:
    entry = node.current().passing.entry("run", "checkpoint_1", "a1")
    Path(entry.folder).mkdir(parents=True)
    return source.rename(entry.directory)


@pytest.mark.parametrize("store", [committed, in_the_home, part_of_one, in_the_cache])
def test_a_stored_checkpoint_is_copied(
    temporary: Path, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, store: Callable[[Path], Path]
) -> None:
    monkeypatch.setitem(node._state, os.getpid(), node.Node(str(tmp_path / "node"), "the-test"))
    place, stored = Staging("run", 1, str(tmp_path / "home")), store(source)
    before = names(stored)
    staged = place.stage(str(stored), keep=False)
    assert staged is not None
    assert staged.moved_from is None
    assert names(stored) == before
    assert set(names(staged.directory)) <= set(before)
    place.discard()


def test_a_file_that_is_cut_while_it_is_copied_fails_the_report(
    place: Staging, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_first(reader: int, writer: int, size: int) -> None:
        os.truncate(f"/proc/self/fd/{reader}", size // 2)
        copy_content(reader, writer, size)

    monkeypatch.setattr(taking, "copy_content", cut_first)
    with pytest.raises(SourceChangedError, match=r"sub/more: the file ended at byte 1000 .* of 2000 before"):
        place.stage(str(source), keep=True)
    assert os.listdir(place.folder) == []


@pytest.mark.parametrize("change", [linked_in, linked_folder, hard_linked, itself_a_link])
def test_what_other_names_lead_to_is_copied(place: Staging, source: Path, change: object) -> None:
    assert callable(change)
    directory = change(source)
    expected = {file.path: Path(file.source).read_bytes() for file in scan(str(directory)).files}
    staged = place.stage(str(directory), keep=False)
    assert staged is not None
    assert staged.moved_from is None
    shutil.rmtree(source)
    (source.parent / "elsewhere" / "file").unlink(missing_ok=True)
    assert {file.path: Path(file.source).read_bytes() for file in scan(staged.directory).files} == expected
    assert not any(path.is_symlink() for path in Path(staged.directory).rglob("*"))


def test_another_device_and_a_mount_point_are_copied(place: Staging, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "memory") as memory:
        for directory in (memory, fill(memory / "below")):
            staged = place.stage(str(directory), keep=False)
            assert staged is not None
            assert staged.moved_from is None
            assert "weights" in " ".join(names(staged.directory)) or directory == memory
        assert names(memory / "below") == ALL


def test_a_mount_point_of_the_same_device_is_copied(place: Staging, source: Path, tmp_path: Path) -> None:
    from tests.harness.mounts import _mounted

    with _mounted(tmp_path / "bound", "--bind", str(source)):
        staged = place.stage(str(tmp_path / "bound"), keep=False)
        assert staged is not None
        assert staged.moved_from is None
        assert names(staged.directory) == names(source) == ALL


def test_the_working_directory_is_copied(place: Staging, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source / "sub")
    staged = place.stage(str(source), keep=False)
    assert staged is not None
    assert staged.moved_from is None


def test_what_cannot_be_saved_is_refused_and_left_as_it_is(place: Staging, source: Path) -> None:
    (source / "broken").symlink_to("nowhere")
    with pytest.raises(UnsavableFileError, match="broken"):
        place.stage(str(source), keep=False)
    assert "weights" in names(source)


def test_a_directory_above_the_staging_folder_is_refused(place: Staging, temporary: Path) -> None:
    with pytest.raises(RequestError, match="temporary files"):
        place.stage(str(temporary), keep=True)


def test_nothing_is_lost_where_the_fresh_directory_cannot_take_its_place(
    place: Staging, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def failing(old: str, new: str) -> None:
        if old.endswith("-fresh"):
            raise OSError(5, "Input/output error")
        rename(old, new)

    monkeypatch.setattr(taking.os, "rename", failing)
    with pytest.raises(OSError, match="Input/output"):
        place.stage(str(source), keep=False)
    assert names(source) == ALL


def test_a_directory_that_ray_does_not_take_is_put_back(place: Staging, source: Path) -> None:
    staged = place.stage(str(source), keep=False)
    assert staged is not None
    place.give_back(staged)
    assert names(source) == ALL
    assert not os.path.exists(staged.directory)


def test_the_end_of_a_save_removes_it_and_other_directories_are_none_of_ours(place: Staging, source: Path) -> None:
    staged = place.stage(str(source), keep=False)
    assert staged is not None
    staging.ended(str(source), RuntimeError("another's"))
    place.check()
    staging.ended(staged.directory, None)
    assert not os.path.exists(staged.directory)
    place.wait(staged)


def test_a_failed_save_is_raised_until_it_is_tried_anew_with_success(place: Staging, source: Path) -> None:
    staged = place.stage(str(source), keep=False)
    assert staged is not None
    staging.ended(staged.directory, CheckpointSaveError("checkpoint c could not be saved: full"))
    for attempt in (place.check, lambda: place.wait(staged), lambda: place.stage(str(source), keep=False)):
        with pytest.raises(CheckpointSaveError, match="checkpoint c"):
            attempt()
    assert names(staged.directory) == ALL, "another try finds nothing"
    staging.ended(staged.directory, None)
    place.check()


def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Path) -> Path:
    (disk / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(disk / "tmp"))
    return disk


def checkpoint(directory: Path, megabytes: int) -> Path:
    directory.mkdir()
    (directory / "weights").write_bytes(bytes(megabytes << 20))
    return directory


@pytest.mark.parametrize("error", [None, CheckpointSaveError("checkpoint c could not be saved")])
def test_a_report_over_the_bound_waits_for_an_earlier_save_and_raises_where_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException | None
) -> None:
    with tmpfs(tmp_path / "disk", size="32m") as disk:
        small_disk(tmp_path, monkeypatch, disk)
        place = Staging("run", 1)
        first = place.stage(str(checkpoint(disk / "first", 6)), keep=False)
        assert first is not None
        assert place.stage(str(checkpoint(disk / "second", 6)), keep=False) is not None
        third = checkpoint(disk / "third", 6)
        outcome: list[object] = []

        def report() -> None:
            try:
                outcome.append(place.stage(str(third), keep=False))
            except CheckpointSaveError as raised:
                outcome.append(raised)

        waiting = waits(place, report)
        assert outcome == []
        assert names(third) == ["weights"]
        place.ended(first.directory, error)
        waiting.join(30)
        assert not waiting.is_alive()
        if error is None:
            assert os.listdir(third) == []
        else:
            assert outcome == [error]
        place.discard()


def waits(place: Staging, action: object) -> threading.Thread:
    """Start an action in a thread; returns once it waits for a save to end."""
    assert callable(action)
    reached, wait_for = threading.Event(), place._changed.wait_for

    def marked(predicate: object, timeout: float | None = None) -> object:
        assert callable(predicate)
        assert not predicate(), "there is nothing to wait for"
        reached.set()
        return wait_for(predicate, timeout)

    place._changed.wait_for = marked  # type: ignore[method-assign, assignment]
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    assert reached.wait(30)
    return thread


def test_one_save_is_always_taken_and_ranks_share_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tmpfs(tmp_path / "disk", size="32m") as disk:
        small_disk(tmp_path, monkeypatch, disk)
        place = Staging("run", 8)  # one rank alone could have 16 MB waiting, one of eight 2 MB
        first, second = place.stage(str(checkpoint(disk / "first", 5)), keep=False), checkpoint(disk / "second", 1)
        assert first is not None
        waiting = waits(place, lambda: place.stage(str(second), keep=False))
        place.ended(first.directory, None)
        waiting.join(30)
        assert os.listdir(second) == []
        place.discard()


def test_a_copy_that_does_not_fit_is_not_staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = checkpoint(tmp_path / "source", 16)
    with tmpfs(tmp_path / "disk", size="12m") as disk:
        small_disk(tmp_path, monkeypatch, disk)
        place = Staging("run", 1)
        assert place.stage(str(source), keep=False) is None
        monkeypatch.setattr(staging, "_COPY_SHARE", 2.0)  # another process takes the room after the look
        assert place.stage(str(source), keep=False) is None
        assert os.listdir(place.folder) == [], "half a copy was left"
        assert (source / "weights").stat().st_size == 16 << 20
        place.discard()


def test_two_reports_of_one_directory_in_the_same_turn_are_refused(place: Staging, source: Path) -> None:
    other = Staging("run", 1)
    (source.parent / "alias").symlink_to(source)
    with place.claim(str(source), 1, shared=False):
        for shared in (False, True):
            with pytest.raises(RequestError, match="two ranks"), other.claim(f"{source}/../alias", 1, shared=shared):
                pass
        with other.claim(str(source), 2, shared=False):
            pass
    with other.claim(str(source), 1, shared=False):
        pass
    with place.claim(str(source), 3, shared=True), other.claim(str(source), 3, shared=True):
        pass
    other.discard()


CHILD = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from ray_anystorage.checkpoint.manifest import FOLDER
from ray_anystorage.checkpoint.staging import Staging
from ray_anystorage.checkpoint.staging_place import Place
place = Staging("run", 1)
with place.claim(sys.argv[2], 1, shared=False):
    staged = place.stage(sys.argv[2], keep=False)
    print(staged.directory, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_swept_and_what_a_live_one_holds_is_not(temporary: Path, tmp_path: Path) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(temporary), str(fill(tmp_path / name))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("dead", "alive")
    ]
    try:
        staged = [child.stdout.readline().strip() for child in children if child.stdout]
        assert [names(directory) for directory in staged] == [ALL, ALL]
        children[0].send_signal(signal.SIGKILL)
        children[0].wait()
        place = Staging("run", 1)
        assert not os.path.exists(os.path.dirname(staged[0]))
        assert names(staged[1]) == ALL
        with pytest.raises(RequestError, match="two ranks"), place.claim(str(tmp_path / "alive"), 1, shared=False):
            pass
        place.discard()
    finally:
        for child in children:
            child.kill()
            child.communicate()
    assert len(list(temporary.glob("*/staging/claims/*"))) == 1
    Staging("run", 1).discard()
    assert list(temporary.glob("*/staging/claims/*")) == []
    assert list(temporary.glob("*/staging/runs/run/*")) == []


def test_discarding_leaves_nothing(temporary: Path, source: Path) -> None:
    place = staging.of_process("run", 1)
    assert place is staging.of_process("run", 1)
    assert place.stage(str(source), keep=True) is not None
    staging.discard()
    staging.discard()
    assert list(temporary.glob("*/staging/runs/run/*")) == []


def test_all_runs_of_a_node_stage_in_one_place_so_that_each_sweeps_what_the_others_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(node._state, os.getpid(), node.Node(str(tmp_path / "local" / "anystorage-0"), "session"))
    roots = set()
    for run in ("one", "two"):
        temporary = tmp_path / "local" / "anystorage-0" / "tmp" / run
        temporary.mkdir(parents=True)
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        roots.add(Place()._root)
    assert roots == {str(tmp_path / "local" / "anystorage-0" / "staging")}
