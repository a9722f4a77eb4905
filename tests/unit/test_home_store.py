"""The store of a run home while its mount hangs: calls end in time, and what wakes up later writes over nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_anystorage.checkpoint.contents import Contents
from ray_anystorage.checkpoint.directory import has_others
from ray_anystorage.checkpoint.journal import Journal
from ray_anystorage.checkpoint.save import Part
from ray_anystorage.checkpoint.saver import Saver
from ray_anystorage.errors import MountTimeoutError, ShortReadError, TransferCancelledError
from ray_anystorage.home.filesystem import HomeFileSystem, HomeRecipe
from ray_anystorage.home.store import HomeStore
from ray_anystorage.testing.store_files import leftovers, write_files
from ray_anystorage.transfer import outgoing_file
from ray_anystorage.transfer.budget import Cancel
from ray_anystorage.transfer.digest import CHUNK_BYTES, BytesLike, chunks_of_file
from ray_anystorage.transfer.engine import upload
from ray_anystorage.transfer.memory_store import MemoryStore
from ray_anystorage.transfer.posix_store import PosixStore

LIMIT = 0.3  # seconds


def home_at(root: Path, limit: float = LIMIT) -> HomeStore:
    return HomeStore(HomeFileSystem(HomeRecipe("cluster", str(root), str(root), (), limit)))


class Hang:
    """Holds one call of the kernel, the first that comes for a file of a certain content, until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
        self._plain, self._content = os.fsync, content
        self._held, self._woken = threading.Event(), threading.Event()
        monkeypatch.setattr(os, "fsync", self._fsync)

    def _fsync(self, descriptor: int) -> None:
        is_file = os.path.isfile(f"/proc/self/fd/{descriptor}")
        if is_file and not self._held.is_set() and os.pread(descriptor, 100, 0) == self._content:
            self._held.set()
            assert self._woken.wait(60)
        self._plain(descriptor)

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Wake it at the end, and wait until nothing of this package's runs any more."""
        before = set(threading.enumerate())
        try:
            yield
            assert self._held.is_set()
        finally:
            self._woken.set()
            for thread in set(threading.enumerate()) - before:
                thread.join(60)


def test_a_small_write_that_was_given_up_writes_over_nothing_when_the_mount_wakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = Hang(monkeypatch, b"older")
    with hang():
        with pytest.raises(MountTimeoutError):
            home_at(tmp_path).write_small("folder/word", b"older")
        PosixStore(str(tmp_path)).write_small("folder/word", b"newer")  # from another node
    assert (tmp_path / "folder/word").read_bytes() == b"newer"
    assert leftovers(tmp_path) == []


def test_data_that_went_elsewhere_writes_over_nothing_when_the_mount_wakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/model").write_bytes(b"older")
    home, spill = home_at(tmp_path / "home"), MemoryStore()
    hang = Hang(monkeypatch, b"older")
    with hang():
        manifest = Saver(home, 1 << 30, lambda: spill).save(str(tmp_path / "source"), Part("checkpoint", "a1", 0, 1))
        assert manifest.location is not None
        PosixStore(home.root).write_small("checkpoint/model", b"newer")
    assert (tmp_path / "home/checkpoint/model").read_bytes() == b"newer"
    assert leftovers(tmp_path / "home") == []


def test_comparing_a_large_file_that_did_not_change_is_no_stall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path / "source", {"large": 4 * CHUNK_BYTES})
    source, root = str(tmp_path / "source"), tmp_path / "home"
    Saver(home_at(root, 60.0), 1 << 30).save(source, Part("checkpoint", "a1", 0, 1))

    def slowly(path: str) -> Iterator[str]:
        for chunk in chunks_of_file(path):
            time.sleep(0.7)  # as long as a chunk of a slow disk takes
            yield chunk

    monkeypatch.setattr(outgoing_file, "chunks_of_file", slowly)
    home = home_at(root, 1.0)
    Saver(home, 1 << 30).save(source, Part("checkpoint", "a2", 0, 1))
    assert home.size("checkpoint/large") == 4 * CHUNK_BYTES


def test_comparing_what_is_there_already_ends_where_it_is_cancelled(tmp_path: Path) -> None:
    files, store = write_files(tmp_path / "source", {"large": 3 * CHUNK_BYTES}), PosixStore(str(tmp_path / "mount"))
    stored, cancel, moved = upload(store, files), Cancel(), list[int]()

    def stop(size: int) -> None:
        moved.append(size)
        cancel.set()

    with pytest.raises(TransferCancelledError):
        upload(store, files, already=stored, cancel=cancel, on_progress=stop)
    assert moved == [0]


class Failing(HomeStore):
    """A run home that takes data, and fails at manifests."""

    def __init__(self, root: Path, error: Exception, *, times: int = 100) -> None:
        super().__init__(HomeFileSystem(HomeRecipe("cluster", str(root), str(root), (), 60.0)))
        self._error, self._times = error, times

    def write_small(self, key: str, data: BytesLike) -> str | None:
        if "manifest-" in key and self._times > 0:
            self._times -= 1
            raise self._error
        return super().write_small(key, data)


def test_a_home_that_fails_at_the_manifest_says_nothing_of_the_bucket(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_files(tmp_path / "source", {"model": 1000})
    home, spill = Failing(tmp_path / "home", OSError(errno.EIO, "broken")), MemoryStore()
    with pytest.raises(OSError, match="broken"):
        Saver(home, 10, lambda: spill).save(str(tmp_path / "source"), Part("checkpoint", "a1", 0, 1))
    assert [key for key, _ in spill.list("")] == ["checkpoint/model"]
    assert not (tmp_path / "home/checkpoint/model").exists()
    assert "failed" not in caplog.text


def test_data_makes_room_for_its_manifest(tmp_path: Path) -> None:
    write_files(tmp_path / "source", {"model": 1000})
    home = Failing(tmp_path / "home", OSError(errno.ENOSPC, "full"), times=1)
    spill, journal = MemoryStore(), Journal(str(tmp_path / "journal"), "run", 0)
    saver = Saver(home, 1 << 30, lambda: spill, journal=journal)
    manifest = saver.save(str(tmp_path / "source"), Part("checkpoint", "a1", 0, 1))
    assert (manifest.location, "full" in str(manifest.detour)) == ("memory://checkpoint", True)
    assert not (tmp_path / "home/checkpoint/model").exists()


def test_a_home_of_many_files_is_no_stall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, {f"{number % 3}/{number}": 10 for number in range(60)})
    plain = os.stat

    def slowly(path: Any, **options: Any) -> os.stat_result:
        time.sleep(0.05)  # as long as a busy server takes
        return plain(path, **options)

    monkeypatch.setattr(os, "stat", slowly)
    assert len(list(home_at(tmp_path, 1.0).list(""))) == 60


WALKS: dict[str, Callable[[HomeStore], object]] = {
    "list": lambda home: home.list(""),
    "unfinished": lambda home: home.unfinished(""),
    "remove_empty": lambda home: home.remove_empty("folder"),
    "has_others": lambda home: has_others(Contents("folder", "a1", 1, (0,), ()), home.path("folder"), home),
    "read": lambda home: home.read_range("folder/large", 0, memoryview(bytearray(3 << 20))),
}


@pytest.mark.parametrize("what", WALKS)
def test_a_mount_that_hangs_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    write_files(tmp_path, {"folder/large": 3 << 20})
    home, woken = home_at(tmp_path), threading.Event()
    for name in ("scandir", "preadv"):
        plain = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *given, plain=plain: woken.wait(60) and plain(*given))
    try:
        with pytest.raises(MountTimeoutError):
            WALKS[what](home)
    finally:
        woken.set()


@pytest.mark.parametrize("size", [100, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_reads_of_every_size_are_whole(tmp_path: Path, size: int) -> None:
    (file,) = write_files(tmp_path, {"file": (3 << 20) + 7})
    into = bytearray(size)
    home_at(tmp_path, 60.0).read_range("file", 7, memoryview(into))
    assert into == Path(file.path).read_bytes()[7 : 7 + size]
    with pytest.raises(ShortReadError):
        home_at(tmp_path, 60.0).read_range("file", (3 << 20) + 8 - size, memoryview(into))
