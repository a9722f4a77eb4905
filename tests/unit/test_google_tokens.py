"""Workload identity for GCS: which file goes through google-auth, and what that asks the token service."""

from __future__ import annotations

import json
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import obstore.store
import pytest

from ray_anystorage.credentials.grant import Grant
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.environment import BucketAddress
from ray_anystorage.errors import CredentialsError
from ray_anystorage.transfer.cloud_store import cloud_client
from ray_anystorage.transfer.google_tokens import token_provider


class TokenService(ThreadingHTTPServer):
    """Gives a token for every exchange, and remembers what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict[str, list[str]]] = []


class _Handler(BaseHTTPRequestHandler):
    server: TokenService

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.asked.append(urllib.parse.parse_qs(body))
        token = f"token-{len(self.server.asked)}"
        kind = "urn:ietf:params:oauth:token-type:access_token"
        answer = {"access_token": token, "issued_token_type": kind, "token_type": "Bearer", "expires_in": 3600}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def service() -> Iterator[TokenService]:
    with TokenService() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def file(service: TokenService, tmp_path: Path) -> Path:
    """The file that a pool of workload identities gives out: it names where the pod's own token lies."""
    (tmp_path / "pod-token").write_text("of the pod")
    content = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/p",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": f"http://127.0.0.1:{service.server_port}/v1/token",
        "credential_source": {"file": str(tmp_path / "pod-token")},
    }
    path = tmp_path / "pool.json"
    path.write_text(json.dumps(content))
    return path


def test_the_pods_token_is_exchanged_for_one_of_the_store(file: Path, service: TokenService) -> None:
    tokens = token_provider(str(file))
    assert tokens is not None
    first = tokens()
    assert first["token"] == "token-1"
    assert timedelta(minutes=50) < first["expires_at"] - datetime.now(timezone.utc) <= timedelta(hours=1)
    (asked,) = service.asked
    assert asked["subject_token"] == ["of the pod"]
    assert asked["scope"] == ["https://www.googleapis.com/auth/devstorage.read_write"]
    (file.parent / "pod-token").write_text("another, as pods get each hour")
    assert tokens()["token"] == "token-2"
    assert service.asked[1]["subject_token"] == ["another, as pods get each hour"]


def test_the_store_is_given_the_tokens(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}

    def store(bucket: str, **options: Any) -> str:
        made.update(options)
        return bucket

    monkeypatch.setattr(obstore.store, "GCSStore", store)
    variables = (("GOOGLE_APPLICATION_CREDENTIALS", str(file)),)
    grant = Grant("reference", "a file", "as asked for", variables, Secrets())
    assert cloud_client(BucketAddress("gs", "bucket", "folder"), grant, retries={}) == "bucket"
    assert made["credential_provider"]()["token"] == "token-1"
    assert "config" not in made


@pytest.mark.parametrize("kind", ["service_account", "authorized_user"])
def test_what_obstore_reads_itself_is_left_to_it(tmp_path: Path, kind: str) -> None:
    (tmp_path / "key.json").write_text(json.dumps({"type": kind}))
    assert token_provider(str(tmp_path / "key.json")) is None
    assert token_provider(str(tmp_path / "absent.json")) is None


def test_without_google_auth_the_remedy_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.auth.exceptions", None)
    with pytest.raises(CredentialsError, match=r"(?s)type external_account.*ray_anystorage\[gcs\]"):
        token_provider(str(file))
