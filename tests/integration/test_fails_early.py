"""What cannot work is an error of its own from ``run_config()``: before training, in ten seconds, with a remedy."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ray_anystorage as anystorage
from ray_anystorage import errors
from ray_anystorage.testing.s3_server import S3Server
from tests.harness.mounts import fuse, read_only, tmpfs
from tests.harness.ray_cluster import clean_environment

SECRET = "planted-secret-0123456789abcdef"


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """A process without anybody's settings; what the test sets, and what is set below, is undone."""
    before = dict(os.environ)
    for variable in set(os.environ) - set(clean_environment()):
        del os.environ[variable]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path))
        yield patch
    os.environ.clear()
    os.environ.update(before)


def expect(kind: type[errors.StorageError], *words: str, **arguments: object) -> None:
    """``run_config`` raises exactly this error, in time, saying tier, place, what was tried and what to do."""
    start = time.monotonic()
    with pytest.raises(errors.StorageError) as raised:
        anystorage.run_config("early", **arguments)  # type: ignore[arg-type]
    assert time.monotonic() - start < 10
    assert type(raised.value) is kind
    text = str(raised.value)
    for word in (*words, raised.value.tier, raised.value.place, "tried: ", "what to do: "):
        assert word in text
    assert raised.value.tried
    assert raised.value.remedy
    assert SECRET not in text + repr(raised.value)


@pytest.fixture
def cluster(environment: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the site says that cluster storage is; the test puts something there."""
    environment.setenv("RAY_ANYSTORAGE_CLUSTER_STORAGE", str(tmp_path / "cluster"))
    return tmp_path / "cluster"


def test_a_read_only_mount(cluster: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with read_only(tmp_path / "source", cluster):
        expect(errors.MountReadOnlyError, "cluster", str(cluster))


def test_a_full_mount(cluster: Path) -> None:
    with tmpfs(cluster, size="8m"):
        with pytest.raises(OSError, match="No space left"):
            (cluster / "filler").write_bytes(bytes(9 << 20))
        expect(errors.MountFullError, "cluster", str(cluster))


def test_a_mount_without_inodes(cluster: Path) -> None:
    with tmpfs(cluster, size="8m", inodes=4):
        for number in range(3):
            (cluster / f"{number}").touch()
        expect(errors.NoInodesError, "cluster", str(cluster))


def test_a_file_where_the_mount_should_be(cluster: Path) -> None:
    cluster.write_text("not a mount")
    expect(errors.NotADirectoryAtMountError, "cluster", str(cluster))


def test_no_mount_where_the_site_says_there_is_one(cluster: Path) -> None:
    expect(errors.MountMissingError, "cluster", str(cluster))


def test_a_hung_mount_and_a_dead_one(cluster: Path, s3_server: S3Server) -> None:
    with fuse(s3_server, cluster) as mount:
        mount.hang()
        expect(errors.MountTimeoutError, "cluster", str(cluster), "5 s")
        mount.die()
        expect(errors.MountDeadError, "cluster", str(cluster))


@pytest.fixture
def artifact(environment: pytest.MonkeyPatch, s3_server: S3Server, bucket: str) -> pytest.MonkeyPatch:
    """A site with a bucket and good keys; the test spoils one thing."""
    for name, value in {
        "RAY_ANYSTORAGE_ARTIFACT_STORAGE": f"s3://{bucket}/folder",
        "RAY_ANYSTORAGE_ENDPOINT": s3_server.endpoint,
        "RAY_ANYSTORAGE_REGION": s3_server.region,
        "RAY_ANYSTORAGE_CREDENTIALS": "env",
        "AWS_ACCESS_KEY_ID": s3_server.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_key,
    }.items():
        environment.setenv(name, value)
    return environment


def expect_of_bucket(kind: type[errors.StorageError], *words: str) -> None:
    expect(kind, "artifact", "s3://", *words, checkpoint_size="12GB")


def test_good_keys_are_no_error(artifact: pytest.MonkeyPatch, s3_server: S3Server, bucket: str) -> None:
    assert anystorage.run_config("early", checkpoint_size="12GB").storage_path == f"s3://{bucket}/folder"
    assert s3_server.keys(bucket) == [], "the check left something behind"


def test_a_wrong_secret(artifact: pytest.MonkeyPatch) -> None:
    artifact.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    expect_of_bucket(errors.WrongSecretError)


def test_an_unknown_key(artifact: pytest.MonkeyPatch) -> None:
    artifact.setenv("AWS_ACCESS_KEY_ID", "AKNOBODYKNOWS0001")
    artifact.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    expect_of_bucket(errors.UnknownKeyError)


def test_an_expired_session(artifact: pytest.MonkeyPatch, s3_server: S3Server) -> None:
    for name, value in s3_server.session_env(lifetime=-60).items():
        artifact.setenv(name, value)
    expect_of_bucket(errors.ExpiredTokenError)


def test_a_missing_bucket(artifact: pytest.MonkeyPatch) -> None:
    artifact.setenv("RAY_ANYSTORAGE_ARTIFACT_STORAGE", "s3://nobody-made-this/folder")
    expect_of_bucket(errors.BucketMissingError, "nobody-made-this")


def test_a_wrong_region(artifact: pytest.MonkeyPatch, elsewhere_endpoint: str) -> None:
    artifact.setenv("RAY_ANYSTORAGE_ENDPOINT", elsewhere_endpoint)
    expect_of_bucket(errors.WrongRegionError, "RAY_ANYSTORAGE_REGION")


def test_a_refused_endpoint(artifact: pytest.MonkeyPatch, refused_endpoint: str) -> None:
    artifact.setenv("RAY_ANYSTORAGE_ENDPOINT", refused_endpoint)
    expect_of_bucket(errors.EndpointRefusedError, refused_endpoint)


def test_an_endpoint_that_never_answers(artifact: pytest.MonkeyPatch, silent_endpoint: str) -> None:
    artifact.setenv("RAY_ANYSTORAGE_ENDPOINT", silent_endpoint)
    expect_of_bucket(errors.EndpointTimeoutError, silent_endpoint)


def test_keys_that_may_only_read(artifact: pytest.MonkeyPatch, s3_server: S3Server) -> None:
    artifact.setenv("AWS_ACCESS_KEY_ID", s3_server.readonly_access_key)
    artifact.setenv("AWS_SECRET_ACCESS_KEY", s3_server.readonly_secret_key)
    expect_of_bucket(errors.BucketPermissionError, "put")
