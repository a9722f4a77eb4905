"""Large objects through obstore, which takes their parts in order: how many there are, and what waits in memory."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import GenericError

from ray_anystorage.errors import SourceChangedError, StoreUnavailableError
from ray_anystorage.testing.store_files import incoming, same_content, transfer_threads, write_files
from ray_anystorage.transfer.budget import Budget
from ray_anystorage.transfer.digest import CHUNK_BYTES
from ray_anystorage.transfer.engine import download, upload
from ray_anystorage.transfer.files import Outgoing, split
from ray_anystorage.transfer.memory_store import MemoryStore
from ray_anystorage.transfer.streamed import EARLY_BYTES, StreamedUpload
from tests.harness.waiting import wait_until

PARTS = 30


class Watched(MemoryStore):
    """Remembers its uploads."""

    def __init__(self) -> None:
        super().__init__()
        self.uploads: list[StreamedUpload] = []

    def begin(self, key: str, size: int) -> Any:
        self.uploads.append(super().begin(key, size))
        return self.uploads[-1]

    def early(self) -> int:
        return sum(len(data) for one in self.uploads for data in list(one._early.values()))


@pytest.fixture
def large(tmp_path: Path) -> Outgoing:
    """A file that takes no space."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(PARTS * CHUNK_BYTES)
    return Outgoing(str(path), "large", PARTS * CHUNK_BYTES)


def slow_start(monkeypatch: pytest.MonkeyPatch, hold: Any) -> None:
    """Call ``hold`` before the first part of a file is read."""
    plain = os.preadv

    def preadv(descriptor: int, buffers: Any, offset: int) -> int:
        if offset == 0:
            hold()
        return plain(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)


def until_nothing_moves(store: MemoryStore) -> None:
    """Wait until no part came for some time."""
    sent = -1
    while sent != (sent := store.counters.bytes_sent):
        time.sleep(0.5)


@pytest.mark.parametrize("size", [9 * CHUNK_BYTES, 78 << 30, 100 << 30, 1 << 40, 5 << 40])
def test_no_object_has_more_parts_than_a_store_takes(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    asked: dict[str, Any] = {}

    def put(client: Any, path: str, parts: Iterator[bytes], **options: Any) -> dict[str, str]:
        asked.update(options, got=list(parts))
        return {"e_tag": "etag"}

    monkeypatch.setattr(obstore, "put", put)
    started = MemoryStore().begin("large", size)
    started.part(0, 0, b"first")
    assert started.commit() == "etag"
    assert asked["got"] == [b"first"]
    assert asked["chunk_size"] % CHUNK_BYTES == 0
    assert -(-size // asked["chunk_size"]) <= 10_000
    assert asked["chunk_size"] == split(size, 10_000)[0].size
    assert asked["max_concurrency"] == 1 or asked["max_concurrency"] * asked["chunk_size"] <= 256 << 20


def test_what_comes_before_its_turn_stays_bounded(monkeypatch: pytest.MonkeyPatch, large: Outgoing) -> None:
    store, most = Watched(), 0

    def hold() -> None:
        nonlocal most
        until_nothing_moves(store)
        most = store.early()

    slow_start(monkeypatch, hold)
    (stored,) = upload(store, [large], budget=Budget(first_requests=64))
    assert most == EARLY_BYTES
    assert (store.size("large"), stored.size) == (large.size, large.size)


def test_first_parts_that_are_late_get_their_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store, numbers = Watched(), itertools.count()
    files = write_files(tmp_path / "source", {f"{number}": 12 * CHUNK_BYTES + 17 for number in range(2)})
    plain = MemoryStore.begin

    def begin(self: MemoryStore, key: str, size: int) -> Any:
        if next(numbers) == 0:  # all others would take what memory there is
            time.sleep(0.5)
        return plain(self, key, size)

    monkeypatch.setattr(MemoryStore, "begin", begin)
    stored = upload(store, files, budget=Budget(memory_bytes=2 * CHUNK_BYTES, first_requests=64))
    download(store, incoming(stored, tmp_path / "target"))
    assert same_content(files, tmp_path / "target")


def test_who_waits_for_a_part_that_fails_ends(monkeypatch: pytest.MonkeyPatch, large: Outgoing) -> None:
    store = Watched()

    def hold() -> None:
        until_nothing_moves(store)
        os.truncate(large.path, 0)

    slow_start(monkeypatch, hold)
    with pytest.raises(SourceChangedError):
        upload(store, [large], budget=Budget(first_requests=64))
    wait_until(lambda: not transfer_threads(), 30, "no thread of the transfer is left")


def test_an_upload_that_obstore_gave_up_is_not_tried_again(monkeypatch: pytest.MonkeyPatch, large: Outgoing) -> None:
    def put(client: Any, path: str, parts: Iterator[bytes], **options: Any) -> None:
        raise GenericError("server error, status code: 503 Service Unavailable")

    monkeypatch.setattr(obstore, "put", put)
    budget, began = Budget(), time.monotonic()
    with pytest.raises(StoreUnavailableError, match="503"):
        upload(MemoryStore(), [large], budget=budget)
    assert time.monotonic() - began < 30
    assert budget.retries == 0
