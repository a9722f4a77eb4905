"""The doctor on real places: a directory, memory file systems, a hung and a dead FUSE mount, a bucket."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path

import pytest

import ray_anystorage as anystorage
from ray_anystorage import errors
from ray_anystorage.credentials.grant import Grant
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.diagnosis.check import Check
from ray_anystorage.diagnosis.node import doctor, measure_mount
from ray_anystorage.diagnosis.report import Report, TierReport
from ray_anystorage.discovery.discover import discover
from ray_anystorage.discovery.mounts import look_at_mount
from ray_anystorage.environment import Environment, Location, Place
from ray_anystorage.testing.s3_server import S3Server
from tests.harness.mounts import fuse, read_only, tmpfs
from tests.harness.ray_cluster import leave_clean

MOUNT_STEPS = ["latency", "small files", "write", "read"]
BUCKET_STEPS = [
    "credentials",
    "list",
    "put",
    "get",
    "delete",
    "latency",
    "conditional put",
    "multipart upload",
    "clock",
]


def look(directory: Path | str, tier: str = "cluster") -> Place:
    return look_at_mount(Location(tier, str(directory), "argument", True), 5.0)  # type: ignore[arg-type]


def grant_of(server: S3Server, secret: str | None = None) -> Grant:
    secrets = {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": secret or server.secret_key}
    return Grant("env", "keys in the environment", "asked for", secrets=Secrets(secrets))


def surroundings(directory: Path | None, server: S3Server | None = None, bucket: str = "") -> Environment:
    """What discovery finds with one mount at most and one bucket at most."""
    roots = {"RAY_ANYSTORAGE_CLUSTER_STORAGE": str(directory)} if directory else {}
    if server is not None:
        roots |= {
            "RAY_ANYSTORAGE_ARTIFACT_STORAGE": f"s3://{bucket}/team",
            "RAY_ANYSTORAGE_ENDPOINT": server.endpoint,
            "RAY_ANYSTORAGE_REGION": server.region,
        }
    found = discover(environ=roots)
    tiers = {*(("cluster",) if directory else ()), *(("artifact",) if server else ())}
    return Environment(tuple(place for place in found.places if place.tier in tiers or place.state == "absent"))


def of(report: Report, tier: str) -> TierReport:
    return next(found for found in report.tiers if found.place.tier == tier)


def names(checks: tuple[Check, ...]) -> list[str]:
    return [check.name for check in checks]


def test_a_directory_and_a_bucket_are_measured_and_left_clean(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    report = doctor(surroundings(tmp_path, s3_server, bucket), grant_of(s3_server))
    assert (report.ok, report.exit_code) == (True, 0), report.to_dict()
    cluster, artifact = of(report, "cluster"), of(report, "artifact")
    assert names(cluster.checks) == MOUNT_STEPS
    assert names(artifact.checks) == BUCKET_STEPS
    assert [check.unit for check in cluster.checks] == ["ms", "files/s", "MB/s", "MB/s"]
    assert all(check.value is not None and check.value > 0 for check in cluster.checks)
    assert list(tmp_path.iterdir()) == []
    assert s3_server.keys(bucket) == []


def test_the_report_is_json_pickles_and_holds_no_secret(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    report = doctor(surroundings(tmp_path, s3_server, bucket), grant_of(s3_server))
    text = json.dumps(report.to_dict())
    assert json.loads(text)["tiers"] == report.to_dict()["tiers"]
    assert pickle.loads(pickle.dumps(report)) == report
    for shown in (text, repr(report), pickle.dumps(report).decode("latin-1")):
        assert s3_server.secret_key not in shown
        assert s3_server.access_key not in shown


def test_absent_tiers_are_listed_and_are_no_failure(tmp_path: Path) -> None:
    absent = Place(Location("user", str(tmp_path / "none"), "default mount", False), "absent")
    report = doctor(Environment((look(tmp_path), absent)), None)
    assert report.exit_code == 0
    assert of(report, "user").ok
    assert not of(report, "user").serves
    assert of(report, "user").checks == ()


def test_a_bucket_that_fails_beside_a_mount_that_serves(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    report = doctor(surroundings(tmp_path, s3_server, bucket), grant_of(s3_server, "not-the-secret-0123456789"))
    assert (report.ok, report.exit_code) == (False, 1)
    problem = of(report, "artifact").problem
    assert problem is not None
    assert problem.error_type is errors.WrongSecretError
    assert names(of(report, "artifact").checks) == ["credentials", "list"]


def test_nothing_that_serves(s3_server: S3Server, bucket: str) -> None:
    report = doctor(surroundings(None, s3_server, bucket), grant_of(s3_server, "not-the-secret-0123456789"))
    assert (report.ok, report.exit_code) == (False, 2)


def test_a_mount_that_discovery_found_broken_is_not_tried(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with read_only(tmp_path / "source", tmp_path / "mount") as mount:
        report = doctor(Environment((look(mount),)), None)
    assert report.exit_code == 2
    assert of(report, "cluster").checks == ()
    problem = of(report, "cluster").problem
    assert problem is not None
    assert problem.error_type is errors.MountReadOnlyError


def test_a_small_memory_file_system_is_measured_within_its_room(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", size="8m") as mount:
        checks = measure_mount(look(mount))
        assert [(check.name, check.ok) for check in checks] == [(name, True) for name in MOUNT_STEPS]
        assert "419 kB" in checks[2].detail  # a twentieth of 8 MiB
        assert list(mount.iterdir()) == []


def test_a_memory_file_system_that_fills_up_while_it_is_measured(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "few", size="8m", inodes=10) as mount:
        checks = measure_mount(look(mount))
        assert [(check.name, check.ok) for check in checks] == [("latency", True), ("small files", False)]
        problem = checks[-1].problem
        assert problem is not None
        assert issubclass(problem.error_type, errors.MountFullError)
        for part in ("cluster storage", str(mount), "write 100 files", "what to do"):
            assert part in str(problem.error())
        assert list(mount.iterdir()) == []


def test_a_fallback_that_is_yet_to_be_made_is_measured_above_it(tmp_path: Path) -> None:
    absent = Location("local", str(tmp_path / "none"), "default mount", False)
    place = look_at_mount(absent, 5.0, fallback=str(tmp_path / "yet" / "to be made"))
    assert place.usable
    assert names(measure_mount(place)) == MOUNT_STEPS
    assert list(tmp_path.iterdir()) == []


def test_a_mount_that_hangs_or_dies_after_discovery(s3_server: S3Server, tmp_path: Path) -> None:
    with fuse(s3_server, tmp_path / "fuse") as mount:
        place = look(mount.directory)
        assert place.usable, place
        assert names(measure_mount(place)) == MOUNT_STEPS
        mount.hang()
        start = time.monotonic()
        (check,) = measure_mount(place, step_timeout=1.0)
        assert time.monotonic() - start < 30
        assert check.problem is not None
        assert check.problem.error_type is errors.MountTimeoutError
        mount.resume()
        mount.die()
        (check,) = measure_mount(place)
        assert check.problem is not None
        assert check.problem.error_type is errors.MountDeadError


@pytest.mark.parametrize(
    ("uri", "looked_for", "remedy"),
    [
        ("abfss://container@account.dfs.core.windows.net/team", "AZURE_", "set AZURE_STORAGE_SAS_TOKEN"),
        ("s3://bucket/team", "AWS_WEB_IDENTITY_TOKEN_FILE", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_a_bucket_without_credentials_cannot_be_tried_and_says_what_would_help(
    uri: str, looked_for: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_clean(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    report = anystorage.doctor(artifact_storage=uri)
    assert isinstance(report, Report)
    assert report.exit_code == 1
    (check,) = next(tier.checks for tier in report.tiers if tier.place.tier == "artifact")
    assert check.problem is not None
    assert looked_for in check.problem.tried
    assert check.problem.remedy.startswith(remedy)
    assert pickle.loads(pickle.dumps(report)) == report
