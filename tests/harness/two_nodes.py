"""A Ray cluster of two nodes on this machine, where the second has mounts of its own. It needs root."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.harness.mounts import cannot
from tests.harness.ray_cluster import _end_what_is_left, _wait_until_started, clean_environment, free_port

_SEPARATE = ("unshare", "--mount", "--propagation", "private")


@dataclass(slots=True)
class TwoNodes:
    """The cluster, started with nothing of this process's environment.

    Attributes
    ----------
    address
        For ``ray.init`` or ``RAY_ADDRESS``.
    second
        A process of the second node, whose mounts are that node's.
    """

    address: str
    second: int

    @contextlib.contextmanager
    def covered(self, directory: Path, other: Path) -> Iterator[None]:
        """Mount another directory on one, on the second node alone."""
        self._run("mount", "--bind", str(other), str(directory))
        try:
            yield
        finally:
            self.unmount(directory)

    @contextlib.contextmanager
    def halted(self) -> Iterator[None]:
        """Stop the second node's processes, as on a machine that hangs."""
        stopped = [self.second, *_below(self.second)]
        for process in stopped:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in stopped:
                os.kill(process, signal.SIGCONT)

    def unmount(self, directory: Path) -> None:
        """Take away what is mounted on a directory of the second node."""
        self._run("umount", "--lazy", str(directory))

    def _run(self, *command: str) -> None:
        subprocess.run(["nsenter", f"--mount=/proc/{self.second}/ns/mnt", *command], check=True)


def _below(process: int) -> list[int]:
    children = [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return [pid for child in children for pid in (child, *_below(child))]


@contextlib.contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    """Start both; they end with this process's use of them."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "nsenter"))):
        cannot("mounts of a node's own need root, unshare and nsenter")
    directory = Path(tempfile.mkdtemp(prefix="anytwo-", dir="/tmp"))
    address = f"127.0.0.1:{free_port()}"
    first = ("--head", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        stack.callback(_end_what_is_left, directory)
        stack.enter_context(_node(directory, "first", *first))
        second = stack.enter_context(_node(directory, "second", f"--address={address}", before=_SEPARATE))
        yield TwoNodes(address, second)


@contextlib.contextmanager
def _node(directory: Path, name: str, *arguments: str, before: tuple[str, ...] = ()) -> Iterator[int]:
    program = str(Path(sys.executable).parent / "ray")
    command = [*before, program, "start", "--block", f"--temp-dir={directory}", "--num-cpus=2",
               f"--object-store-memory={100 << 20}", "--node-ip-address=127.0.0.1", "--disable-usage-stats",
               f"--resources={{\"{name}\": 2}}", *arguments]  # fmt: skip
    log = directory / f"{name}.log"
    with log.open("w") as output:
        node = subprocess.Popen(
            command, env=clean_environment(), stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
    try:
        _wait_until_started(node, log)
        yield node.pid  # unshare becomes what it starts
    finally:
        node.kill()
        node.wait()
