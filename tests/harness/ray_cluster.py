"""A real Ray cluster for the whole session, started by ``ray start``: it has nothing of a driver's environment."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

_STARTED = "Ray runtime started"
_FOREIGN = ("AWS_", "RAY_", "GOOGLE_", "AZURE_", "ANYSCALE_", "ANYSTORAGE_", "TMPDIR", "PYTHONPATH")
QUIET = {
    # Ray listens on every interface, so the cluster wants a token; said here, none is left in the home directory.
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "AWS_EC2_METADATA_DISABLED": "true",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process less per run
    # Workers that nobody asked for take the CPU from those that somebody waits for.
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
}
os.environ.update(QUIET)  # Ray reads some of them when it is imported, and this is imported before it


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment less everything that storage or Ray reads, plus ``extra``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return {**kept, **QUIET, **(extra or {})}


def leave_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take from this process, for a test, what :func:`clean_environment` leaves out."""
    for variable in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(variable)


@dataclass(slots=True)
class RayCluster:
    """A one-node cluster of four logical CPUs.

    Attributes
    ----------
    address
        For ``ray.init`` or ``RAY_ADDRESS``.
    directory
        Ray's temporary directory: session logs, among others.
    """

    address: str
    directory: Path

    def run_driver(
        self, script: str | Path, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a Python driver in a process of its own, outside the repository, with ``env`` added."""
        source = ["-c", script] if isinstance(script, str) else [str(script)]
        return subprocess.run(
            [sys.executable, *source, *arguments],
            env=clean_environment({"RAY_ADDRESS": self.address, **(env or {})}),
            cwd=tempfile.gettempdir(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def end_cleaners(self) -> None:
        """Kill the process that Ray Train leaves for each run whose controller was killed.

        It asks for the controller by the dashboard, which this cluster does not have, and so would for ever.
        """
        raylets = {pid for pid, command in _processes_of(self.directory) if b"/raylet/raylet" in command}
        for pid, command in _processes():
            if command.startswith(b"ray::PlacementGroupCleaner") and _parent(pid) in raylets:
                _kill(pid)

    def log_text(self) -> str:
        """Everything that Ray logged in this session."""
        logs = sorted((self.directory / "session_latest" / "logs").rglob("*"))
        return "\n".join(path.read_text(errors="replace") for path in logs if path.is_file())


@contextlib.contextmanager
def started_head(directory: Path, *options: str, env: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address of a one-node cluster with this temporary directory, which goes with it."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}",
               f"--temp-dir={directory}", "--num-cpus=4", "--node-ip-address=127.0.0.1",
               f"--object-store-memory={200 << 20}", "--disable-usage-stats", *options]  # fmt: skip
    log = directory / "start.log"
    with log.open("w") as output:
        head = subprocess.Popen(
            command, env=clean_environment(env), stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
    try:
        _wait_until_started(head, log)
        yield f"127.0.0.1:{port}"
    finally:
        head.kill()
        head.wait()
        _end_what_is_left(directory)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    """Started before any test sets a credential; no test may stop it."""
    directory = Path(tempfile.mkdtemp(prefix="anyray-", dir="/tmp"))
    with started_head(directory, "--include-dashboard=false") as address:
        yield RayCluster(address, directory)


@pytest.fixture(autouse=True)
def no_cleaner_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test that may have killed a run: dozens of them would take half of a core from those that follow."""
    yield
    if "ray_cluster" in request.fixturenames:
        request.getfixturevalue("ray_cluster").end_cleaners()


@pytest.fixture(scope="module")
def driver(ray_cluster: RayCluster) -> Iterator[None]:
    """Connect this process to the session's cluster."""
    import ray  # after the environment is set above

    ray.init(ray_cluster.address, logging_level=logging.WARNING)
    yield
    ray.shutdown()


@pytest.fixture
def site(driver: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site whose cluster and local storage are directories of this test's own; a module may have another one."""
    leave_clean(monkeypatch)
    for tier in ("cluster", "local"):
        (tmp_path / tier).mkdir()
        monkeypatch.setenv(f"RAY_ANYSTORAGE_{tier.upper()}_STORAGE", str(tmp_path / tier))
    return tmp_path


def _wait_until_started(head: subprocess.Popen[bytes], log: Path, timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while _STARTED not in log.read_text():
        if head.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"ray start did not come up: {log.read_text()[-3000:]}")
        time.sleep(0.05)


def _end_what_is_left(directory: Path) -> None:
    for pid, _ in _processes_of(directory):
        _kill(pid)


def _processes_of(directory: Path) -> Iterator[tuple[int, bytes]]:
    """The processes of a cluster, known by its own directory on their command lines."""
    mark = os.fsencode(str(directory))
    return (found for found in _processes() if mark in found[1] and found[0] != os.getpid())


def _processes() -> Iterator[tuple[int, bytes]]:
    """Those that this user may look into, with their command lines."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                yield int(entry.name), (entry / "cmdline").read_bytes()


def _parent(pid: int) -> int | None:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return None


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
