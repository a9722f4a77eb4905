"""Credentials that only the driver has, in real runs: who gets them, where they are never found, and what is left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
from ray import cloudpickle
from ray.train import Checkpoint, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

import ray_anystorage as anystorage
from ray_anystorage import errors
from ray_anystorage.cluster.broker import ensure_agent
from ray_anystorage.cluster.vault import NAMESPACE, Vault, on_node, vault_name
from ray_anystorage.credentials.agent import Agent
from ray_anystorage.credentials.agent_address import AZURE_VARIABLE, HOST, AgentAddress, address_in, new_address
from ray_anystorage.credentials.broker import own_broker
from ray_anystorage.credentials.choose import choose
from ray_anystorage.credentials.lease import Lease
from ray_anystorage.credentials.memory_folder import memory_root
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.diagnosis.bucket import check_bucket
from ray_anystorage.environment import BucketAddress
from ray_anystorage.testing.s3_server import S3Server
from ray_anystorage.testing.s3_sessions import ROLE
from ray_anystorage.transfer.agent_file import AgentFile
from ray_anystorage.transfer.pyarrow_fs import FileSystemRecipe, RecipeS3FileSystem, StoreFileSystem, build
from tests.harness.ray_cluster import RayCluster, clean_environment, leave_clean
from tests.harness.s3 import artifact_env, keys_of
from tests.harness.waiting import wait_until

cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.needs_ray

DRIVER = """
import json, os, pathlib, sys, tempfile, time
import ray, ray.data, ray.train
from ray import cloudpickle
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_list
from ray.train import Checkpoint, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
import ray_anystorage as anystorage

folder, bucket = pathlib.Path(sys.argv[1]), sys.argv[2]

def put(key):
    import s3fs
    s3fs.S3FileSystem(skip_instance_cache=True).pipe(f"{bucket}/{key}", b"hello")
    return key

def train(config):
    for number in range(2):
        directory = tempfile.mkdtemp()
        pathlib.Path(directory, "n").write_text(str(number))
        ray.train.report({"n": number}, checkpoint=Checkpoint.from_directory(directory))
        (folder / "here").touch()
        while not (folder / "go").exists():
            time.sleep(0.02)
    return sorted(name for name in os.environ if name.startswith("AWS_"))

def records():
    '''Everything that Ray's state answers are made of.'''
    from ray._private.state import state
    accessor = state._connect_and_get_accessor()
    tables = [accessor.get_actor_table(None, None), accessor.get_job_table(), accessor.get_worker_table(),
              accessor.get_task_events()]
    assert all(tables)
    values = [row if isinstance(row, bytes) else str(row).encode() for table in tables for row in table]
    for namespace in (None, "fun", "session", "job", "tracing"):
        keys = _internal_kv_list("", namespace=namespace)
        values += [_internal_kv_get(key, namespace=namespace) or b"" for key in keys]
    return b"|".join(values)

ray.init(runtime_env=anystorage.runtime_env(), logging_level="WARNING")
config = anystorage.run_config("kept", checkpoint_size="12GB")
token_file = config.worker_runtime_env["env_vars"]["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]
(folder / "served").write_text(os.path.dirname(token_file))
(folder / "config").write_bytes(cloudpickle.dumps(config) + repr(config).encode())
trainer = DataParallelTrainer(train, scaling_config=ScalingConfig(num_workers=1), run_config=config)
result = trainer.fit()
ray.get(ray.remote(put).remote("by-a-function"))
ray.data.from_items(["by-data"]).map(lambda row: {"key": put(row["item"])}).take_all()
with result.checkpoint.as_directory() as directory:
    number = pathlib.Path(directory, "n").read_text()
(folder / "records").write_bytes(records())
print("RESULT", json.dumps({"n": number, "names": result.return_value}))
"""


@pytest.fixture
def site(s3_server: S3Server, bucket: str, tmp_path: Path) -> dict[str, str]:
    """Variables of a site whose artifact folder is in the bucket, with keys for the driver."""
    return {
        **artifact_env(s3_server, f"{bucket}/org/artifacts"),
        "HOME": str(tmp_path),
        **keys_of(s3_server),
    }


@contextlib.contextmanager
def running(cluster: RayCluster, site: dict[str, str], folder: Path, bucket: str) -> Iterator[subprocess.Popen[str]]:
    """The driver, when its run is under way and has saved a checkpoint; ``go`` in the folder lets it end."""
    with (folder / "out").open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(folder), bucket],
            env=clean_environment({"RAY_ADDRESS": cluster.address, **site}),
            cwd="/tmp",
            stdout=out,
            stderr=out,
            text=True,
        )
    try:
        wait_until(
            lambda: (folder / "here").exists() or process.poll() is not None, 90, "the run has saved a checkpoint"
        )
        assert process.poll() is None, (folder / "out").read_text()[-5000:]
        yield process
    finally:
        process.kill()
        process.wait()


def processes_that_show(secret: str) -> set[int]:
    """Those with the secret in their environment or on their command line."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and secret.encode() in b"".join(
                (entry / name).read_bytes() for name in ("environ", "cmdline")
            ):
                found.add(int(entry.name))
    return found


def files_that_hold(secret: str, *roots: Path) -> list[Path]:
    found = []
    for path in (path for root in roots for path in root.rglob("*") if path.is_file()):
        with contextlib.suppress(FileNotFoundError):
            if secret.encode() in path.read_bytes():
                found.append(path)
    return found


def own_folders() -> list[Path]:
    return list(Path(memory_root()).glob("anystorage-[0-9][0-9][0-9][0-9][0-9]-*"))


def served_by(folder: Path) -> Path:
    """The folder of the driver's agent; other brokers of this machine, of tests beside these, have theirs."""
    served = Path((folder / "served").read_text())
    assert served in own_folders()
    return served


def guardians(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and str(folder).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def test_keys_of_the_driver_serve_a_run_and_are_found_nowhere(
    ray_cluster: RayCluster, s3_server: S3Server, bucket: str, site: dict[str, str], tmp_path: Path
) -> None:
    # Keys of its own: what others do with the server's, in the same cluster, is not of interest here.
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    session = s3_server.session_env(lifetime=3600)
    secret = session["AWS_SECRET_ACCESS_KEY"]
    with running(ray_cluster, site | {name: session[name] for name in keys}, tmp_path, bucket) as driver:
        assert processes_that_show(secret) == {driver.pid}
        served = served_by(tmp_path)
        assert files_that_hold(secret, served) == []
        (tmp_path / "go").touch()
        driver.wait(90)
    output = (tmp_path / "out").read_text()
    assert driver.returncode == 0, output[-5000:]
    (result,) = [json.loads(line[7:]) for line in output.splitlines() if line.startswith("RESULT ")]
    assert result["n"] == "1"
    assert "AWS_CONTAINER_CREDENTIALS_FULL_URI" in result["names"]
    assert not set(keys) & set(result["names"])
    assert {"by-a-function", "by-data"} <= set(s3_server.keys(bucket))
    assert files_that_hold(secret, ray_cluster.directory, tmp_path) == []
    client = s3_server.client()
    stored = {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in s3_server.keys(bucket)}
    assert [key for key, content in stored.items() if secret.encode() in content] == []
    records = (tmp_path / "records").read_bytes()
    assert b"AWS_CONTAINER_CREDENTIALS_FULL_URI" in records, "the control: what travels is in the records"
    assert secret not in output
    assert not served.exists()
    wait_until(lambda: guardians(served) == [], 30, "the guardian has ended")


def test_a_driver_that_is_killed_leaves_nothing(
    ray_cluster: RayCluster, bucket: str, site: dict[str, str], tmp_path: Path, driver: None
) -> None:
    with running(ray_cluster, site, tmp_path, bucket) as process:
        served = served_by(tmp_path)
        vault = ray.get_actor(vault_name(served.name.partition("-")[2]), namespace=NAMESPACE)
        process.send_signal(signal.SIGKILL)
        wait_until(lambda: not served.exists(), 30, "the files are removed")
        wait_until(lambda: guardians(served) == [], 30, "the guardian has ended")
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(vault.after.remote(0), timeout=30)


TUNER = """
import json, os, pathlib, sys, tempfile
import ray
from ray import tune
import ray_anystorage as anystorage

def trial(config):
    import botocore.session
    found = botocore.session.Session().get_credentials()
    inner = anystorage.run_config("inner", checkpoint_size="12GB")
    directory = tempfile.mkdtemp()
    pathlib.Path(directory, "n").write_text(str(config["n"]))
    metrics = {"method": found.method, "inner": inner.worker_runtime_env["env_vars"], "why": inner.recipe.credentials}
    tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(directory))

ray.init(logging_level="WARNING")
config = anystorage.tune_run_config("tuned", checkpoint_size="12GB")
results = tune.Tuner(trial, param_space={"n": tune.grid_search([1, 2])}, run_config=config).fit()
assert not results.errors, results.errors
print("RESULT", json.dumps([results[0].metrics[name] for name in ("method", "inner", "why")]))
"""


def test_trials_are_served_and_so_are_the_runs_that_start_in_them(
    ray_cluster: RayCluster, s3_server: S3Server, bucket: str, site: dict[str, str]
) -> None:
    done = ray_cluster.run_driver(TUNER, env=site)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-5000:]
    (line,) = [line[7:] for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    method, inner, why = json.loads(line)
    assert method == "container-role", "Tune hands on the keys of the driver's environment by itself"
    assert address_in(inner) is not None
    assert why.startswith("ambient: container credentials served at 127.0.0.1")
    assert len([key for key in s3_server.keys(bucket) if key.endswith("/n")]) == 2
    client = s3_server.client()
    stored = {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in s3_server.keys(bucket)}
    assert [key for key, content in stored.items() if s3_server.secret_key.encode() in content] == []
    assert not Path(inner["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]).parent.exists()


# --- the agents of nodes other than the driver's -----------------------------------------------------


@pytest.fixture
def address() -> AgentAddress:
    free, held = new_address(memory_root())
    held.close()
    return free


@contextlib.contextmanager
def vault_of(address: AgentAddress) -> Iterator[Any]:
    """The vault of a broker whose driver runs no agent itself, so that this node gets one like any other."""
    node = ray.get_runtime_context().get_node_id()
    options = {"name": vault_name(address.broker), "namespace": NAMESPACE, "max_concurrency": 100}
    vault = ray.remote(Vault).options(**on_node(node), **options).remote(address, "")
    try:
        yield vault
    finally:
        ray.kill(vault)


def keys(number: int) -> dict[str, Any]:
    return Lease("aws", Secrets({"AccessKeyId": f"A{number}", "SecretAccessKey": "s"})).to_message()


def given(address: AgentAddress) -> str:
    """The access key that a worker of the job gets."""

    def ask() -> str:
        import botocore.session

        ensure_agent(address.variables("aws"))
        return str(botocore.session.Session().get_credentials().access_key)

    options = {"num_cpus": 0, "runtime_env": {"env_vars": address.variables("aws")}}
    return str(ray.get(ray.remote(ask).options(**options).remote(), timeout=60))


def listener(address: AgentAddress) -> int:
    """The process that listens at the address."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            sockets = {os.readlink(file) for file in (entry / "fd").iterdir()}
            if f"socket:[{_inode(address.port)}]" in sockets:
                return int(entry.name)
    raise AssertionError("nobody listens")


def _inode(port: int) -> str:
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return next(fields[9] for fields in lines if fields[1] == f"0100007F:{port:04X}" and fields[3] == "0A")


def test_a_nodes_agent_follows_the_vault_comes_back_and_ends_with_it(driver: None, address: AgentAddress) -> None:
    with vault_of(address) as vault:
        ray.get(vault.put.remote("the-token", keys(1)))
        assert given(address) == "A1"
        ray.get(vault.put.remote("the-token", keys(2)))
        wait_until(lambda: given(address) == "A2", 30, "the agent gives the second lease")
        first = listener(address)
        os.kill(first, signal.SIGKILL)
        wait_until(address.serves, 60, "the agent is back")
        assert listener(address) != first
        assert given(address) == "A2"
    wait_until(lambda: not Path(address.folder).exists(), 30, "its files are gone")
    assert address.ask()[0] == 0


def test_a_nodes_agent_keeps_azures_file_up_to_date(driver: None, address: AgentAddress) -> None:
    variables = address.variables("azure")

    def signed() -> str:
        ensure_agent(variables)
        return str(AgentFile(variables[AZURE_VARIABLE])()["sas_token"])

    asked = ray.remote(signed).options(num_cpus=0, runtime_env={"env_vars": variables})
    with vault_of(address) as vault:
        for sas in ("sig=1", "sig=2"):
            ray.get(vault.put.remote("the-token", Lease("azure", Secrets({"sas_token": sas})).to_message()))
            wait_until(lambda sas=sas: ray.get(asked.remote(), timeout=60) == sas, 30, f"the file holds {sas}")
    wait_until(lambda: not Path(address.folder).exists(), 30, "its files are gone")


def test_a_port_that_is_taken_on_a_node_is_named_there(driver: None, address: AgentAddress) -> None:
    import socket

    with socket.create_server((HOST, address.port)) as taken, vault_of(address) as vault:
        ray.get(vault.put.remote("the-token", keys(1)))
        with pytest.raises(errors.CredentialsAgentError, match=f"port {address.port} of {HOST} on node"):
            given(address)
        taken.close()
        wait_until(address.serves, 30, "the agent has the port now that it is free")


def test_nodes_that_share_a_host_share_its_agent(driver: None, address: AgentAddress) -> None:
    other = Agent(address, "the-token")
    other.start()
    other.take(Lease.from_message(keys(7)))
    with vault_of(address) as vault:
        ray.get(vault.put.remote("the-token", keys(1)))
        ray.get(vault.agent_on.remote(ray.get_runtime_context().get_node_id()), timeout=30)
        assert given(address) == "A7"
        other.close()
        wait_until(address.serves, 30, "the node's own agent has taken over")
        assert given(address) == "A1"


def test_without_its_driver_a_broker_is_gone(driver: None, address: AgentAddress) -> None:
    with pytest.raises(errors.CredentialsAgentError, match="ends with the driver that started it"):
        given(address)


def test_the_doctor_asks_all_nodes_with_what_a_broker_gives_them(
    driver: None, site: dict[str, str], s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(site, monkeypatch)
    report = anystorage.doctor(cluster=True)
    (group,) = report.groups
    assert {tier.place.tier for tier in group.tiers if tier.serves} >= {"artifact"}, report.problems
    assert "broker" in report.credentials
    assert s3_server.secret_key not in json.dumps(report.to_dict()) + repr(report)


def test_keys_that_pyarrow_would_prefer_do_not_get_in_the_way(
    site: dict[str, str], s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = {"access_key_id": s3_server.access_key, "secret_access_key": s3_server.secret_key}
    use(site, monkeypatch, "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID")
    address = BucketAddress("s3", bucket, "", region=s3_server.region, endpoint=s3_server.endpoint)
    recipe = FileSystemRecipe(address, choose(lambda: right, address, {}).env_vars)
    assert isinstance(build(recipe), RecipeS3FileSystem)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    filesystem = build(recipe)
    assert isinstance(filesystem, StoreFileSystem)
    with filesystem.open_output_stream(f"{bucket}/x") as stream:
        stream.write(b"hello")
    assert filesystem.open_input_stream(f"{bucket}/x").read() == b"hello"


def test_a_chained_role_is_taken_by_the_driver_for_all(
    site: dict[str, str], s3_server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(site, monkeypatch, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", s3_server.endpoint)
    (tmp_path / "config").write_text(
        f"[profile team]\nrole_arn = {ROLE}\nsource_profile = base\nregion = {s3_server.region}\n"
        f"[profile base]\naws_access_key_id = {s3_server.access_key}\naws_secret_access_key = {s3_server.secret_key}\n"
    )
    environ = {"AWS_PROFILE": "team", "AWS_CONFIG_FILE": str(tmp_path / "config")}
    address = BucketAddress("s3", bucket, "", region=s3_server.region, endpoint=s3_server.endpoint)
    grant = choose("auto", address, environ)
    broker = own_broker(dict(grant.env_vars))
    assert broker is not None
    lease = broker.lease()
    assert lease.values.names == ("AccessKeyId", "SecretAccessKey", "Token")
    assert 60 < lease.seconds_left() <= 3600
    assert all(check.ok for check in check_bucket(address, grant))


def use(site: dict[str, str], monkeypatch: pytest.MonkeyPatch, *but: str) -> None:
    """Make this process the site's driver, less some variables."""
    leave_clean(monkeypatch)
    for name in site.keys() - set(but):
        monkeypatch.setenv(name, site[name])


# --- credentials that end ----------------------------------------------------------------------------


def using_every_client(config: dict[str, Any]) -> int:
    """For a while, four times at least, put and get with each client made at the beginning, and save checkpoints."""
    import tempfile

    import botocore.session
    import pyarrow.fs
    import s3fs
    from obstore.store import S3Store

    bucket, until = config["bucket"], time.monotonic() + config["seconds"]
    native = ray.train.get_context().get_storage().storage_filesystem
    assert isinstance(native, pyarrow.fs.S3FileSystem)
    boto, files, store = botocore.session.Session().create_client("s3"), s3fs.S3FileSystem(), S3Store(bucket)
    count = 0
    while count < 4 or time.monotonic() < until:
        body = os.urandom(config["size"])
        directory = tempfile.mkdtemp()
        Path(directory, "weights").write_bytes(body)
        anystorage.report({"count": count}, directory)
        boto.put_object(Bucket=bucket, Key="by-boto", Body=body)
        assert files.cat(f"{bucket}/by-boto") == body
        files.pipe(f"{bucket}/by-s3fs", body)
        assert bytes(store.get("by-s3fs").bytes()) == body
        store.put("by-obstore", body)
        with native.open_input_stream(f"{bucket}/by-obstore") as stream:
            assert stream.read() == body
        with native.open_output_stream(f"{bucket}/by-pyarrow") as stream:
            stream.write(body)
        count += 1
    return count


@pytest.mark.parametrize(
    ("lifetime", "seconds", "size"),
    [(6.0, 13.0, 1 << 18), pytest.param(15.0, 90.0, 16 << 20, marks=[pytest.mark.soak, pytest.mark.timeout(300)])],
)
def test_every_client_outlives_credentials_that_end(
    lifetime: float,
    seconds: float,
    size: int,
    s3_server: S3Server,
    bucket: str,
    driver: None,
    site: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(site, monkeypatch, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    sessions: list[dict[str, str]] = []

    def short_lived() -> dict[str, Any]:
        end = datetime.now(timezone.utc) + timedelta(seconds=lifetime)
        sessions.append(s3_server.session_env(lifetime=lifetime))
        names = {"access_key_id": "ACCESS_KEY_ID", "secret_access_key": "SECRET_ACCESS_KEY", "token": "SESSION_TOKEN"}
        return {name: sessions[-1][f"AWS_{variable}"] for name, variable in names.items()} | {"expires_at": end}

    config = anystorage.run_config(f"long-{lifetime:g}", checkpoint_size="12GB", credentials=short_lived)
    result = DataParallelTrainer(
        using_every_client,
        train_loop_config={"bucket": bucket, "seconds": seconds, "size": size},
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.5}),
        run_config=config,
    ).fit()
    assert result.return_value > 3
    assert len(sessions) > seconds / lifetime
    assert isinstance(result.checkpoint, Checkpoint)
    with result.checkpoint.as_directory() as directory:
        assert Path(directory, "weights").stat().st_size == size
    assert anystorage.results(f"long-{lifetime:g}", credentials=short_lived).metrics == result.metrics
    first = s3_server.client(
        access_key=sessions[0]["AWS_ACCESS_KEY_ID"], secret_key=sessions[0]["AWS_SECRET_ACCESS_KEY"]
    )
    with pytest.raises(Exception, match=r"Expired|Invalid|denied|Denied"):  # the control: it did end
        first.list_objects_v2(Bucket=bucket)
    assert address_in(config.worker_runtime_env["env_vars"]) is not None
