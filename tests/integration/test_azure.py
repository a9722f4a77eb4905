"""Azure Blob Storage: against Azurite as far as that goes, and beyond it by the requests that are sent."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlencode, urlsplit
from uuid import uuid4

import pytest
from ray import cloudpickle

import ray_anystorage as anystorage
from ray_anystorage import errors
from ray_anystorage.credentials.agent_address import AZURE_VARIABLE, address_in, new_address
from ray_anystorage.credentials.broker import own_broker
from ray_anystorage.credentials.choose import choose
from ray_anystorage.credentials.grant import Grant
from ray_anystorage.credentials.memory_folder import memory_root
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.diagnosis.bucket import check_bucket, first_problem
from ray_anystorage.environment import BucketAddress
from ray_anystorage.transfer.cloud_store import CloudStore
from ray_anystorage.transfer.listing import key_lister
from ray_anystorage.transfer.open_store import BucketRecipe
from ray_anystorage.transfer.pyarrow_fs import FileSystemRecipe, StoreFileSystem, build
from tests.harness.azurite import Azurite
from tests.harness.bad_endpoints import HOST, answering, running
from tests.harness.own_driver import LARGE, TRAINER, TUNER, run_driver
from tests.harness.ray_cluster import RayCluster, leave_clean
from tests.harness.waiting import wait_until
from tests.harness.watching_proxy import Seen, watching_proxy

# As Microsoft's "Troubleshoot 403 errors from Azure Blob Storage" quotes them.
FAILED = "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly."
OVER = (
    f"{FAILED}</Message><AuthenticationErrorDetail>Signature not valid in the specified time frame: Start [x] - Expiry \
[y] - Current [z]</AuthenticationErrorDetail><Message>"
)
VARIABLE = "AZURE_STORAGE_SAS_TOKEN"
DENIED = errors.BucketPermissionError
OTHER_KEY = base64.b64encode(b"another account's key").decode()


def sas(azurite: Azurite, container: str, permissions: str = "rwdl", minutes: float = 60) -> str:
    """A SAS of a container, signed as Microsoft's "Create a service SAS" describes."""
    end, version = datetime.now(timezone.utc) + timedelta(minutes=minutes), "2020-12-06"
    said = {"sp": permissions, "se": end.strftime("%Y-%m-%dT%H:%M:%SZ"), "spr": "https,http", "sv": version, "sr": "c"}
    resource = f"/blob/{azurite.account}/{container}"
    lines = [said["sp"], "", said["se"], resource, "", "", said["spr"], version, "c", "", "", "", "", "", "", ""]
    signature = hmac.new(base64.b64decode(azurite.key), "\n".join(lines).encode(), hashlib.sha256).digest()
    return urlencode({**said, "sig": base64.b64encode(signature).decode()})


@dataclass(frozen=True)
class Box:
    """A new container of the emulator."""

    azurite: Azurite
    name: str

    @property
    def uri(self) -> str:
        return f"abfss://{self.name}@{self.azurite.account}.dfs.core.windows.net/team a"

    def address(self, endpoint: str | None = None) -> BucketAddress:
        bucket = f"{self.name}@{self.azurite.account}.dfs.core.windows.net"
        return BucketAddress("abfss", bucket, "team a", endpoint=endpoint or self.azurite.endpoint)

    def grant(self, address: BucketAddress | None = None, **environ: str) -> Grant:
        return choose("env", address or self.address(), environ or {"AZURE_STORAGE_ACCOUNT_KEY": self.azurite.key})

    def store(self) -> CloudStore:
        return CloudStore(self.address(), self.grant())

    def keys(self) -> list[str]:
        return sorted(key for key, _ in self.store().list(""))


@pytest.fixture
def box(azurite: Azurite) -> Box:
    name = f"test-{uuid4().hex}"
    azurite.make_container(name)
    return Box(azurite, name)


@pytest.fixture
def here(box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """This process with the settings of a site in the container, and nobody's credentials."""
    before = dict(os.environ)
    leave_clean(monkeypatch)
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_ANYSTORAGE_ENDPOINT", box.azurite.endpoint)
    yield monkeypatch
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("kind", ["key", "sas", "connection string"])
def test_a_good_container_passes_every_step_and_nothing_stays(box: Box, kind: str) -> None:
    environ = {
        "key": {"AZURE_STORAGE_ACCOUNT_KEY": box.azurite.key},
        "sas": {"AZURE_STORAGE_SAS_TOKEN": sas(box.azurite, box.name)},
        "connection string": {
            "AZURE_STORAGE_CONNECTION_STRING": f"AccountName={box.azurite.account};AccountKey={box.azurite.key}"
        },
    }[kind]
    checks = check_bucket(box.address(), box.grant(**environ), full=True)
    assert [(check.name, check.ok) for check in checks] == [
        (name, True) for name in ("credentials", "list", "put", "get", "delete")
    ], checks
    assert box.keys() == []


def problem(box: Box, address: BucketAddress | None = None, **environ: str) -> errors.StorageError:
    address = address or box.address()
    grant = box.grant(address, **environ)
    found = first_problem(check_bucket(address, grant))
    assert found is not None
    said = str(found.error())
    for secret in grant.secrets.reveal().values():
        assert secret not in said
    assert "sig=" not in said
    return found.error()


def test_what_is_wrong_has_an_error_of_its_own(
    box: Box, refused_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = problem(box, AZURE_STORAGE_ACCOUNT_KEY=OTHER_KEY)
    assert type(wrong) is errors.WrongSecretError
    assert "account key (AZURE_STORAGE_ACCOUNT_KEY)" in wrong.remedy
    reading = problem(box, AZURE_STORAGE_SAS_TOKEN=sas(box.azurite, box.name, "rl"))
    assert type(reading) is errors.BucketPermissionError
    assert "put" in reading.reason
    assert "Storage Blob Data Contributor" in reading.remedy
    blind = problem(box, AZURE_STORAGE_SAS_TOKEN=sas(box.azurite, box.name, "rw"))
    assert (type(blind), blind.tried.split()[0]) == (errors.BucketPermissionError, "list")
    nowhere = problem(box, Box(box.azurite, "not-there").address())
    assert type(nowhere) is errors.BucketMissingError
    assert "container 'not-there'" in nowhere.remedy
    unreachable = problem(box, box.address(f"{refused_endpoint}/{box.azurite.account}"))
    assert type(unreachable) is errors.EndpointRefusedError


@pytest.mark.parametrize(
    ("status", "code", "message", "error_type"),
    [
        (403, "AuthenticationFailed", OVER, errors.ExpiredTokenError),
        (403, "AuthenticationFailed", FAILED, errors.WrongSecretError),
        (
            401,
            "InvalidAuthenticationInfo",
            "Lifetime validation failed. The token is expired.",
            errors.ExpiredTokenError,
        ),
        (403, "AuthorizationFailure", "This request is not authorized to perform this operation.", DENIED),
        (404, "ContainerBeingDeleted", "The specified container is being deleted.", errors.BucketMissingError),
    ],
)
def test_answers_that_the_emulator_does_not_give(
    box: Box, status: int, code: str, message: str, error_type: type[errors.StorageError]
) -> None:
    body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    with answering(status, body) as endpoint:
        assert type(problem(box, box.address(endpoint))) is error_type
        with pytest.raises(error_type):
            CloudStore(box.address(endpoint), box.grant()).write_small("a", b"x")


def test_a_store_fails_in_the_same_words(box: Box) -> None:
    store = CloudStore(box.address(), box.grant(AZURE_STORAGE_ACCOUNT_KEY=OTHER_KEY))
    with pytest.raises(errors.WrongSecretError, match="signature does not match"):
        store.write_small("a", b"x")
    reading = CloudStore(box.address(), box.grant(AZURE_STORAGE_SAS_TOKEN=sas(box.azurite, box.name, "rl")))
    with pytest.raises(errors.BucketPermissionError, match="put") as raised:
        reading.write_small("a", b"x")
    chain = f"{raised.value} {raised.value.__cause__}"
    assert "sig=" not in chain
    with pytest.raises(errors.ObjectMissingError):
        box.store().size("gone")
    with pytest.raises(errors.BucketMissingError):
        CloudStore(Box(box.azurite, "not-there").address(), box.grant()).write_small("a", b"x")


def test_runs_are_looked_for_and_a_folder_is_not_read_whole(box: Box) -> None:
    store = box.store()
    for key in ("run/checkpoint_manager_snapshot.json", "run/deep/a", "run/deep/b", "runner/x"):
        store.write_small(key, b"x")
    found = key_lister(box.address(), box.grant(), timeout=5)("team a/run/")
    assert sorted(found) == ["team a/run/checkpoint_manager_snapshot.json", "team a/run/deep/"]
    assert key_lister(box.address(), box.grant(), timeout=5)("team a/run/check") == found[:1]
    with pytest.raises(errors.WrongSecretError):
        key_lister(box.address(), box.grant(AZURE_STORAGE_ACCOUNT_KEY=OTHER_KEY), timeout=5)("team a/run/")


IN_ANOTHER_PROCESS = """
import pickle, sys
recipe, filesystem, *_ = pickle.loads(sys.stdin.buffer.read())
store = recipe.open()
store.write_small("small", b"hello")
upload = store.begin("large", 9 << 20)
for index in range(2):
    upload.part(index, index * (8 << 20), bytes([8 << 20, 1 << 20][index]))
upload.commit()
with filesystem.open_output_stream(f"{recipe.address.path}/state") as stream:
    stream.write(b"state")
print(filesystem.open_input_stream(f"{recipe.address.path}/small").read().decode(), store.size("large"))
"""


def test_recipes_travel_without_secrets_and_open_anywhere(box: Box, here: pytest.MonkeyPatch) -> None:
    signed = sas(box.azurite, box.name)
    grant = box.grant(AZURE_STORAGE_SAS_TOKEN=signed)
    recipe = BucketRecipe(box.address(), grant.mode, grant.source, grant.env_vars)
    filesystem = build(FileSystemRecipe(box.address(), grant.env_vars))
    assert type(filesystem) is StoreFileSystem
    pickled = pickle.dumps((recipe, filesystem))
    assert parse_qs(signed)["sig"][0].encode() not in pickled
    # Beside what is carried this process has a key of its own, as a node may: what is carried counts.
    env = {**os.environ, "AZURE_STORAGE_SAS_TOKEN": signed, "AZURE_STORAGE_ACCOUNT_KEY": OTHER_KEY}
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS], input=pickled, env=env, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.split() == [b"hello", str(9 << 20).encode()]
    assert box.keys() == ["large", "small", "state"]


# --- what a broker serves ---------------------------------------------------------------------------


@dataclass
class ShortLived:
    """A user's callable that signs a SAS which soon ends, each time another."""

    box: Box
    seconds: float
    signed: list[str] = field(default_factory=list)

    def __call__(self) -> dict[str, str]:
        self.signed.append(sas(self.box.azurite, self.box.name, minutes=self.seconds / 60))
        return {"sas_token": self.signed[-1]}

    def signatures(self) -> list[str]:
        return [form for said in self.signed for form in (parse_qs(said)["sig"][0], said.rpartition("sig=")[2])]


def refused(box: Box, signed: str) -> bool:
    """Whether the store takes this SAS no more."""
    grant = Grant("env", "SAS", "", (("AZURE_CREDENTIAL_TYPE", "sas_token"),), Secrets({VARIABLE: signed}))
    try:
        CloudStore(box.address(), grant).write_small("control", b"x")
    except (errors.ExpiredTokenError, errors.WrongSecretError, errors.BucketPermissionError):
        return True
    return False


def test_what_is_open_outlives_a_sas_that_ends(
    box: Box, here: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here.setenv("AZURE_STORAGE_ACCOUNT_KEY", OTHER_KEY)  # as a node may have one beside what it is given
    here.setenv("AZURE_CREDENTIAL_TYPE", "access_key")
    source = ShortLived(box, seconds=4)
    grant = choose(source, box.address(), {})
    assert (grant.mode, grant.secrets.names) == ("broker", ())
    store, filesystem = CloudStore(box.address(), grant), build(FileSystemRecipe(box.address(), grant.env_vars))
    recipe = BucketRecipe(box.address(), grant.mode, grant.source, grant.env_vars)
    pickled = pickle.dumps((recipe, filesystem, store))
    store.write_small("before", b"x")
    first = source.signed[0]
    wait_until(lambda: refused(box, first), 20, "the first SAS has ended")
    store.write_small("small", b"hello")
    with filesystem.open_output_stream(f"{box.address().path}/state") as stream:
        stream.write(b"state")
    assert filesystem.open_input_stream(f"{box.address().path}/small").read() == b"hello"
    assert first != source.signed[-1]
    assert all(check.ok for check in check_bucket(box.address(), grant))
    assert key_lister(box.address(), grant, timeout=5)("team a/sm") == ["team a/small"]
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS], input=pickled, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    said = repr((grant, store, filesystem, recipe)) + caplog.text + done.stderr.decode() + json.dumps(dict(os.environ))
    for secret in source.signatures():
        assert secret not in said
        assert secret.encode() not in pickled


def test_a_source_that_gives_nothing_is_an_error_of_its_own(box: Box) -> None:
    def broken() -> dict[str, str]:
        raise RuntimeError("planted words")

    grant = choose(broken, box.address(), {})
    kind, says = errors.BucketCredentialsError, "no credentials can be had: the callable .*broken raised RuntimeError"
    found = first_problem(check_bucket(box.address(), grant))
    assert found is not None
    for attempt in (
        lambda: CloudStore(box.address(), grant),
        lambda: key_lister(box.address(), grant, timeout=5)("team a/run/"),
        lambda: (_ for _ in ()).throw(found.error()),
    ):
        with pytest.raises(kind, match=says) as raised:
            attempt()
        assert "planted words" not in str(raised.value)


def test_a_node_without_its_agent_says_so(box: Box) -> None:
    gone, held = new_address(memory_root())
    held.close()
    grant = Grant("ambient", "a broker", "", tuple(gone.variables("azure").items()))
    kind, says = (
        errors.BucketCredentialsError,
        r"no credentials can be had: /\S+/azure\.json cannot be read: No such file",
    )
    with pytest.raises(kind, match=says):
        CloudStore(box.address(), grant).write_small("a", b"x")
    with pytest.raises(kind, match=says):
        key_lister(box.address(), grant, timeout=5)("team a/run/")
    found = first_problem(check_bucket(box.address(), grant))
    assert found is not None
    with pytest.raises(kind, match=says):
        raise found.error()


@pytest.mark.soak
@pytest.mark.needs_ray
def test_a_train_run_with_a_sas_of_the_container(ray_cluster: RayCluster, box: Box, tmp_path: Path) -> None:
    signed = sas(box.azurite, box.name)
    with watching_proxy(box.azurite.endpoint) as proxy:
        proxy.refuses = lambda seen: not below(box, seen)
        endpoint = f"{proxy.endpoint}/{box.azurite.account}"
        env = {"AZURE_STORAGE_SAS_TOKEN": signed, "RAY_ANYSTORAGE_ENDPOINT": endpoint, "HOME": str(tmp_path)}
        said, output = run_driver(ray_cluster, TRAINER, env, box.uri, "2", "")
        assert said == [2, 0, LARGE, None]
        assert [str(seen) for seen in proxy.refused] == []
    keys = box.keys()
    assert "mine/checkpoint_manager_snapshot.json" in keys
    assert len([key for key in keys if key.endswith("large.bin")]) == 1, "older checkpoints were not deleted"
    secret = parse_qs(signed)["sig"][0]
    assert secret not in output
    stored = (b"".join(pieces(box, key)) for key in keys if not key.endswith("large.bin"))
    assert not [content for content in stored if secret.encode() in content]


INNER = """
import json, os, pathlib, sys, tempfile
import ray, ray.train
from ray.train import Checkpoint, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
import ray_anystorage as anystorage

folder = sys.argv[1]

def train(config):
    with tempfile.TemporaryDirectory() as directory:
        pathlib.Path(directory, "n").write_text("1")
        ray.train.report({"n": 1}, checkpoint=Checkpoint.from_directory(directory))
    return sorted(name for name in os.environ if name.startswith(("AZURE_", "ANYSTORAGE_")))

@ray.remote(num_cpus=0)
def start():
    config = anystorage.run_config("inner", artifact_storage=folder, tier="artifact")
    result = DataParallelTrainer(train, scaling_config=ScalingConfig(num_workers=1), run_config=config).fit()
    with result.checkpoint.as_directory() as directory:
        return [config.recipe.credentials, result.return_value, pathlib.Path(directory, "n").read_text()]

ray.init(runtime_env=anystorage.runtime_env(artifact_storage=folder), logging_level="WARNING")
print("RESULT", json.dumps(ray.get(start.remote())))
"""


@pytest.mark.soak
@pytest.mark.needs_ray
@pytest.mark.parametrize("script", ["train", "tune", "a run inside a task"])
def test_runs_are_served_by_a_broker_and_the_secret_is_found_nowhere(
    script: str, ray_cluster: RayCluster, box: Box, tmp_path: Path
) -> None:
    signed = sas(box.azurite, box.name)
    env = {VARIABLE: signed, "RAY_ANYSTORAGE_ENDPOINT": box.azurite.endpoint, "HOME": str(tmp_path)}
    text, arguments = {"train": (TRAINER, ("2", "")), "tune": (TUNER, ()), "a run inside a task": (INNER, ())}[script]
    served = text.replace('credentials="env"', 'credentials="auto"')
    said, output = run_driver(ray_cluster, served, env, box.uri, *arguments)
    names = [AZURE_VARIABLE, "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ENDPOINT"]
    if script == "a run inside a task":
        why = said.pop(0)
        assert why.startswith("ambient: what a broker's agent keeps in /dev/shm/anystorage-")
    assert said == {"train": [2, 0, LARGE, None], "tune": [1], "a run inside a task": [names, "1"]}[script]
    keys = box.keys()
    stored = [content for key in keys if not key.endswith("large.bin") for content in pieces(box, key)]
    files = [path for root in (ray_cluster.directory, tmp_path) for path in root.rglob("*") if path.is_file()]
    assert stored
    assert files
    for secret in (parse_qs(signed)["sig"][0], signed.rpartition("sig=")[2]):
        assert secret not in output
        assert not [content for content in stored if secret.encode() in content]
        assert not [path for path in files if secret.encode() in path.read_bytes()]


@pytest.mark.soak
@pytest.mark.needs_ray
def test_a_run_goes_on_and_a_tune_run_works_with_the_accounts_key(
    ray_cluster: RayCluster, box: Box, tmp_path: Path
) -> None:
    env = {"RAY_ANYSTORAGE_ENDPOINT": box.azurite.endpoint, "HOME": str(tmp_path)}
    env["AZURE_STORAGE_ACCOUNT_KEY"] = box.azurite.key
    assert run_driver(ray_cluster, TRAINER, env, box.uri, "1", "")[0] == [1, 0, LARGE, None]
    assert run_driver(ray_cluster, TRAINER, env, box.uri, "2", "")[0] == [2, 1, LARGE, None]
    assert run_driver(ray_cluster, TUNER, env, box.uri)[0] == [1]


def pieces(box: Box, key: str) -> Iterator[bytes]:
    store = box.store()
    content = bytearray(store.size(key))
    if content:
        store.read_range(key, 0, memoryview(content))
    yield bytes(content)


def below(box: Box, seen: Seen) -> bool:
    """True for what touches nothing but blobs below the folder, and lists of them; obstore deletes in batches."""
    container = f"/{box.azurite.account}/{box.name}"
    if seen.query.get("comp") == "batch":
        deleted = [unquote(path.decode()) for path in re.findall(rb"DELETE (\S+)", seen.body)]
        return bool(deleted) and all(f"/{box.name}/team a/" in path for path in deleted)
    if seen.path == container:
        return seen.query.get("comp") == "list" and seen.query.get("prefix", "").startswith("team a/")
    return seen.path.startswith(f"{container}/team a/")


def test_static_keys_are_served_unless_they_are_to_travel(box: Box, here: pytest.MonkeyPatch) -> None:
    here.setenv("AZURE_STORAGE_ACCOUNT_KEY", box.azurite.key)
    served = anystorage.run_config("mine", artifact_storage=box.uri, tier="artifact")
    variables = served.worker_runtime_env["env_vars"]
    assert address_in(variables, "azure") is not None
    assert not {"AZURE_STORAGE_ACCOUNT_KEY", "AZURE_CREDENTIAL_TYPE"} & variables.keys()
    assert box.azurite.key.encode() not in cloudpickle.dumps(served)
    sent = anystorage.run_config("mine", artifact_storage=box.uri, tier="artifact", credentials="env")
    assert sent.worker_runtime_env["env_vars"]["AZURE_CREDENTIAL_TYPE"] == "access_key"
    plan = anystorage.plan("mine", artifact_storage=box.uri, tier="artifact")
    assert plan.storage_path == sent.storage_path == served.storage_path == box.uri
    assert box.azurite.key not in repr(served) + repr(sent) + plan.explain() + json.dumps(plan.to_dict())
    assert box.azurite.key.encode() not in pickle.dumps(sent.recipe)


def test_the_doctor_tries_the_container_with_what_is_served(box: Box, here: pytest.MonkeyPatch) -> None:
    here.setenv("AZURE_STORAGE_SAS_TOKEN", sas(box.azurite, box.name))
    report = anystorage.doctor(artifact_storage=box.uri)
    (bucket,) = [tier for tier in report.tiers if tier.place.tier == "artifact"]
    assert bucket.serves, report.problems
    assert "broker" in report.credentials
    assert "sig=" not in json.dumps(report.to_dict())
    broken = anystorage.doctor(artifact_storage=box.uri, credentials=lambda: {"account_key": "planted!"})
    assert "not in base64" in json.dumps(broken.to_dict())
    assert "planted" not in json.dumps(broken.to_dict())


# --- beyond the emulator: what is asked of Azure's own services -------------------------------------


INVALID_CLIENT = "AADSTS7000215: Invalid client secret provided: 'planted'.\r\nTrace ID: 1"


@dataclass
class Cloud:
    """Stands in for Microsoft's token services and the Blob service: it notes what is asked, and gives a token."""

    endpoint: str = ""
    asked: list[tuple[str, str, dict[str, list[str]], dict[str, str]]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    refuses: bool = False


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    stand_in = Cloud()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            url, body = urlsplit(self.path), self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            headers = {name.lower(): value for name, value in self.headers.items()}
            form = parse_qs(url.query) | (parse_qs(body) if "token" in url.path else {})
            with stand_in.lock:
                stand_in.asked.append((self.command, url.path, form, headers))
            token = "token" in url.path
            payload = json.dumps({"access_token": "given", "expires_in": 3600, "expires_on": "4102444800",
                                  "token_type": "Bearer", "resource": "x"}).encode() if token else b""  # fmt: skip
            if token and stand_in.refuses:
                payload = json.dumps({"error": "invalid_client", "error_description": INVALID_CLIENT}).encode()
            self.send_response((401 if stand_in.refuses else 200) if token else 201)
            for name, value in {"Content-Length": str(len(payload)), "ETag": '"1"'}.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_PUT = do_POST = answer  # noqa: N815 - names of the base class

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with running(ThreadingHTTPServer((HOST, 0), Handler)) as stand_in.endpoint:
        yield stand_in


def written_with(cloud: Cloud, grant: Grant | None = None) -> tuple[tuple[str, str, dict[str, list[str]]], str]:
    """What was asked for a token, and how the blob that followed was signed."""
    address = BucketAddress("abfss", "box@acc.dfs.core.windows.net", "runs", endpoint=cloud.endpoint)
    CloudStore(address, grant or choose("ambient", address, {})).write_small("key", b"x")
    (method, path, form, headers), (put, where, _, blob) = cloud.asked
    assert (put, where) == ("PUT", "/box/runs/key")
    assert blob["x-ms-blob-type"] == "BlockBlob"
    if method == "GET":
        assert headers["metadata"].lower() == "true"
    return (method, path, form), blob["authorization"]


def test_a_workload_identity_changes_its_token_for_one_of_the_store(
    cloud: Cloud, here: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("of-the-pod")
    for name, value in {
        "AZURE_FEDERATED_TOKEN_FILE": str(tmp_path / "token"),
        "AZURE_TENANT_ID": "tenant",
        "AZURE_CLIENT_ID": "client",
        "AZURE_AUTHORITY_HOST": cloud.endpoint,
    }.items():
        here.setenv(name, value)
    (method, path, form), signed = written_with(cloud)
    assert (method, path) == ("POST", "/tenant/oauth2/v2.0/token")
    assert (form["client_id"], form["client_assertion"]) == (["client"], ["of-the-pod"])
    assert form["scope"] == ["https://storage.azure.com/.default"]
    assert signed == "Bearer given"


def test_a_managed_identity_is_asked_for_at_the_machine(cloud: Cloud, here: pytest.MonkeyPatch) -> None:
    here.setenv("AZURE_MSI_ENDPOINT", f"{cloud.endpoint}/metadata/identity/oauth2/token")
    (method, path, form), signed = written_with(cloud)
    assert (method, path) == ("GET", "/metadata/identity/oauth2/token")
    assert form["resource"] == ["https://storage.azure.com"]
    assert signed == "Bearer given"


def test_a_service_principal_signs_in_with_its_secret(cloud: Cloud, here: pytest.MonkeyPatch) -> None:
    here.setenv("AZURE_AUTHORITY_HOST", cloud.endpoint)
    address = BucketAddress("abfss", "box@acc.dfs.core.windows.net", "runs")
    environ = {"AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_ID": "client", "AZURE_CLIENT_SECRET": "planted"}
    (method, path, form), signed = written_with(cloud, choose("env", address, environ))
    assert (method, path) == ("POST", "/tenant/oauth2/v2.0/token")
    assert (form["client_id"], form["client_secret"]) == (["client"], ["planted"])
    assert signed == "Bearer given"


def principal(cloud: Cloud) -> tuple[BucketAddress, dict[str, str]]:
    address = BucketAddress("abfss", "box@acc.dfs.core.windows.net", "runs")
    known = {"AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_ID": "client", "AZURE_CLIENT_SECRET": "planted"}
    return address, {**known, "AZURE_AUTHORITY_HOST": cloud.endpoint}


def test_of_a_service_principal_the_nodes_get_the_tokens_alone(cloud: Cloud, here: pytest.MonkeyPatch) -> None:
    grant = choose("auto", *principal(cloud))
    broker = own_broker(dict(grant.env_vars))
    assert broker is not None
    (method, path, form), signed = written_with(cloud, grant)
    assert (grant.mode, method, path) == ("broker", "POST", "/tenant/oauth2/v2.0/token")
    assert (form["grant_type"], form["client_id"], form["client_secret"]) == (
        ["client_credentials"],
        ["client"],
        ["planted"],
    )
    assert form["scope"] == ["https://storage.azure.com/.default"]
    assert signed == "Bearer given"
    for file in Path(broker.address.folder).iterdir():
        assert "planted" not in file.read_text()
    assert 3500 < broker.lease().seconds_left() <= 3600
    broker._due = 0.0
    assert broker.lease() is broker.provider.lease(), "a token is used until half of its time is over"
    assert "planted" not in repr(vars(broker.provider)) + repr(grant)


def test_a_service_principal_that_is_refused_says_why_without_its_secret(
    cloud: Cloud, here: pytest.MonkeyPatch
) -> None:
    cloud.refuses = True
    address, environ = principal(cloud)
    with pytest.raises(errors.BucketCredentialsError, match="gets no token: invalid_client: AADSTS7000215") as raised:
        CloudStore(address, choose("auto", address, environ))
    assert "planted" not in str(raised.value) + str(raised.value.__cause__)
    environ["AZURE_AUTHORITY_HOST"] = "http://127.0.0.1:9"
    with pytest.raises(errors.BucketCredentialsError, match=r"http://127\.0\.0\.1:9 is not reached"):
        CloudStore(address, choose("auto", address, environ))
