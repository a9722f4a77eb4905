"""What the engine, saves and restores tell of themselves, and what becomes of it as metrics."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_anystorage import events
from ray_anystorage.checkpoint.cache import NodeCache
from ray_anystorage.checkpoint.node import Node
from ray_anystorage.checkpoint.read import commit
from ray_anystorage.checkpoint.save import Part
from ray_anystorage.checkpoint.saver import Saver
from ray_anystorage.errors import ObjectMissingError
from ray_anystorage.events import (
    Began,
    Committed,
    Ended,
    Event,
    Moved,
    Outcome,
    Restored,
    Saved,
    Staged,
    Transferred,
    What,
)
from ray_anystorage.origin import Origin
from ray_anystorage.transfer.digest import CHUNK_BYTES
from ray_anystorage.transfer.engine import download, upload
from ray_anystorage.transfer.files import Incoming, Outgoing
from ray_anystorage.transfer.open_store import MountRecipe
from ray_anystorage.transfer.posix_store import PosixStore

SIZE = 9 << 20


def outcomes(heard: list[Event], *kinds: type) -> list[Outcome | None]:
    return [event.outcome for event in heard if isinstance(event, Ended) and isinstance(event.outcome, kinds)]


@pytest.fixture
def heard() -> Iterator[list[Event]]:
    found: list[Event] = []
    stop = events.listen(found.append)
    yield found
    stop()


def test_a_transfer_tells_what_it_moved(tmp_path: Path, heard: list[Event]) -> None:
    (tmp_path / "file").write_bytes(bytes(SIZE))
    store = PosixStore(str(tmp_path / "store"))
    upload(store, [Outgoing(str(tmp_path / "file"), "a", SIZE)])
    download(store, [Incoming("a", str(tmp_path / "back"), SIZE)])
    with pytest.raises(ObjectMissingError):
        download(store, [Incoming("none", str(tmp_path / "none"), SIZE)])
    assert [(e.outcome, e.error) for e in heard if isinstance(e, Ended)] == [
        (Transferred("sent", "mount", SIZE, 0, 0), None),
        (Transferred("fetched", "mount", SIZE, 0, 0), None),
        (Transferred("fetched", "mount", 0, 0, 0), "ObjectMissingError"),
    ]
    assert len(heard) == 6, "two events for each call, however many files and requests"


def test_saves_and_restores_tell_where(tmp_path: Path, heard: list[Event]) -> None:
    source, home = tmp_path / "source", MountRecipe(str(tmp_path / "home"))
    source.mkdir()
    (source / "file").write_bytes(bytes(SIZE))
    cache = NodeCache(str(tmp_path / "node" / "cache"), share=0.5)
    Saver(home.open(), 1 << 40, cache=cache, run=home.uri).save(str(source), Part("one", "a1", 0, 1, 1))
    commit(home.open(), "one", "a1", report=1)
    assert outcomes(heard, Saved, Committed) == [Saved("mount", SIZE, False, False), Committed("home", SIZE)]
    for node in (Node(str(tmp_path / "node"), "s1", 0.5), Node(str(tmp_path / "other"), "s2", 0.5)):
        Path(node.folder).mkdir(exist_ok=True)
        with Origin(home, None, "one", "a1").opened(node=node).directory():
            pass
    assert outcomes(heard, Restored) == [Restored("cache", SIZE), Restored("place", SIZE)]
    began = {e.number: e for e in heard if isinstance(e, Began)}
    parts = [(e.what, began[e.within].what if e.within else None, e.checkpoint) for e in began.values()]
    assert parts == [
        ("save", None, "one"),
        ("upload", "save", "one"),
        ("commit", None, "one"),
        ("restore", None, "one"),
        ("restore", None, "one"),
        ("verify", "restore", "one"),
    ]


def test_reading_a_file_of_a_checkpoint_tells_each_chunk_that_is_fetched(tmp_path: Path, heard: list[Event]) -> None:
    source, home = tmp_path / "source", MountRecipe(str(tmp_path / "home"))
    source.mkdir()
    (source / "file").write_bytes(bytes(SIZE))
    Saver(home.open(), 1 << 40).save(str(source), Part("one", "a1", 0, 1, 1))
    commit(home.open(), "one", "a1", report=1)
    heard.clear()
    with Origin(home, None, "one", "a1").opened(node=Node(str(tmp_path / "node"), "s1", 0.5)).open("file") as file:
        file.seek(SIZE - 5)
        assert file.read(1) == b"\0"
        file.seek(0)
        assert file.read() == bytes(SIZE)
    fetched = [Transferred("fetched", "mount", size, 0, 0) for size in (SIZE - CHUNK_BYTES, CHUNK_BYTES)]
    assert outcomes(heard, Transferred) == [*fetched, fetched[0]]


def test_a_listener_that_fails_ends_nothing(heard: list[Event], caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: Event) -> None:
        raise RuntimeError("no room")

    stop = events.listen(fail)
    with caplog.at_level(logging.ERROR):
        events.tell(Moved(1, 1))
    stop()
    events.tell(Moved(1, 2))
    assert heard == [Moved(1, 1), Moved(1, 2)]
    assert caplog.text.count("RuntimeError: no room") == 1


def test_metrics_count_events_under_labels_of_few_values() -> None:
    pytest.importorskip("ray")
    from ray_anystorage.train.metrics import Metrics

    class Fake:
        def __init__(self) -> None:
            self.said: list[tuple[float, dict[str, str]]] = []

        def inc(self, amount: float, tags: dict[str, str]) -> None:
            self.said.append((amount, tags))

        observe = inc

    parts: dict[str, Any] = {name: Fake() for name in Metrics.__slots__ if name != "tier"}
    metrics = Metrics("cluster", **parts)

    def hear(what: What, seconds: float, outcome: Outcome | None, error: str | None = None) -> None:
        began = Began(1, None, what, "one", None)
        metrics.heard(began)
        metrics.heard(Ended(began, seconds, error, outcome))

    hear("upload", 2.0, Transferred("sent", "bucket", 100, 3, 1), "StorageError")
    hear("save", 1.0, Saved("mount", 50, detour=True, behind=True))
    hear("stage", 0.001, Staged(50, copied=False))
    hear("commit", 0.1, Committed("routed", 50))
    hear("restore", 0.1, Restored("cache", 50))
    by_way = {"tier": "cluster", "direction": "sent", "store": "bucket"}
    said = {name: fake.said for name, fake in parts.items()}
    assert said["transferred"] == [(100, by_way)]
    assert [said[name][0][0] for name in ("transfer_seconds", "retries", "throttles")] == [2.0, 3, 1]
    assert said["failures"] == [(1, {"tier": "cluster", "operation": "upload"})]
    assert said["saved"] == [(50, {"tier": "cluster", "store": "mount", "detour": "true"})]
    assert said["stall_seconds"] == [(0.001, {"tier": "cluster", "how": "moved"})]
    assert said["committed"] == [(1, {"tier": "cluster", "placed": "routed"})]
    assert said["restored"] == [(50, {"tier": "cluster", "source": "cache"})]
    assert all(len(values) == 1 for values in said.values())
    hear("save", 1.0, Saved("mount", 0, detour=True, behind=False))
    assert said["stall_seconds"][1:] == [(1.0, {"tier": "cluster", "how": "waited"})]
    assert len(said["saved"]) == 1, "Ray's counters refuse a zero"
