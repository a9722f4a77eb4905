"""``ray-anystorage runs NAME --timeline`` after real runs."""

from __future__ import annotations

import json
import sys
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import ray.train
from click.testing import CliRunner
from ray import cloudpickle
from ray.train import ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

import ray_anystorage as anystorage
from ray_anystorage.cli.main import main
from tests.harness.ray_cluster import RayCluster

cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.needs_ray

SIZE = 3 << 20
SET_BY = timedelta(milliseconds=50)  # a machine's clock that is being disciplined is set by less, at any time


def train(config: dict[str, str]) -> None:
    rank = ray.train.get_context().get_world_rank()
    tracer = tracer_into(Path(config["spans"], f"rank-{rank}"))
    for step in range(3):
        with tempfile.TemporaryDirectory() as directory, tracer.start_as_current_span(f"step {step}"):
            Path(directory, f"rank-{rank}").write_bytes(bytes([step]) * SIZE)
            if step < 2:
                anystorage.report({"step": step}, directory)
            else:
                ray.train.report({"step": step}, checkpoint=ray.train.Checkpoint(directory))


def tracer_into(path: Path) -> Any:
    """A tracer of the user's, whose provider writes every span of this process to a file, a line of JSON each."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

    provider = TracerProvider()
    lines = ConsoleSpanExporter(out=path.open("a"), formatter=lambda span: span.to_json(indent=None) + "\n")
    provider.add_span_processor(SimpleSpanProcessor(lines))
    trace.set_tracer_provider(provider)
    return trace.get_tracer("user")


def asked(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["runs", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_runs_checkpoints_carry_their_times(site: Path, ray_cluster: RayCluster, tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.sdk.trace")
    (tmp_path / "spans").mkdir()
    start = datetime.now(timezone.utc)
    DataParallelTrainer(
        train,
        train_loop_config={"spans": str(tmp_path / "spans")},
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5}),
        run_config=anystorage.run_config("timed"),
    ).fit()
    first, second, third = json.loads(asked("timed", "--timeline", "--json"))["timeline"]
    for one in (first, second, third):
        committed = datetime.fromisoformat(one["committed"])
        assert [line["rank"] for line in one["ranks"]] == [0, 1]
        assert (one["world_size"], one["size"], one["problem"]) == (2, 2 * SIZE, None)
        for line in one["ranks"]:
            assert (line["place"], line["size"], line["detour"]) == ("run home", SIZE, None)
            assert 0 <= line["staged"] <= line["begun"] < line["sent"]
            assert at(line) < at(line, "sent")
            assert start - SET_BY < at(line)
            assert at(line, "sent") - SET_BY <= committed < datetime.now(timezone.utc) + SET_BY
    for before, after in zip(first["ranks"], second["ranks"], strict=True):
        assert at(after) < datetime.fromisoformat(first["committed"]), "training went on meanwhile"
        assert at(after, "begun") >= at(before, "sent") - SET_BY, "one after the other"
    assert [line["staged"] for line in third["ranks"]] == [0, 0], "the training waited for it"
    assert sorted(saves_in_ray_trains_logs(ray_cluster)) == sorted(
        2 * [one["checkpoint"] for one in (first, second, third)]
    )
    for rank in (0, 1):
        check_spans(tmp_path / "spans" / f"rank-{rank}", [one["checkpoint"] for one in (first, second, third)])
    shown = asked("timed", "--timeline")
    assert shown.count("rank 0") == shown.count("rank 1") == 3
    assert "█" in shown


def check_spans(path: Path, checkpoints: list[str]) -> None:
    """A worker's spans: one for each save, that of the save which the training waited for below the user's own."""
    spans = [json.loads(line) for line in path.read_text().splitlines()]
    steps = {span["name"]: span["context"]["span_id"] for span in spans if span["name"].startswith("step")}
    saves = {span["attributes"]["anystorage.checkpoint"]: span for span in spans if span["name"] == "anystorage.save"}
    assert set(saves) == set(checkpoints)
    assert saves[checkpoints[2]]["parent_id"] == steps["step 2"]
    for save in saves.values():
        assert save["attributes"]["anystorage.bytes"] == SIZE
        below = [span["name"] for span in spans if span["parent_id"] == save["context"]["span_id"]]
        assert "anystorage.upload" in below


def saves_in_ray_trains_logs(cluster: RayCluster) -> list[str]:
    """Names of the checkpoints that structured records of this run's saves speak of."""
    found = []
    for path in (cluster.directory / "session_latest" / "logs" / "train").glob("ray-train-sys-worker-*.log"):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        fields = [one["anystorage"] for one in records if "anystorage" in one and one["run_name"] == "timed"]
        found += [one["checkpoint"] for one in fields if one["event"] == "save" and one["bytes"] == SIZE]
    return found


def at(line: dict[str, Any], what: str | None = None) -> datetime:
    """An instant; times are kept to the millisecond."""
    seconds = datetime.fromisoformat(line["queued"]).timestamp() + (line[what] if what else 0)
    return datetime.fromtimestamp(round(seconds, 3), timezone.utc)


def test_a_timeline_is_of_one_run() -> None:
    done = CliRunner().invoke(main, ["runs", "--timeline"])
    assert done.exit_code == 2
    assert "say of which run" in done.output
