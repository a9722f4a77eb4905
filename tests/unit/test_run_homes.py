"""Traces by which a run that exists already is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ray_anystorage.discovery.homes import find_bucket_home, find_mount_homes
from ray_anystorage.environment import BucketAddress, Location, Place, Problem, RunHome, Tier
from ray_anystorage.errors import MountFullError, MountReadOnlyError, MountTimeoutError, NoInodesError


def usable(tier: Tier, root: Path) -> Place:
    return Place(Location(tier, str(root), f"argument {tier}_storage", True), "usable")


@pytest.mark.parametrize(
    "trace",
    [
        "checkpoint_manager_snapshot.json",
        "tuner.pkl",
        "experiment_state-2026-01-01_00-00-00.json",
    ],
)
def test_traces_of_a_run(tmp_path: Path, trace: str) -> None:
    home = tmp_path / "run"
    home.mkdir()
    assert find_mount_homes("run", [usable("user", tmp_path)], 5) == ()
    (home / "notes.txt").touch()
    assert find_mount_homes("run", [usable("user", tmp_path)], 5) == (RunHome("run", "user", str(home), is_run=False),)
    (home / trace).touch()
    assert find_mount_homes("run", [usable("user", tmp_path)], 5) == (RunHome("run", "user", str(home)),)


@pytest.mark.parametrize("beginning", [".validate_storage_marker", ".anystorage"])
def test_a_run_that_began_and_saved_nothing_is_no_home(tmp_path: Path, beginning: str) -> None:
    (tmp_path / "run" / beginning).mkdir(parents=True)
    (tmp_path / "run" / "checkpoint_1").mkdir()
    assert find_mount_homes("run", [usable("user", tmp_path)], 5) == ()


def test_homes_of_several_tiers_and_of_shared_directories(tmp_path: Path) -> None:
    for root in ("a", "b"):
        (tmp_path / root / "run").mkdir(parents=True)
        (tmp_path / root / "run" / "tuner.pkl").touch()
    (tmp_path / "c").symlink_to(tmp_path / "a")
    places = [usable("cluster", tmp_path / "a"), usable("user", tmp_path / "b"), usable("shared", tmp_path / "c")]
    assert [home.tier for home in find_mount_homes("run", places, 5)] == ["cluster", "user"]
    failed = replace(places[0], state="failed")
    assert [home.tier for home in find_mount_homes("run", [failed, places[1]], 5)] == ["user"]
    assert find_mount_homes("other", places, 5) == ()
    assert find_mount_homes("run", [], 5) == ()


def test_file_of_the_runs_name_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    assert [home.is_run for home in find_mount_homes("run", [usable("local", tmp_path)], 5)] == [False]


@pytest.mark.parametrize(
    ("keys", "is_run"),
    [
        ([], None),
        (["f/run/"], None),
        (["f/run/notes.txt"], False),
        (["f/run/data/tuner.pkl"], False),
        (["f/run/", "f/run/.validate_storage_marker"], None),
        (["f/run/.anystorage/x", "f/run/z"], None),
        (["f/run/checkpoint_1/x", "f/run/checkpoint_manager_snapshot.json"], True),
    ],
)
def test_home_in_a_bucket(keys: list[str], is_run: bool | None) -> None:
    def list_keys(prefix: str) -> list[str]:
        assert prefix.startswith("f/run/"), "looked outside of the run's folder"
        return [key for key in keys if key.startswith(prefix)]

    home = find_bucket_home("run", BucketAddress("s3", "b", "f"), list_keys)
    assert home == (None if is_run is None else RunHome("run", "artifact", "s3://b/f/run", is_run=is_run))


def test_a_run_is_found_however_many_checkpoints_come_before_its_state() -> None:
    """A store lists a bounded number of keys, and names of checkpoints sort before that of the snapshot."""
    keys = [f"run/checkpoint_{number:05d}/" for number in range(1000)] + ["run/checkpoint_manager_snapshot.json"]
    home = find_bucket_home(
        "run", BucketAddress("gs", "b", ""), lambda prefix: [key for key in keys if key.startswith(prefix)][:200]
    )
    assert home == RunHome("run", "artifact", "gs://b/run")


def test_a_mount_that_can_only_be_read_is_searched_and_one_that_hangs_is_not(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tuner.pkl").touch()
    place = usable("user", tmp_path)
    for kind, found in ((MountFullError, 1), (MountReadOnlyError, 1), (NoInodesError, 1), (MountTimeoutError, 0)):
        problem = Problem(kind, "is odd", "user", str(tmp_path), "a write", "a look")
        failed = replace(place, state="failed", problem=problem)
        assert len(find_mount_homes("run", [failed], 5)) == found
