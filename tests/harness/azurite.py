"""A real Azure emulator on loopback: Azurite, from npm (``npm install --prefix .azurite azurite``)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import urlsplit

import pytest

HOST = "127.0.0.1"
ACCOUNT = "devaccount"
_BESIDE = Path(__file__).parents[2] / ".azurite" / "node_modules" / ".bin" / "azurite-blob"

_FLAGS = ("--silent", "--skipApiVersionCheck", "--disableTelemetry", "--inMemoryPersistence")


@dataclass(frozen=True)
class Azurite:
    """Where it listens (the account included), and the one account that it knows."""

    endpoint: str
    account: str
    key: str

    def make_container(self, name: str) -> None:
        """Create a container, by a request signed as Microsoft's "Authorize with Shared Key" describes."""
        date = datetime.now(timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")
        headers = {"x-ms-date": date, "x-ms-version": "2021-08-06"}
        lines = ["PUT", *[""] * 11, *(f"{header}:{value}" for header, value in headers.items())]
        text = "\n".join([*lines, f"/{self.account}/{self.account}/{name}", "restype:container"])
        signature = hmac.new(base64.b64decode(self.key), text.encode(), hashlib.sha256).digest()
        headers["Authorization"] = f"SharedKey {self.account}:{base64.b64encode(signature).decode()}"
        connection = http.client.HTTPConnection(urlsplit(self.endpoint).netloc)
        connection.request("PUT", f"/{self.account}/{name}?restype=container", headers=headers)
        assert connection.getresponse().status == 201
        connection.close()


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """An Azurite for the whole session."""
    command = str(_BESIDE) if _BESIDE.exists() else shutil.which("azurite-blob")
    if command is None:
        reason = "no azurite-blob in .azurite or on PATH: npm install --prefix .azurite azurite"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    key = base64.b64encode(os.urandom(32)).decode()
    folder = tmp_path_factory.mktemp("azurite")
    process = subprocess.Popen(
        [command, "--blobHost", HOST, "--blobPort", str(port), *_FLAGS],
        cwd=folder,
        env={**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{key}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_open(port, process)
        yield Azurite(f"http://{HOST}:{port}/{ACCOUNT}", ACCOUNT, key)
    finally:
        process.kill()
        process.wait()


def _wait_until_open(port: int, process: subprocess.Popen[bytes], timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        assert process.poll() is None, f"azurite ended with {process.returncode}"
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"azurite not open in {timeout} s")
