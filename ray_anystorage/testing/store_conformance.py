"""The tests that every store must pass; subclass :class:`StoreConformance` with a ``store`` fixture. Needs pytest.

>>> class TestMyStore(StoreConformance):
...     @pytest.fixture
...     def store(self, tmp_path):
...         return MyStore(tmp_path / "store")
"""

# ruff: noqa: S101 - these are tests

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ray_anystorage.errors import (
    DigestMismatchError,
    ObjectMissingError,
    RequestError,
    ShortReadError,
    TransferCancelledError,
)
from ray_anystorage.testing.store_files import (
    flip_bit,
    incoming,
    leftovers,
    same_content,
    transfer_threads,
    write_files,
)
from ray_anystorage.testing.store_reuse import ReuseConformance
from ray_anystorage.testing.store_sinks import SinkConformance
from ray_anystorage.transfer.budget import Budget, Cancel
from ray_anystorage.transfer.digest import CHUNK_BYTES, digest_file
from ray_anystorage.transfer.engine import download, upload
from ray_anystorage.transfer.files import Incoming, Outgoing, split
from ray_anystorage.transfer.store import Store

MULTIPART_BYTES = 3 * CHUNK_BYTES + 12345
SIZES = (0, 1, 4096, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, MULTIPART_BYTES)
NAMES = (
    "with space.bin",
    "päth/日本語/✓",
    "plus+percent%20/hash#question?&=;,@$!'()",
    'tilde~[brackets]{braces}^`|"<>*',
    "dots...and-_/..hidden",
    "n" * 200,
    "/".join(["d" * 90] * 8),
)


class StoreConformance(ReuseConformance, SinkConformance):
    """Round trips, damage, interruption and names, through the engine and directly.

    Attributes
    ----------
    sees_unfinished
        Whether ``unfinished`` can list uploads that nobody ended.
    """

    sees_unfinished = True

    @pytest.fixture
    def store(self) -> Store:
        """An empty store; subclasses must give one."""
        raise NotImplementedError

    # --- round trips ---

    @pytest.mark.parametrize("size", SIZES)
    def test_round_trip(self, store: Store, tmp_path: Path, size: int) -> None:
        files = write_files(tmp_path / "source", {"model.bin": size})
        stored = upload(store, files)
        assert [(file.key, file.size) for file in stored] == [("model.bin", size)]
        assert (size, stored[0].digest, stored[0].chunks) == digest_file(files[0].path)
        assert store.size("model.bin") == size
        download(store, incoming(stored, tmp_path / "target"))
        assert same_content(files, tmp_path / "target")

    def test_many_small_files(self, store: Store, tmp_path: Path) -> None:
        files = write_files(tmp_path / "source", {f"shard/{i:03}": 100 + i for i in range(100)})
        done: list[int] = []
        stored = upload(store, files, on_progress=done.append)
        assert sum(done) == sum(file.size for file in files)
        assert [file.key for file in stored] == [file.key for file in files]
        before = store.counters.bytes_fetched
        download(store, incoming(stored, tmp_path / "target"))
        assert same_content(files, tmp_path / "target")
        assert store.counters.bytes_fetched - before == sum(file.size for file in files)

    def test_names(self, store: Store, tmp_path: Path) -> None:
        source = tmp_path / "source"
        files = [Outgoing(file.path, name, file.size) for name in NAMES for file in write_files(source, {"one": 10})]
        large = write_files(source, {"two": CHUNK_BYTES + 1})[0]
        files += [Outgoing(large.path, f"large/{name}", large.size) for name in NAMES]
        stored = upload(store, files)
        assert dict(store.list("")) == {file.key: file.size for file in files}
        targets = [
            Incoming(file.key, str(tmp_path / "target" / str(i)), file.size, file.digest, file.chunks)
            for i, file in enumerate(stored)
        ]
        download(store, targets)
        assert all(digest_file(file.target)[1] == file.digest for file in targets)
        store.delete([file.key for file in files])
        assert list(store.list("")) == []

    @pytest.mark.parametrize("key", ["", "/absolute", "../above", "a/../b", "a//b", "a/", "nul\0"])
    def test_keys_outside_of_the_root_are_refused(self, store: Store, tmp_path: Path, key: str) -> None:
        with pytest.raises(RequestError):
            store.write_small(key, b"x")
        with pytest.raises(RequestError):
            upload(store, [Outgoing(str(tmp_path), key, 1)])
        assert list(store.list("")) == []

    # --- what is wrong is found ---

    @pytest.mark.parametrize("size", [1000, MULTIPART_BYTES])
    def test_flipped_bit(self, store: Store, tmp_path: Path, size: int) -> None:
        files = write_files(tmp_path / "source", {"good": 10, "bad.bin": size})
        stored = upload(store, files)
        flip_bit(Path(files[1].path), size // 2)
        upload(store, files[1:])
        with pytest.raises(DigestMismatchError, match=r"bad\.bin"):
            download(store, incoming(stored, tmp_path / "target"))
        assert not (tmp_path / "target" / "bad.bin").exists()
        assert leftovers(tmp_path / "target") == []

    @pytest.mark.parametrize(("size", "kept"), [(1000, 999), (MULTIPART_BYTES, MULTIPART_BYTES - 1), (5000, 0)])
    def test_short_object(self, store: Store, tmp_path: Path, size: int, kept: int) -> None:
        files = write_files(tmp_path / "source", {"short.bin": size})
        stored = upload(store, files)
        with open(files[0].path, "r+b") as file:
            file.truncate(kept)
        upload(store, [Outgoing(files[0].path, "short.bin", kept)])
        with pytest.raises(ShortReadError, match=r"short\.bin"):
            download(store, incoming(stored, tmp_path / "target"))
        assert leftovers(tmp_path / "target") == []

    def test_missing_object(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(ObjectMissingError) as caught:
            download(store, [Incoming("nothing/here", str(tmp_path / "t"), 10)])
        assert isinstance(caught.value, FileNotFoundError)
        for size in (10, 2 * CHUNK_BYTES):
            with pytest.raises(ObjectMissingError):
                store.read_range("nothing/here", 0, memoryview(bytearray(size)))
        with pytest.raises(ObjectMissingError):
            store.size("nothing/here")
        with pytest.raises(ObjectMissingError):
            store.copy("nothing/here", "there")

    # --- what is interrupted leaves nothing ---

    def test_aborted_upload_is_invisible(self, store: Store) -> None:
        parts = split(2 * CHUNK_BYTES, store.limits.max_parts)
        started = store.begin("torn.bin", 2 * CHUNK_BYTES)
        started.part(0, 0, bytes(parts[0].size))
        assert list(store.list("")) == []
        if self.sees_unfinished:
            assert [key for key, _ in store.unfinished("")] != []
        started.abort()
        started.abort()
        assert list(store.list("")) == []
        assert list(store.unfinished("")) == []

    def test_unfinished_uploads_can_be_discarded(self, store: Store) -> None:
        if not self.sees_unfinished:
            pytest.skip("this store cannot list unfinished uploads")
        store.begin("run/torn.bin", 2 * CHUNK_BYTES).part(0, 0, bytes(CHUNK_BYTES))
        elsewhere = store.begin("runner/other.bin", 2 * CHUNK_BYTES)
        elsewhere.part(0, 0, bytes(CHUNK_BYTES))
        found = list(store.unfinished("run"))
        assert len(found) == 1
        store.discard(*found[0])
        assert list(store.unfinished("run")) == []
        assert len(list(store.unfinished(""))) == 1
        elsewhere.abort()

    def test_failing_source_leaves_nothing(self, store: Store, tmp_path: Path) -> None:
        files = write_files(tmp_path / "source", {"whole": 5000, "torn.bin": MULTIPART_BYTES})
        lies = Outgoing(files[1].path, "torn.bin", MULTIPART_BYTES + CHUNK_BYTES)
        with pytest.raises(OSError, match=r"torn\.bin ends at byte"):
            upload(store, [files[0], lies])
        assert "torn.bin" not in dict(store.list(""))
        assert list(store.unfinished("")) == []
        assert transfer_threads() == []

    def test_cancelled_transfer_leaves_nothing(self, store: Store, tmp_path: Path) -> None:
        files = write_files(tmp_path / "source", {"a.bin": 6 * CHUNK_BYTES})
        cancel = Cancel()
        with pytest.raises(TransferCancelledError):
            upload(store, files, cancel=cancel, on_progress=lambda _: cancel.set(), budget=Budget(requests=2))
        assert transfer_threads() == []
        assert list(store.list("")) == []
        assert list(store.unfinished("")) == []
        stored, cancel = upload(store, files), Cancel()
        with pytest.raises(TransferCancelledError):
            download(
                store,
                incoming(stored, tmp_path / "target"),
                cancel=cancel,
                on_progress=lambda _: cancel.set(),
                budget=Budget(requests=2),
            )
        assert transfer_threads() == []
        assert leftovers(tmp_path / "target") == []

    # --- the other operations ---

    def test_overwriting_is_atomic(self, store: Store) -> None:
        size, stop, seen = 100_000, threading.Event(), set()
        store.write_small("state", b"a" * size)

        def read() -> None:
            buffer = bytearray(size)
            while not stop.is_set():
                store.read_range("state", 0, memoryview(buffer))
                seen.add(bytes(buffer[:1]) if len(set(buffer)) == 1 else b"mixed")

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for turn in range(30):
                store.write_small("state", (b"b" if turn % 2 else b"a") * size)
        finally:
            stop.set()
            reader.join()
        assert seen
        assert seen <= {b"a", b"b"}

    def test_large_file_replaces_small_and_back(self, store: Store, tmp_path: Path) -> None:
        for size in (10, MULTIPART_BYTES, 20):
            files = write_files(tmp_path / "source", {"same": size})
            download(store, incoming(upload(store, files), tmp_path / "target"))
            assert same_content(files, tmp_path / "target")

    def test_list_delete_and_copy(self, store: Store) -> None:
        for key in ("run/a", "run/sub/b", "runner/c", "run2"):
            store.write_small(key, key.encode())
        assert sorted(store.list("run")) == [("run/a", 5), ("run/sub/b", 9)]
        assert sorted(store.list("run/")) == [("run/a", 5), ("run/sub/b", 9)]
        assert list(store.list("nothing")) == []
        assert sorted(store.tagged("run")) == [(key, size, store.etag(key)) for key, size in sorted(store.list("run"))]
        store.copy("run/a", "copied/a")
        buffer = bytearray(5)
        store.read_range("copied/a", 0, memoryview(buffer))
        assert buffer == b"run/a"
        store.delete(["run/a", "not/there", "run/sub/b"])
        store.delete(["run/a"])
        store.delete([])
        assert sorted(key for key, _ in store.list("")) == ["copied/a", "run2", "runner/c"]

    def test_ranges(self, store: Store, tmp_path: Path) -> None:
        files = write_files(tmp_path / "source", {"f": 3 * CHUNK_BYTES})
        upload(store, files)
        content = Path(files[0].path).read_bytes()
        for offset, size in ((0, 1), (12345, 70_000), (CHUNK_BYTES - 1, 2), (100, 2 * CHUNK_BYTES)):
            buffer = bytearray(size)
            store.read_range("f", offset, memoryview(buffer))
            assert buffer == content[offset : offset + size]
        with pytest.raises(ShortReadError):
            store.read_range("f", 3 * CHUNK_BYTES - 5, memoryview(bytearray(10)))
        with pytest.raises(ShortReadError):
            store.read_range("f", 4 * CHUNK_BYTES, memoryview(bytearray(10)))
