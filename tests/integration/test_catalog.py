"""``ray-anystorage runs`` and ``promote``, and what they are made of, on run homes in a directory and in S3."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import ray_anystorage as anystorage
from ray_anystorage import errors, promotion
from ray_anystorage.catalog import Kept
from ray_anystorage.checkpoint.audit import audit
from ray_anystorage.checkpoint.ownership import Owner
from ray_anystorage.checkpoint.quarantine import quarantine
from ray_anystorage.cli.main import main
from ray_anystorage.events import Committed, Ended, Event, listen
from ray_anystorage.transfer.posix_store import PosixStore
from tests.harness.run_homes import FOLDER, SNAPSHOT, Site, site

__all__ = ["site"]


def run(*arguments: str, expect: int = 0) -> str:
    done = CliRunner().invoke(main, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == expect, done.output
    return done.output if expect else done.stdout  # Ray, too, writes into the other, at any time


def run_json(*arguments: str, expect: int = 0) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(run(*arguments, "--json", expect=expect))
    return answer


def files_of(checkpoint: Any) -> dict[str, bytes]:
    with checkpoint.as_directory() as directory:
        return {path.name: path.read_bytes() for path in Path(directory).glob("rank-*")}


@pytest.fixture
def three(site: Site) -> Site:
    """A run on the mount of which the last checkpoint is spilled, one in the bucket, and one of stock Ray's."""
    for tier in ("LOCAL", "USER"):
        site.environment.delenv(f"RAY_ANYSTORAGE_{tier}_STORAGE")
    site.environment.setenv("RAY_ANYSTORAGE_SHARED_STORAGE", str(site.root / "shared"))
    (site.root / "shared").mkdir()
    mount = site.on_mount("on-mount")
    mount.save("checkpoint_1", ranks=2)
    mount.save("checkpoint_2", spilled=True)
    mount.snapshot("checkpoint_1", "checkpoint_2")
    bucket = site.in_bucket("in-bucket")
    bucket.save("checkpoint_1")
    bucket.snapshot("checkpoint_1")
    stock = site.on_mount("stock")
    site.plant(["stock/checkpoint_9/model.bin", "no-run/notes.txt"])
    stock.snapshot("checkpoint_9")
    return site


# --- runs -----------------------------------------------------------------------------------------


def test_runs_of_all_tiers_are_listed_with_what_they_keep(three: Site) -> None:
    answer = run_json("runs", "--metric", "n", "--mode", "max")
    assert answer["not_looked_at"] == []
    listed = {entry["name"]: entry for entry in answer["runs"]}
    assert listed.keys() == {"on-mount", "in-bucket", "stock"}
    shown = {name: (e["tier"], e["kind"], e["kept"], e["size"], e["spilled"]) for name, e in listed.items()}
    assert shown == {
        "on-mount": ("cluster", "train", 2, 300_000, 1),
        "in-bucket": ("artifact", "train", 1, 100_000, 0),
        "stock": ("cluster", "train", 1, len(b"not for deletion"), 0),
    }
    assert listed["in-bucket"]["home"] == f"s3://{three.bucket}/{FOLDER}/in-bucket"
    assert listed["on-mount"]["best"]["checkpoint"] == "checkpoint_2"
    assert listed["stock"]["best"]["state"] == "not verifiable"
    for entry in listed.values():
        age = datetime.now(timezone.utc) - datetime.fromisoformat(entry["saved"])
        assert timedelta(seconds=-5) < age < timedelta(minutes=5)
    text = run("runs", "--metric", "n", "--mode", "min")
    assert [line.split()[:3] for line in text.splitlines() if "checkpoint" not in line][2:] != []
    assert "cluster + bucket" in text


def test_one_run_is_shown_with_its_checkpoints(three: Site) -> None:
    text = " ".join(run("runs", "on-mount", "--metric", "n", "--mode", "min").split())
    assert "checkpoint_1 195.3 KiB run home committed 1 (best) " in text or "checkpoint_1 200" in text, text
    (entry,) = run_json("runs", "on-mount")["runs"]
    assert [(kept["checkpoint"], kept["state"], kept["spilled"]) for kept in entry["checkpoints"]] == [
        ("checkpoint_1", "committed", False),
        ("checkpoint_2", "committed", True),
    ]
    assert [kept["metrics"] for kept in entry["checkpoints"]] == [{"n": 1}, {"n": 2}]


def test_what_the_state_does_not_name_is_counted(site: Site) -> None:
    home = site.on_mount()
    for name in ("checkpoint_1", "checkpoint_2", "inner/run/checkpoint_1"):
        home.save(name)
    home.snapshot("checkpoint_1")
    (entry,) = run_json("runs", "run")["runs"]
    assert (entry["kept"], entry["unnamed"]) == (1, 2)
    assert "Beside them lie 2 that its state does not name" in " ".join(run("runs", "run").split())
    assert any(line.startswith("run ") and " 1 + 2 " in line for line in run("runs", expect=1).splitlines())


def test_what_is_not_good_is_no_best_checkpoint(site: Site) -> None:
    home = site.on_mount()
    home.save("checkpoint_1")
    home.save("checkpoint_2", committed=False)
    home.save("checkpoint_3")
    home.snapshot("checkpoint_1", "checkpoint_2", "checkpoint_3")
    assert anystorage.best_checkpoint("run", "n", "max").path.endswith("/checkpoint_3")
    quarantine(home.store, "checkpoint_3", "a bit flipped")
    (entry,) = run_json("runs", "run", "--metric", "n", "--mode", "max")["runs"]
    assert [kept["state"] for kept in entry["checkpoints"]] == ["committed", "never committed", "damaged"]
    assert (entry["not_good"], entry["best"]["checkpoint"]) == (2, "checkpoint_1")
    assert files_of(anystorage.best_checkpoint("run")) == home.saved["checkpoint_1"]
    with pytest.raises(errors.RequestError, match="metric 'loss'; they have: n"):
        anystorage.best_checkpoint("run", "loss", "min")
    assert "None has a number as metric 'loss'; they have: n" in run("runs", "run", "--metric", "loss", "--mode", "min")
    with pytest.raises(errors.RequestError, match="say which is best, mode 'max'"):
        anystorage.best_checkpoint("run", "n")


def test_a_run_that_cannot_be_read_and_a_bucket_that_is_not_reached_keep_nobody_from_the_others(three: Site) -> None:
    (three.cluster / "stock" / SNAPSHOT).write_text("{")
    answer = run_json("runs", expect=1)
    problems = {entry["name"]: entry["problem"] for entry in answer["runs"]}
    assert "is torn" in problems.pop("stock")
    assert problems == {"on-mount": None, "in-bucket": None}
    three.environment.delenv("AWS_ACCESS_KEY_ID")
    three.environment.delenv("AWS_SECRET_ACCESS_KEY")
    answer = run_json("runs", expect=1)
    assert {entry["name"] for entry in answer["runs"]} == {"on-mount", "stock"}
    (note,) = answer["not_looked_at"]
    assert note.startswith("artifact storage was not looked at")


# --- promote --------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["on-mount", "in-bucket"])
@pytest.mark.parametrize("to", ["shared", "artifact"])
def test_a_copy_is_a_run_of_its_own_and_the_original_stays(three: Site, source: str, to: str) -> None:
    before = three.everything()
    made = run_json("promote", source, "--to", to, "--as", "for-the-team")
    origin = anystorage.best_checkpoint(source)
    root = str(three.root / "shared") if to == "shared" else f"s3://{three.bucket}/{FOLDER}"
    assert made["copy"].startswith(f"{root}/for-the-team/checkpoint_")
    assert made["source"].endswith(f"/{source}/{Path(made['copy']).name}")
    copy = anystorage.Checkpoint(made["copy"])
    assert copy.contents().verifiable
    assert files_of(copy) == files_of(origin)
    assert {f.path: f.digest for f in copy.contents().files} == {f.path: f.digest for f in origin.contents().files}
    result = anystorage.results("for-the-team")
    assert result.checkpoint.path.endswith(f"/for-the-team/{Path(made['copy']).name}")
    assert "n" in result.metrics
    run("verify", "for-the-team")
    assert before.items() <= three.everything().items()


def test_the_best_is_chosen_and_one_that_is_named_is_taken(three: Site) -> None:
    assert anystorage.promote("on-mount", to="shared", metric="n", mode="min").checkpoint == "checkpoint_1"
    named = anystorage.promote("on-mount", to="shared", checkpoint="checkpoint_2", name="second")
    assert (named.checkpoint, named.run.name, named.size) == ("checkpoint_2", "second", 100_000)
    assert anystorage.results("on-mount-promoted").metrics == {"n": 1}


def test_what_stock_ray_stored_can_be_verified_once_it_is_promoted(three: Site) -> None:
    made = anystorage.promote("stock", to="artifact")
    assert anystorage.Checkpoint(made.uri).contents().verifiable


def test_names_that_are_taken_and_tiers_that_are_not_there_are_refused(three: Site) -> None:
    for name in ("on-mount", "in-bucket", "no-run"):
        with pytest.raises(errors.NameTakenError, match="exists already: choose another name"):
            anystorage.promote("on-mount", to="shared", name=name)
    with pytest.raises(errors.TierUnavailableError, match="user storage cannot take it"):
        anystorage.promote("on-mount", to="user")
    with pytest.raises(errors.RequestError, match="keeps no checkpoint 'x'; the last that it keeps: checkpoint_1"):
        anystorage.promote("on-mount", to="shared", checkpoint="x")
    assert list((three.root / "shared").iterdir()) == []


def test_a_damaged_original_is_not_copied(three: Site) -> None:
    path = three.cluster / "on-mount" / "checkpoint_1" / "rank-0.bin"
    path.write_bytes(os.urandom(path.stat().st_size))
    with pytest.raises(errors.CheckpointCorruptedError, match=r"rank-0\.bin"):
        anystorage.promote("on-mount", to="shared", checkpoint="checkpoint_1")
    assert not (three.root / "shared" / "on-mount-promoted" / SNAPSHOT).exists()


@pytest.mark.parametrize("to", ["shared", "artifact"])
def test_a_copy_that_was_interrupted_can_be_made_again_or_pruned(
    three: Site, monkeypatch: pytest.MonkeyPatch, to: Any
) -> None:
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(promotion, "commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            anystorage.promote("on-mount", to=to)
    root = str(three.root / "shared") if to == "shared" else f"s3://{three.bucket}/{FOLDER}"
    (left,) = run_json("prune", f"{root}/on-mount-promoted", "--dry-run")["found"]
    assert left["name"].startswith("checkpoint_2")
    made = anystorage.promote("on-mount", to=to)
    assert files_of(anystorage.Checkpoint(made.uri)) == files_of(anystorage.best_checkpoint("on-mount"))


def test_a_run_that_has_begun_and_saved_nothing_yet_is_not_written_into(three: Site) -> None:
    home = three.in_bucket("fresh")
    Owner(home.store, "0123456789abcdef", "a controller of somebody's").take()
    with pytest.raises(errors.NameTakenError, match="belongs to a run that has begun"):
        anystorage.promote("on-mount", to="artifact", name="fresh")


def test_a_run_that_begins_meanwhile_keeps_its_state(three: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = PosixStore(str(three.root / "shared" / "on-mount-promoted"))

    def begun_meanwhile(*arguments: Any, **options: Any) -> Any:
        Owner(mount, "0123456789abcdef", "a controller of somebody's").take()
        return audit(*arguments, **options)

    monkeypatch.setattr(promotion, "audit", begun_meanwhile)
    with pytest.raises(errors.RunTakenOverError, match="a controller of somebody's"):
        anystorage.promote("on-mount", to="shared")
    assert not (three.root / "shared" / "on-mount-promoted" / SNAPSHOT).exists()


def test_one_checkpoint_that_is_torn_or_gone_keeps_nobody_from_the_others(site: Site) -> None:
    home = site.on_mount()
    for name in ("checkpoint_1", "checkpoint_2", "checkpoint_3"):
        home.save(name)
    home.snapshot("checkpoint_1", "checkpoint_2", "checkpoint_3", "checkpoint_4")
    (site.cluster / "run" / "checkpoint_3" / ".anystorage" / "commit.json").write_text("{")
    (entry,) = run_json("runs", "run", "--metric", "n", "--mode", "max")["runs"]
    assert [kept["state"] for kept in entry["checkpoints"]] == ["committed", "committed", "damaged", "gone"]
    assert files_of(anystorage.best_checkpoint("run")) == home.saved["checkpoint_2"]
    assert anystorage.best_checkpoint("run", "n", "max").path.endswith("/checkpoint_2")


def test_metrics_are_numbers_of_whatever_kind_and_place() -> None:
    metrics = {"a": np.float32(0.5), "b": {"c": np.int64(3)}, "d": float("nan"), "e": True, "f": "1", "g": np.arange(3)}
    kept = Kept("checkpoint_1", 0, "committed", spilled=False, metrics=metrics)
    assert {name: kept.number(name) for name in ("a", "b/c", "d", "e", "f", "g", "x", "b/x")} == {
        "a": 0.5, "b/c": 3.0, "d": None, "e": None, "f": None, "g": None, "x": None, "b/x": None,
    }  # fmt: skip
    plain = json.loads(json.dumps(promotion._plain(metrics)))
    assert (plain["a"], plain["b"], plain["g"]) == (0.5, {"c": 3.0}, "[0 1 2]")


def test_a_timeline_of_what_has_no_times_says_where_the_data_lies(site: Site) -> None:
    home, heard = site.on_mount("untimed"), list[Event]()
    stop = listen(heard.append)
    home.save("checkpoint_1", ranks=2)
    home.save("checkpoint_2", spilled=True)
    home.save("checkpoint_3", spilled=True, detour="the run home failed: no space")
    stop()
    commits = [event.outcome for event in heard if isinstance(event, Ended) and event.began.what == "commit"]
    assert commits == [Committed("home", 200_000), Committed("routed", 100_000), Committed("fallen_back", 100_000)]
    home.save("checkpoint_4")
    PosixStore(home.store.root).delete(["checkpoint_4/.anystorage/commit.json"])  # type: ignore[attr-defined]
    home.snapshot(*(f"checkpoint_{number}" for number in (1, 2, 3, 4)))
    *saved, never = run_json("runs", "untimed", "--timeline")["timeline"]
    assert [[(line["place"], line["detour"]) for line in one["ranks"]] for one in saved] == [
        [("run home", None), ("run home", None)],
        [("bucket", None)],
        [("bucket", "the run home failed: no space")],
    ]
    assert {line["queued"] for one in saved for line in one["ranks"]} == {None}
    assert all(one["committed"] for one in saved)
    assert "never committed" in never["problem"]
    assert "Nothing is known of when" in run("runs", "untimed", "--timeline")
