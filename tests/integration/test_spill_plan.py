"""A run on a mount that may spill into the bucket: ``run_config()`` tries the bucket, and starts without it."""

from __future__ import annotations

import logging
import pickle
import time
from pathlib import Path
from typing import Any

import pytest

import ray_anystorage as anystorage
from ray_anystorage import errors
from ray_anystorage.credentials.agent_address import address_in
from ray_anystorage.policy import Request
from ray_anystorage.recipe import StorageRecipe
from ray_anystorage.resolve import resolve
from ray_anystorage.testing.s3_server import S3Server
from tests.harness.ray_cluster import leave_clean
from tests.harness.s3 import artifact_env, keys_of

WRONG = "planted-secret-0123456789abcdef"
KEYS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


@pytest.fixture
def site(s3_server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Cluster storage and a bucket with good keys; the test spoils one thing."""
    leave_clean(monkeypatch)
    (tmp_path / "cluster").mkdir()
    for name, value in {
        "HOME": str(tmp_path),
        "RAY_ANYSTORAGE_CLUSTER_STORAGE": str(tmp_path / "cluster"),
        **artifact_env(s3_server, f"{bucket}/folder"),
        "RAY_ANYSTORAGE_CREDENTIALS": "env",
        "RAY_ANYSTORAGE_THRESHOLD": "1MB",
        **keys_of(s3_server),
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def planned(name: str | None = None, **arguments: Any) -> tuple[StorageRecipe, dict[str, str]]:
    """The recipe of a run, and the variables that its processes get beside the site's settings."""
    config: Any = anystorage.run_config(name, **arguments)
    variables = config.worker_runtime_env["env_vars"]
    return config.recipe, {key: value for key, value in variables.items() if not key.startswith("RAY_ANYSTORAGE_")}


def stays(caplog: pytest.LogCaptureFixture, *words: str, name: str | None = None, **arguments: Any) -> None:
    """The run is planned on the mount, spills nowhere, carries nothing for the bucket, and says why."""
    start = time.monotonic()
    recipe, variables = planned(name, **arguments)
    assert time.monotonic() - start < 10
    assert (recipe.tier, recipe.spill, recipe.credentials) == ("cluster", None, "none needed")
    assert variables == {}
    warned = " ".join(record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    for word in words:
        assert word in warned
    assert WRONG not in warned


def test_the_workers_get_what_spilling_takes_and_the_check_leaves_nothing(
    site: pytest.MonkeyPatch, s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    recipe, variables = planned("good")
    assert recipe.home.uri == str(tmp_path / "cluster" / "good")
    assert recipe.spill is not None
    assert (recipe.spill.uri, recipe.spill.mode) == (f"s3://{bucket}/folder/spilled", "env")
    assert recipe.threshold == 10**6
    assert variables.keys() > KEYS
    assert variables["AWS_ENDPOINT_URL_S3"] == s3_server.endpoint
    assert s3_server.secret_key.encode() not in pickle.dumps(recipe)
    assert s3_server.keys(bucket) == []


def test_a_bucket_that_may_only_be_read(
    site: pytest.MonkeyPatch, s3_server: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    site.setenv("AWS_ACCESS_KEY_ID", s3_server.readonly_access_key)
    site.setenv("AWS_SECRET_ACCESS_KEY", s3_server.readonly_secret_key)
    stays(caplog, "run 'reader': none of its checkpoints can go to the bucket", "s3:PutObject", name="reader")


def test_a_bucket_that_never_answers(
    site: pytest.MonkeyPatch, silent_endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    site.setenv("RAY_ANYSTORAGE_ENDPOINT", silent_endpoint)
    site.delenv("RAY_ANYSTORAGE_PROBE_TIMEOUT")
    stays(caplog, "none of its checkpoints can go to the bucket", "what to do: ")


def test_a_wrong_secret_stops_a_run_that_may_be_in_the_bucket_and_no_other(
    site: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site.setenv("AWS_SECRET_ACCESS_KEY", WRONG)
    with pytest.raises(errors.WrongSecretError):
        anystorage.run_config("named")
    stays(caplog, "was not searched for an earlier run", name="named", tier="cluster")
    stays(caplog, "none of its checkpoints can go to the bucket", "secret key")


def test_what_the_user_tells_the_workers_wins(site: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    theirs = {"AWS_ACCESS_KEY_ID": "of-their-own", "AWS_REGION": "mars-1"}
    config: Any = anystorage.run_config("theirs", worker_runtime_env={"env_vars": theirs})
    assert config.recipe.spill is None
    assert theirs.items() <= config.worker_runtime_env["env_vars"].items()
    assert "worker_runtime_env says another AWS_ACCESS_KEY_ID and another AWS_REGION than the bucket" in caplog.text
    assert "of-their-own" not in caplog.text


def test_keys_that_nobody_said_may_travel_are_served_by_a_broker(site: pytest.MonkeyPatch) -> None:
    site.setenv("RAY_ANYSTORAGE_CREDENTIALS", "auto")
    found = resolve(Request())
    assert (found.plan.tier, found.plan.spill is not None, found.plan.secret_names) == ("cluster", True, ())
    assert address_in(found.worker_env_vars()) is not None
    assert not KEYS & found.worker_env_vars().keys()
