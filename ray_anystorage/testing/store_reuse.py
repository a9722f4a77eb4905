"""What a store has is not sent again, and nothing else is taken for it: a part of the suite that every store passes."""

# ruff: noqa: S101 - these are tests

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ray_anystorage.errors import ObjectMissingError, SourceChangedError
from ray_anystorage.testing.store_files import flip_bit, incoming, write_files
from ray_anystorage.transfer.digest import CHUNK_BYTES, digest_file
from ray_anystorage.transfer.engine import download, upload
from ray_anystorage.transfer.files import Incoming, Outgoing
from ray_anystorage.transfer.store import Store

_LARGE_BYTES = 3 * CHUNK_BYTES + 12345
_COPIED_BYTES = 1_500_000  # more than what is as soon sent


class ReuseConformance:
    """See :class:`ray_anystorage.testing.store_conformance.StoreConformance`, which inherits these."""

    def test_what_is_there_is_not_sent_again(self, store: Store, tmp_path: Path) -> None:
        files = write_files(tmp_path / "source", {"same": 50_000, "moved": _COPIED_BYTES, "changed": 70_000})
        first = upload(store, files)
        flip_bit(Path(files[2].path), 5)
        again = [files[0], Outgoing(files[1].path, "elsewhere", files[1].size), files[2]]
        before = store.counters.bytes_sent
        second = upload(store, again, already=first)
        copies = store.copies(_COPIED_BYTES)
        assert [file.sent for file in second] == [False, not copies, True]
        assert store.counters.bytes_sent - before == 70_000 + (0 if copies else _COPIED_BYTES)
        download(store, incoming(second, tmp_path / "target"))
        assert digest_file(str(tmp_path / "target" / "elsewhere"))[1] == first[1].digest

    def test_what_was_written_over_is_sent(self, store: Store, tmp_path: Path) -> None:
        files = write_files(tmp_path / "source", {"same": 50_000, "moved": 50_000})
        first = upload(store, files)
        for file in files:
            store.write_small(file.key, bytes(file.size))
        again = [files[0], Outgoing(files[1].path, "elsewhere", files[1].size)]
        second = upload(store, again, already=first)
        assert [file.sent for file in second] == [True, True]
        download(store, incoming(second, tmp_path / "target"))

    def test_etags_tell_what_an_object_holds(self, store: Store, tmp_path: Path) -> None:
        first, second = store.write_small("a", b"one"), store.write_small("a", b"two")
        assert None not in (first, second)
        assert first != second == store.etag("a")
        large = upload(store, write_files(tmp_path / "source", {"large": _LARGE_BYTES}))[0]
        assert large.etag == store.etag("large")
        for source, etag, size in (("a", second, 3), ("large", large.etag, _LARGE_BYTES)):
            assert store.copy(source, f"copy of {source}", etag, size) == store.etag(f"copy of {source}")
            assert store.size(f"copy of {source}") == size
        with pytest.raises(SourceChangedError):
            store.copy("a", "another copy", first)
        with pytest.raises(ObjectMissingError):
            store.etag("nothing/here")

    def test_what_was_written_over_is_not_fetched(self, store: Store, tmp_path: Path) -> None:
        for size in (50_000, _LARGE_BYTES):
            path = tmp_path / str(size)
            path.write_bytes(bytes(size))
            before = upload(store, [Outgoing(str(path), "f", size)])[0]
            goal = Incoming("f", str(tmp_path / "goal"), size, etag=before.etag)
            download(store, [goal])
            assert (tmp_path / "goal").read_bytes() == bytes(size)
            path.write_bytes(bytes(size - 1) + b"x")
            upload(store, [Outgoing(str(path), "f", size)])
            with pytest.raises(SourceChangedError) as caught:
                download(store, [goal])
            assert caught.value.place == f"{store.uri}/f"
            assert (tmp_path / "goal").read_bytes() == bytes(size)

    def test_what_changed_is_left_out_and_the_rest_is_fetched(self, store: Store, tmp_path: Path) -> None:
        sizes = {
            "kept": 5000,
            "large": _LARGE_BYTES,
            "gone": 5000,
            "short": 5000,
            "other": 5000,
            "larger": _LARGE_BYTES,
        }
        stored = upload(store, write_files(tmp_path / "source", sizes))
        for key in ("short", "other", "larger"):
            store.write_small(key, bytes(sizes[key] - (key == "short")))
        store.delete(["gone"])
        files = [Incoming(one.key, str(tmp_path / "goal" / one.key), one.size, etag=one.etag) for one in stored]
        changed: list[Incoming] = []
        download(store, files, on_changed=changed.append)
        assert sorted(file.key for file in changed) == ["gone", "larger", "other", "short"]
        assert sorted(path.name for path in (tmp_path / "goal").iterdir()) == ["kept", "large"]
        for key in ("kept", "large"):
            assert (tmp_path / "goal" / key).read_bytes() == (tmp_path / "source" / key).read_bytes()

    def test_what_changed_is_left_out_and_the_rest_is_sent(self, store: Store, tmp_path: Path) -> None:
        sizes = {"kept": 5000, "large": _LARGE_BYTES, "gone": 5000, "short": 5000, "shorter": _LARGE_BYTES}
        files = write_files(tmp_path / "source", sizes)
        (tmp_path / "source" / "gone").unlink()
        os.truncate(tmp_path / "source" / "short", 4999)
        os.truncate(tmp_path / "source" / "shorter", 2 * CHUNK_BYTES)
        changed: list[Outgoing] = []
        stored = upload(store, files, on_changed=changed.append)
        assert sorted(file.key for file in changed) == ["gone", "short", "shorter"]
        assert sorted(file.key for file in stored) == ["kept", "large"]
        assert sorted(key for key, _ in store.list("")) == ["kept", "large"]
        assert list(store.unfinished("")) == []
        for file in files[2:]:
            with pytest.raises(SourceChangedError, match=file.key):
                upload(store, [file])

    def test_what_was_there_and_is_gone_is_sent(self, store: Store, tmp_path: Path) -> None:
        files = write_files(tmp_path / "source", {"gone": 50_000})
        first = upload(store, files)
        store.delete(["gone"])
        assert [file.sent for file in upload(store, files, already=first)] == [True]
        assert store.size("gone") == 50_000
