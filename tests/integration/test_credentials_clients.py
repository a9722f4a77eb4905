"""What a grant carries is what the clients read: each in a fresh process, against servers that check signatures."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ray_anystorage.credentials.choose import choose
from ray_anystorage.environment import BucketAddress
from ray_anystorage.testing.s3_server import S3Server

# Each puts an object, opens the store anew, gets the object back and prints it.
CLIENTS = {
    "botocore": """
import botocore.session
client = botocore.session.Session().create_client("s3")
client.put_object(Bucket=bucket, Key=key, Body=b"hello")
print(client.get_object(Bucket=bucket, Key=key)["Body"].read())
""",
    "s3fs": """
import s3fs
s3fs.S3FileSystem().pipe(f"{bucket}/{key}", b"hello")
print(s3fs.S3FileSystem(skip_instance_cache=True).cat(f"{bucket}/{key}"))
""",
    "pyarrow": """
from pyarrow.fs import FileSystem
store, path = FileSystem.from_uri(f"s3://{bucket}/{key}")
with store.open_output_stream(path) as file:
    file.write(b"hello")
print(store.open_input_stream(path).read())
""",
    "obstore": """
from obstore.store import S3Store
S3Store(bucket).put(key, b"hello")
print(bytes(S3Store(bucket).get(key).bytes()))
""",
    "obstore with a provider": """
import botocore.session
from obstore.store import S3Store
def provide():
    key, secret, token = botocore.session.Session().get_credentials().get_frozen_credentials()[:3]
    return {"access_key_id": key, "secret_access_key": secret, "token": token, "expires_at": None}
S3Store(bucket, credential_provider=provide).put(key, b"hello")
print(bytes(S3Store(bucket, credential_provider=provide).get(key).bytes()))
""",
}
DIRECT = ("botocore", "s3fs", "pyarrow", "obstore")
WITH_PROVIDER = ("botocore", "s3fs", "pyarrow", "obstore with a provider")
REFUSED = "request signature we calculated does not match"


@dataclass
class Recorder:
    """A server on loopback that keeps what it was asked; ``replies`` maps a path to a body, with 404 for the rest."""

    url: str = ""
    replies: dict[str, dict[str, str | int]] = field(default_factory=dict)
    authorization: str | None = None
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)


@contextlib.contextmanager
def recorder() -> Iterator[Recorder]:
    record = Recorder()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            record.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            reply = record.replies.get(self.path)
            allowed = record.authorization in (None, self.headers.get("Authorization"))
            body = json.dumps(reply or {}).encode()
            self.send_response(200 if reply and allowed else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = answer  # noqa: N815 - the names that http.server asks for

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        record.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield record
        finally:
            server.shutdown()


@pytest.fixture
def metadata_service() -> Iterator[Recorder]:
    """Stands where the machine's metadata service would be, to show that nobody asks it."""
    with recorder() as record:
        yield record


@pytest.fixture
def node(tmp_path: Path, metadata_service: Recorder) -> dict[str, str]:
    """The variables of a bare node: an empty home, and a metadata service that listens."""
    home = tmp_path / "home"
    home.mkdir()
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata_service.url,
        "AWS_METADATA_ENDPOINT": metadata_service.url,
    }


def run(client: str, bucket: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    script = f"bucket, key = {bucket!r}, 'folder/object'\n{CLIENTS[client]}"
    return subprocess.run(
        [sys.executable, "-c", script], env=dict(env), capture_output=True, text=True, timeout=60, check=False
    )


def assert_round_trip(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "b'hello'"


def assert_refused(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode != 0
    assert REFUSED in done.stderr, done.stderr[-2000:]


def address(server: S3Server, bucket: str) -> BucketAddress:
    return BucketAddress("s3", bucket, "", region=server.region, endpoint=server.endpoint)


def keys(server: S3Server, right: bool) -> tuple[str, str]:
    return server.access_key, server.secret_key if right else server.secret_key[::-1]


def static(server: S3Server, right: bool = True) -> dict[str, str]:
    return dict(zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), keys(server, right), strict=True))


def section(header: str, server: S3Server, right: bool) -> str:
    key, secret = keys(server, right)
    return f"[{header}]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"


def check(done: subprocess.CompletedProcess[str], right: bool, metadata_service: Recorder) -> None:
    assert_round_trip(done) if right else assert_refused(done)
    assert metadata_service.seen == []


# --- each mode, each client, the right secret and a wrong one ---------------------------------------


@pytest.mark.parametrize("right", [True, False], ids=["right", "wrong"])
@pytest.mark.parametrize("client", DIRECT)
def test_env(
    client: str, right: bool, s3_server: S3Server, bucket: str, node: dict[str, str], metadata_service: Recorder
) -> None:
    grant = choose("env", address(s3_server, bucket), static(s3_server, right))
    check(run(client, bucket, {**node, **grant.all_env_vars()}), right, metadata_service)


@pytest.mark.parametrize("right", [True, False], ids=["right", "wrong"])
@pytest.mark.parametrize("client", WITH_PROVIDER)
@pytest.mark.parametrize("place", ["config file", "credentials file"])
def test_reference_to_a_profile(
    place: str,
    client: str,
    right: bool,
    s3_server: S3Server,
    bucket: str,
    node: dict[str, str],
    metadata_service: Recorder,
    tmp_path: Path,
) -> None:
    file = tmp_path / "profiles"
    if place == "config file":
        file.write_text(section("profile team", s3_server, right))
        environ = {"AWS_CONFIG_FILE": str(file), "AWS_PROFILE": "team"}
    else:
        file.write_text(section("default", s3_server, right))
        environ = {"AWS_SHARED_CREDENTIALS_FILE": str(file)}
    grant = choose("auto", address(s3_server, bucket), environ)
    assert (grant.mode, grant.secrets.names) == ("reference", ())
    check(run(client, bucket, {**node, **grant.all_env_vars()}), right, metadata_service)


@pytest.mark.parametrize("right", [True, False], ids=["right", "wrong"])
@pytest.mark.parametrize("client", DIRECT)
def test_ambient_from_a_credentials_agent_of_the_node(
    client: str,
    right: bool,
    s3_server: S3Server,
    bucket: str,
    node: dict[str, str],
    metadata_service: Recorder,
    tmp_path: Path,
) -> None:
    key, secret = keys(s3_server, right)
    token_file = tmp_path / "token"
    token_file.write_text("agents-own-token")
    with recorder() as agent:
        agent.authorization = "agents-own-token"
        agent.replies["/keys"] = {
            "AccessKeyId": key,
            "SecretAccessKey": secret,
            "Token": "",
            "Expiration": "2099-01-01T00:00:00Z",
        }
        identity = {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{agent.url}/keys",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token_file),
        }
        grant = choose("auto", address(s3_server, bucket), identity)
        assert (grant.mode, grant.secrets.names) == ("ambient", ())
        assert not set(identity) & set(grant.all_env_vars())
        check(run(client, bucket, {**node, **identity, **grant.all_env_vars()}), right, metadata_service)
        assert agent.seen


# --- what else a worker may have in its environment -------------------------------------------------


@pytest.mark.parametrize("client", DIRECT)
def test_env_wins_over_a_profile_and_an_endpoint_of_the_worker(
    client: str, s3_server: S3Server, bucket: str, node: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "profiles"
    file.write_text(section("theirs", s3_server, right=False))
    theirs = {
        "AWS_PROFILE": "theirs",
        "AWS_SHARED_CREDENTIALS_FILE": str(file),
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    }
    grant = choose("env", address(s3_server, bucket), static(s3_server))
    assert_round_trip(run(client, bucket, {**node, **theirs, **grant.all_env_vars()}))


@pytest.mark.parametrize("client", DIRECT)
def test_the_session_token_is_sent(client: str, node: dict[str, str]) -> None:
    environ = {"AWS_ACCESS_KEY_ID": "AKSESSION", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "the-token"}
    with recorder() as store:
        store_address = BucketAddress("s3", "bucket", "", region="eu-west-1", endpoint=store.url)
        grant = choose("env", store_address, environ)
        run(client, "bucket", {**node, **grant.all_env_vars()})
        headers = store.seen[0][1]
    assert headers["x-amz-security-token"] == "the-token"
    assert "Credential=AKSESSION/" in headers["authorization"]
    assert "/eu-west-1/s3/" in headers["authorization"]


def test_obstore_alone_does_not_read_a_profile(
    s3_server: S3Server, bucket: str, node: dict[str, str], metadata_service: Recorder, tmp_path: Path
) -> None:
    file = tmp_path / "profiles"
    file.write_text(section("default", s3_server, right=True))
    grant = choose("reference", address(s3_server, bucket), {"AWS_SHARED_CREDENTIALS_FILE": str(file)})
    assert run("obstore", bucket, {**node, **grant.all_env_vars()}).returncode != 0
    assert metadata_service.seen, "obstore asks the metadata service although AWS_EC2_METADATA_DISABLED is set"


@pytest.mark.parametrize("client", DIRECT)
def test_without_a_source_every_client_would_ask_the_metadata_service(
    client: str, s3_server: S3Server, bucket: str, node: dict[str, str], metadata_service: Recorder
) -> None:
    """The control of every assertion above that nobody asked it."""
    grant = choose("ambient", address(s3_server, bucket), {})
    assert run(client, bucket, {**node, **grant.all_env_vars()}).returncode != 0
    assert metadata_service.seen


# --- GCS ------------------------------------------------------------------------------------------

GOOGLE_CLIENTS = {
    "pyarrow": """
from pyarrow.fs import FileSystem
store, path = FileSystem.from_uri("gs://bucket/folder?retry_limit_seconds=5")
store.get_file_info(path)
""",
    "obstore": """
import contextlib
from obstore.store import GCSStore
with contextlib.suppress(FileNotFoundError):
    GCSStore("bucket").head("object")
""",
    "google-auth": """
import google.auth, google.auth.transport.requests
keys, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/devstorage.read_write"])
session = google.auth.transport.requests.AuthorizedSession(keys)
session.get(__import__("os").environ["STORAGE_EMULATOR_HOST"] + "/object")
""",
}


@pytest.fixture(scope="module")
def private_key() -> str:
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


@pytest.mark.parametrize("client", GOOGLE_CLIENTS)
def test_a_google_key_file_is_read_by_reference(
    client: str, private_key: str, node: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "key.json"
    with recorder() as store:
        store.replies["/token"] = {"access_token": "from-the-key", "expires_in": 3600, "token_type": "Bearer"}
        content = {
            "type": "service_account",
            "project_id": "p",
            "private_key_id": "1",
            "private_key": private_key,
            "client_email": "train@p.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"{store.url}/token",
        }
        file.write_text(json.dumps(content))
        store_address = BucketAddress("gs", "bucket", "", endpoint=store.url)
        grant = choose("auto", store_address, {"GOOGLE_APPLICATION_CREDENTIALS": str(file)})
        assert (grant.mode, grant.secrets.names) == ("reference", ())
        done = subprocess.run(
            [sys.executable, "-c", GOOGLE_CLIENTS[client]],
            env={**node, **grant.all_env_vars()},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        sent = [headers.get("authorization", "") for path, headers in store.seen if path != "/token"]
    assert sent
    assert all(value.startswith("Bearer ") for value in sent)
