"""What becomes of events as spans, as structured log records and as bars."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ray_anystorage import events
from ray_anystorage.checkpoint.node import Node
from ray_anystorage.checkpoint.read import commit
from ray_anystorage.checkpoint.save import Part
from ray_anystorage.checkpoint.saver import Saver
from ray_anystorage.errors import CheckpointCorruptedError
from ray_anystorage.events import Began, Ended, Moved
from ray_anystorage.home.filesystem import HomeFileSystem, HomeRecipe
from ray_anystorage.home.store import HomeStore
from ray_anystorage.origin import Origin
from ray_anystorage.telemetry import spans
from ray_anystorage.transfer.open_store import MountRecipe
from ray_anystorage.transfer.slots import free_slot

SIZE = 9 << 20


@pytest.fixture
def home(tmp_path: Path) -> HomeStore:
    """A run home on a mount, whose transfers run in a thread of their own."""
    (tmp_path / "home").mkdir()
    return HomeStore(HomeFileSystem(HomeRecipe("cluster", str(tmp_path), str(tmp_path / "home"), (), 60)))


def save_and_restore(tmp_path: Path, home: HomeStore) -> None:
    source, node = tmp_path / "source", Node(str(tmp_path / "node"), "s1", 0.5)
    for folder in (source, Path(node.folder)):
        folder.mkdir()
    (source / "file").write_bytes(bytes(SIZE))
    Saver(home, 1 << 40, run=home.uri).save(str(source), Part("one", "a1", 0, 1, 1))
    commit(home, "one", "a1", report=1)
    opened = Origin(MountRecipe(home.root), None, "one", "a1").opened(home, node=node)
    opened.copy_to(str(tmp_path / "back"))
    with opened.directory():
        pass


@pytest.fixture
def exporter() -> Iterator[Any]:
    """What takes the spans of this process."""
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    from opentelemetry import trace as api
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    if not isinstance(api.get_tracer_provider(), trace.TracerProvider):
        api.set_tracer_provider(trace.TracerProvider())
    exporter = InMemorySpanExporter()
    api.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
    yield exporter
    exporter.shutdown()


def test_operations_are_spans_below_the_users_own(tmp_path: Path, home: HomeStore, exporter: Any) -> None:
    from opentelemetry import trace

    with trace.get_tracer("user").start_as_current_span("step"):
        save_and_restore(tmp_path, home)
        assert trace.get_current_span().name == "step", "each is taken off again"
    ended = exporter.get_finished_spans()
    names = {span.context.span_id: span.name for span in ended}
    below = [(span.name, names[span.parent.span_id] if span.parent else None) for span in ended]
    assert below == [
        ("anystorage.upload", "anystorage.save"),
        ("anystorage.save", "step"),
        ("anystorage.commit", "step"),
        ("anystorage.download", "anystorage.restore"),
        ("anystorage.restore", "step"),
        ("anystorage.verify", "anystorage.restore"),
        ("anystorage.restore", "step"),
        ("step", None),
    ]
    assert len({span.context.trace_id for span in ended}) == 1
    upload, save = ended[0], ended[1]
    assert save.start_time <= upload.start_time < upload.end_time <= save.end_time
    assert dict(save.attributes) == {
        "anystorage.checkpoint": "one",
        "anystorage.bytes": SIZE,
        "anystorage.store": "mount",
        "anystorage.detour": False,
        "anystorage.behind": False,
    }
    assert upload.attributes["anystorage.direction"] == "sent"
    assert ended[2].attributes["anystorage.placed"] == "home"
    assert ended[6].attributes["anystorage.source"] == "place"


def test_a_failure_is_told_by_its_class_alone(tmp_path: Path, home: HomeStore, exporter: Any) -> None:
    save_and_restore(tmp_path, home)
    Path(home.root, "one", "file").write_bytes(b"SECRET")
    node = Node(str(tmp_path / "other"), "s2", 0)
    Path(node.folder).mkdir()
    exporter.clear()
    with (
        pytest.raises(CheckpointCorruptedError),
        Origin(MountRecipe(home.root), None, "one", "a1").opened(home, node=node).directory(),
    ):
        pass
    restore = exporter.get_finished_spans()[-1]
    assert (restore.name, restore.status.status_code.name) == ("anystorage.restore", "ERROR")
    assert restore.attributes["error.type"] == "CheckpointCorruptedError"
    assert "SECRET" not in restore.to_json()
    assert "other content" not in restore.to_json(), "what an error says may name anything"
    assert not restore.events


def test_no_span_is_begun_where_nobody_has_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "opentelemetry.trace", raising=False)
    with events.operation("save", checkpoint="one") as under_way:
        assert under_way.began.number not in spans._open
    assert "opentelemetry.trace" not in sys.modules


def test_log_records_carry_fields_for_json(tmp_path: Path, home: HomeStore, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "ray.train.anystorage.events"):
        save_and_restore(tmp_path, home)
    records = [record for record in caplog.records if record.name == "ray.train.anystorage.events"]
    fields = [json.loads(json.dumps(record.anystorage)) for record in records]  # type: ignore[attr-defined]
    assert [one["event"] for one in fields] == ["upload", "save", "commit", "download", "restore", "verify", "restore"]
    upload, save = fields[:2]
    assert upload["within"] == save["operation"]
    assert (save["bytes"], save["store"], save["checkpoint"], save["error"]) == (SIZE, "mount", "one", None)
    assert 0 < upload["seconds"] <= save["seconds"]
    assert records[1].getMessage().startswith("save of checkpoint one ended after ")


class Bar:
    def __init__(self, **what: Any) -> None:
        self.what, self.n, self.closed = what, 0, False

    def update(self, more: int) -> None:
        self.n += more

    def refresh(self) -> None:
        assert self.n == 0

    def close(self) -> None:
        self.closed = True


def test_a_bar_comes_after_five_seconds_and_goes_with_the_transfer() -> None:
    pytest.importorskip("ray")
    from ray_anystorage.train.progress import Bars

    made: list[Bar] = []
    now = 0.0
    bars = Bars("rank 3: ", bar=lambda **what: made.append(Bar(**what)) or made[-1], clock=lambda: now)  # type: ignore[func-returns-value]
    save = Began(1, None, "save", "one", None)
    upload = Began(2, 1, "upload", "one", 100)
    for event in (save, upload, Moved(2, 10)):
        bars.heard(event)
    now = 4.9
    bars.heard(Moved(2, 40))
    assert not made
    now = 5.1
    bars.heard(Moved(2, 50))
    assert [(bar.what, bar.n) for bar in made] == [
        ({"desc": "rank 3: saving one, the last 50 B", "total": 50, "unit": "B"}, 0)
    ]
    bars.heard(Moved(2, 60))
    assert made[0].n == 10
    bars.heard(Moved(2, 130))
    assert made[0].n == 50, "a file that grew is no more than all"
    bars.heard(Moved(2, 60))
    assert not made[0].closed
    bars.heard(Ended(upload, 6.0, None, None))
    assert (made[0].closed, made[0].n) == (True, 50)
    bars.heard(Began(3, None, "upload", None, 100))
    now = 20.0
    bars.heard(Moved(3, 50))
    assert len(made) == 1, "what belongs to no checkpoint has no bar"


def test_some_of_a_nodes_trials_have_bars_whichever_take_long(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from ray_anystorage.train.progress import Bars

    made: list[Bar] = []
    now = 0.0
    name = f"train_fn_ab12_00007_7_{'lr=0.001,' * 20}/checkpoint_000003"
    trials = [
        Bars(
            room=partial(free_slot, str(tmp_path), "bars", most=2),
            bar=lambda **what: made.append(Bar(**what)) or made[-1],  # type: ignore[func-returns-value]
            clock=lambda: now,
        )
        for _ in range(3)
    ]
    upload = Began(1, None, "upload", name, 100)
    for bars in trials:
        bars.heard(upload)
    now = 6.0
    for bars in trials:
        bars.heard(Moved(1, 10))
    assert len(made) == 2
    assert re.fullmatch(r"saving train_fn_ab12_00007\S*…\S*/checkpoint_000003, the last 90 B", made[0].what["desc"])
    trials[0].heard(Ended(upload, 1.0, None, None))
    trials[2].heard(Moved(1, 20))
    assert [bar.what["total"] for bar in made] == [90, 90, 80], "the third has the place of the first"
