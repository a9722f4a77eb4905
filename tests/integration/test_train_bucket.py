"""Ray Train runs in a bucket with real signature checks, on a cluster older than the driver's environment."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray import cloudpickle

import ray_anystorage as anystorage
from ray_anystorage import errors
from ray_anystorage.testing.s3_server import S3Server
from tests.harness.ray_cluster import RayCluster, clean_environment
from tests.harness.s3 import artifact_env, keys_of

pytestmark = pytest.mark.needs_ray

DRIVER = """
import json, os, pathlib, sys, tempfile
import ray.train
from ray.train import Checkpoint, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
import ray_anystorage as anystorage

def train(config):
    checkpoint, start = ray.train.get_checkpoint(), 0
    if checkpoint:
        with checkpoint.as_directory() as directory:
            start = json.loads(pathlib.Path(directory, "n.json").read_text())
    for n in range(start + 1, config["until"] + 1):
        with tempfile.TemporaryDirectory() as directory:
            pathlib.Path(directory, "n.json").write_text(json.dumps(n))
            ray.train.report({"n": n, "from": start}, checkpoint=Checkpoint.from_directory(directory))
    return {name: os.environ.get(name) for name in config["show"]}

options = json.loads(sys.argv[1])
config = anystorage.run_config(options["name"], **options["arguments"])
if options.get("without_injection"):
    config.worker_runtime_env["env_vars"] = {}
result = DataParallelTrainer(
    train, train_loop_config={"until": options["until"], "show": options.get("show", [])},
    scaling_config=ScalingConfig(num_workers=1), run_config=config,
).fit()
with result.checkpoint.as_directory() as directory:
    n = json.loads(pathlib.Path(directory, "n.json").read_text())
print("RESULT", json.dumps({"n": n, "from": result.metrics["from"], "path": result.path, "env": result.return_value}))
"""


def run(
    cluster: RayCluster, env: dict[str, str], name: str, *, until: int = 2, expect: int = 0, **options: object
) -> tuple[dict[str, object], str]:
    """Run the driver in a process of its own; returns what it printed as its result, and all its output."""
    options.setdefault("arguments", {"checkpoint_size": "12GB"})
    process = cluster.run_driver(DRIVER, json.dumps({"name": name, "until": until, **options}), env=env)
    output = process.stdout + process.stderr
    assert process.returncode == expect, output[-6000:]
    lines = [line.removeprefix("RESULT ") for line in process.stdout.splitlines() if line.startswith("RESULT ")]
    return (json.loads(lines[-1]) if lines else {}), output


@pytest.fixture
def site(s3_server: S3Server, bucket: str, tmp_path: Path) -> dict[str, str]:
    """Variables of a site whose artifact folder is in the bucket, without any credentials."""
    return {
        **artifact_env(s3_server, f"{bucket}/org/artifacts"),
        "HOME": str(tmp_path),
    }


def everything_in(s3_server: S3Server, bucket: str) -> dict[str, bytes]:
    client = s3_server.client()
    return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in s3_server.keys(bucket)}


def test_keys_asked_for_by_name_reach_workers_and_controller(
    ray_cluster: RayCluster, s3_server: S3Server, bucket: str, site: dict[str, str]
) -> None:
    env = {**site, **keys_of(s3_server), "RAY_ANYSTORAGE_CREDENTIALS": "env"}
    result, output = run(ray_cluster, env, "carried", show=["AWS_ACCESS_KEY_ID", "AWS_REGION"])
    assert result["path"] == f"{bucket}/org/artifacts/carried"
    assert result["env"] == {"AWS_ACCESS_KEY_ID": s3_server.access_key, "AWS_REGION": s3_server.region}
    started = [line for line in output.splitlines() if "run 'carried': artifact storage at s3://" in line]
    assert len(started) == 1
    assert "Credentials: env" in started[0]
    keys = s3_server.keys(bucket)
    assert "org/artifacts/carried/checkpoint_manager_snapshot.json" in keys
    assert len([key for key in keys if key.endswith("/n.json")]) == 2
    assert all(key.startswith("org/artifacts/carried/") for key in keys), "something lies outside the run home"
    again, _ = run(ray_cluster, env, "carried", until=3)
    assert (again["from"], again["n"]) == (2, 3)
    stored = everything_in(s3_server, bucket)
    assert not [key for key, content in stored.items() if s3_server.secret_key.encode() in content]
    assert s3_server.secret_key not in output


def test_without_the_injection_the_run_fails(
    ray_cluster: RayCluster, s3_server: S3Server, site: dict[str, str]
) -> None:
    env = {**site, **keys_of(s3_server), "RAY_ANYSTORAGE_CREDENTIALS": "env"}
    _, output = run(ray_cluster, env, "bare", without_injection=True, expect=1)
    assert "BucketCredentialsError" in output, output[-3000:]


@pytest.mark.soak
def test_a_profile_travels_by_name_and_no_secret_travels_at_all(
    ray_cluster: RayCluster, s3_server: S3Server, bucket: str, site: dict[str, str], tmp_path: Path
) -> None:
    profile = tmp_path / "credentials"
    profile.write_text(
        f"[team]\naws_access_key_id = {s3_server.access_key}\naws_secret_access_key = {s3_server.secret_key}\n"
    )
    profile.chmod(0o600)
    env = {**site, "AWS_PROFILE": "team", "AWS_SHARED_CREDENTIALS_FILE": str(profile)}
    shown = ["AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    result, output = run(ray_cluster, env, "by-reference", show=shown)
    assert result["env"] == {"AWS_PROFILE": "team", "AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}
    assert "org/artifacts/by-reference/checkpoint_manager_snapshot.json" in s3_server.keys(bucket)
    assert s3_server.secret_key not in output


@pytest.mark.soak
def test_a_run_begun_on_a_mount_stays_there_when_a_bucket_appears(
    ray_cluster: RayCluster, s3_server: S3Server, bucket: str, site: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "cluster").mkdir()
    mount = {"RAY_ANYSTORAGE_CLUSTER_STORAGE": str(tmp_path / "cluster"), "HOME": str(tmp_path)}
    run(ray_cluster, mount, "stays", arguments={})
    env = {**site, **mount, **keys_of(s3_server), "RAY_ANYSTORAGE_CREDENTIALS": "env"}
    result, _ = run(ray_cluster, env, "stays", until=3)
    assert (result["from"], result["path"]) == (2, str(tmp_path / "cluster" / "stays"))
    assert s3_server.keys(bucket) == []


@pytest.fixture
def here(site: dict[str, str]) -> Iterator[pytest.MonkeyPatch]:
    """The site's variables in this process, and none of another's; what the test sets is undone."""
    before = dict(os.environ)
    for variable in set(os.environ) - set(clean_environment()):
        del os.environ[variable]
    os.environ.update(site)
    with pytest.MonkeyPatch.context() as patch:
        yield patch
    os.environ.clear()
    os.environ.update(before)


def planted(s3_server: S3Server, here: pytest.MonkeyPatch) -> bytes:
    for name, value in keys_of(s3_server).items():
        here.setenv(name, value)
    return s3_server.secret_key.encode()


def test_a_planted_secret_is_in_no_pickle_but_the_configs_and_there_only_in_env_mode(
    s3_server: S3Server, here: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret = planted(s3_server, here)
    config = anystorage.run_config("planted", tier="artifact", credentials="env")
    context = config.storage_context
    here.setenv("RAY_ANYSTORAGE_CREDENTIALS", "env")
    plan = anystorage.plan("planted", tier="artifact")
    for value in (plan, config.recipe, context, context.storage_filesystem, config.callbacks):
        assert secret not in cloudpickle.dumps(value)
        assert secret.decode() not in repr(value)
    assert secret.decode() not in plan.explain() + json.dumps(plan.to_dict()) + caplog.text
    assert secret in cloudpickle.dumps(config), "in env mode the value travels in the config"
    assert secret.decode() not in repr(config)
    assert "AWS_SECRET_ACCESS_KEY" in plan.secret_names


def test_in_reference_mode_the_config_holds_no_secret(
    s3_server: S3Server, here: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "credentials").write_text(
        f"[default]\naws_access_key_id={s3_server.access_key}\naws_secret_access_key={s3_server.secret_key}\n"
    )
    here.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    config = anystorage.run_config("by-name", tier="artifact")
    assert s3_server.secret_key.encode() not in cloudpickle.dumps(config)
    again = pickle.loads(cloudpickle.dumps(config))
    assert again.recipe == config.recipe
    assert again.storage_context.storage_filesystem == config.storage_context.storage_filesystem


def test_a_wrong_secret_stops_the_run_before_it_starts_and_is_not_shown(
    s3_server: S3Server, here: pytest.MonkeyPatch
) -> None:
    here.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    here.setenv("AWS_SECRET_ACCESS_KEY", "wrong-but-still-private")
    with pytest.raises(errors.WrongSecretError) as raised:
        anystorage.run_config("never", checkpoint_size="12GB", credentials="env")
    assert "wrong-but-still-private" not in str(raised.value) + repr(raised.value)
    assert "RAY_ANYSTORAGE" in str(raised.value) or "secret" in str(raised.value)


def test_a_bucket_that_cannot_be_searched_stops_a_named_run_that_would_go_elsewhere(
    s3_server: S3Server, here: pytest.MonkeyPatch, refused_endpoint: str, tmp_path: Path
) -> None:
    planted(s3_server, here)
    (tmp_path / "cluster").mkdir()
    here.setenv("RAY_ANYSTORAGE_CLUSTER_STORAGE", str(tmp_path / "cluster"))
    here.setenv("RAY_ANYSTORAGE_ENDPOINT", refused_endpoint)
    with pytest.raises(errors.EndpointRefusedError, match="say tier='cluster'"):
        anystorage.run_config("maybe-there", credentials="env")
    with pytest.raises(errors.EndpointRefusedError, match="say tier='cluster'"):
        anystorage.run_config("maybe-there")  # which a broker would serve
    assert anystorage.run_config().storage_path == str(tmp_path / "cluster"), "a run without a name has no earlier one"
    config = anystorage.run_config("maybe-there", credentials="env", tier="cluster")
    assert config.storage_path == str(tmp_path / "cluster")


def test_what_a_credential_process_printed_is_in_no_error(
    s3_server: S3Server, here: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("[default]\ncredential_process = echo planted-in-the-process\n")
    here.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(errors.StorageError, match="credential process") as raised:
        anystorage.run_config("torn-process", tier="artifact")
    assert b"planted-in-the-process" not in pickle.dumps(raised.value)
    assert raised.value.__cause__ is None
    assert isinstance(raised.value, errors.CredentialsNotFoundError)


def test_what_this_package_set_in_the_process_is_not_taken_for_the_users_word(
    s3_server: S3Server, here: pytest.MonkeyPatch
) -> None:
    planted(s3_server, here)
    _ = anystorage.run_config("sets", tier="artifact", credentials="env").storage_context
    for variable in ("RAY_ANYSTORAGE_ENDPOINT", "RAY_ANYSTORAGE_REGION"):
        here.delenv(variable)
    place = anystorage.discover(artifact_storage="s3://company-bucket/x").place("artifact")
    assert place is not None
    assert place.bucket is not None
    assert (place.bucket.endpoint, place.bucket.region) == (None, None)


def test_two_homes_in_mount_and_bucket_are_shown_both(
    s3_server: S3Server, bucket: str, here: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    planted(s3_server, here)
    home = tmp_path / "cluster" / "both"
    home.mkdir(parents=True)
    (home / "checkpoint_manager_snapshot.json").write_text("{}")
    here.setenv("RAY_ANYSTORAGE_CLUSTER_STORAGE", str(tmp_path / "cluster"))
    s3_server.client().put_object(Bucket=bucket, Key="org/artifacts/both/checkpoint_manager_snapshot.json", Body=b"{}")
    with pytest.raises(errors.SeveralHomesError) as raised:
        anystorage.run_config("both", credentials="env")
    assert str(home) in str(raised.value)
    assert f"s3://{bucket}/org/artifacts/both" in str(raised.value)


def test_the_jobs_runtime_env_carries_what_every_process_needs(s3_server: S3Server, here: pytest.MonkeyPatch) -> None:
    planted(s3_server, here)
    merged = anystorage.runtime_env({"env_vars": {"MINE": "1"}, "pip": ["x"]}, credentials="env")
    assert merged["pip"] == ["x"]
    assert merged["env_vars"]["MINE"] == "1"
    assert merged["env_vars"]["AWS_SECRET_ACCESS_KEY"] == s3_server.secret_key
    with pytest.raises(errors.ConfigClashError) as raised:
        anystorage.runtime_env({"env_vars": {"AWS_SECRET_ACCESS_KEY": "other-private"}}, credentials="env")
    assert "AWS_SECRET_ACCESS_KEY" in str(raised.value)
    assert "other-private" not in str(raised.value)
    assert s3_server.secret_key not in str(raised.value)
