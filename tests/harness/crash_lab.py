"""Work in processes of its own, forked from one that has everything imported; watched, and ended at a step."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Connection, Listener, wait
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from typing import Any

from tests.harness.crash_kernel import KernelWatch, hand_over
from tests.harness.crash_points import Points
from tests.harness.crash_proxy import CrashProxy

_ROOT = Path(__file__).parents[2]
_LONGEST = 60.0  # seconds for one piece of work, which takes a fraction of one

Tell = Callable[..., None]
Role = Callable[..., Any]  # a function of a module: its first argument is a Tell


@dataclass(slots=True)
class Run:
    """What became of a piece of work: whether it was killed, what it told meanwhile, and what it returned."""

    killed: bool = False
    told: list[tuple[Any, ...]] = field(default_factory=list)
    value: Any = None
    failure: str | None = None

    @property
    def words(self) -> set[str]:
        """The first of each that it told."""
        return {word for word, *_ in self.told}


@dataclass(slots=True)
class ForkServer:
    """A process that has everything imported, and its children, which connect to us and wait for work."""

    log: Path
    _children: Listener
    _server: Connection

    @contextlib.contextmanager
    def child(self) -> Iterator[tuple[int, Connection]]:
        """Fork a child for the length of the block: its id, and the connection to it; it has ended after the block."""
        self._server.send("fork")
        process: int = self._server.recv()
        try:
            with self._children.accept() as connection:
                yield process, connection
        finally:
            self._server.recv()


@dataclass(slots=True)
class Lab:
    """A place to run work in, one piece at a time.

    Attributes
    ----------
    server
        Forks who does the work.
    env
        Variables that they have beside the server's.
    roots
        Folders whose files count, by name.
    proxy
        Through which the work reaches its bucket; ``None`` where it has none.
    """

    server: ForkServer
    env: Mapping[str, str]
    roots: Mapping[str, str]
    proxy: CrashProxy | None

    def run(self, role: Role, *arguments: Any, points: Points | None = None, reads: bool = False) -> Run:
        """Fork a process that does a piece of work, and wait for its end; ``reads`` count as steps where asked for."""
        with self.server.child() as (process, child):
            if self.proxy is not None:
                self.proxy.kill = lambda: os.kill(process, signal.SIGKILL)
                self.proxy.points = points
            child.send((dict(self.env), role, arguments, points is not None, reads))
            return self._attend(child, process, points)

    def result(self, role: Role, *arguments: Any) -> Any:
        """The result of a piece of work that must not fail."""
        done = self.run(role, *arguments)
        assert done.failure is None, done.failure
        assert not done.killed
        return done.value

    def _attend(self, child: Connection, process: int, points: Points | None) -> Run:
        done, deadline = Run(killed=True), time.monotonic() + _LONGEST
        with contextlib.ExitStack() as stack:
            watch = None
            if points is not None:
                listener = recv_handle(child)
                stack.callback(os.close, listener)
                watch = KernelWatch(listener, process, self.roots, points)
            while True:
                ready = wait([child, *([watch.listener] if watch else [])], max(0.0, deadline - time.monotonic()))
                if not ready:
                    os.kill(process, signal.SIGKILL)
                    done.failure = f"no end after {_LONGEST:g} s; where it hung is in {self.server.log}"
                    deadline += _LONGEST
                elif child not in ready and watch:
                    watch.answer()
                elif not _heard(child, done):
                    return done


def _heard(child: Connection, done: Run) -> bool:
    """Take what the child says; false where it has ended."""
    try:
        kind, content = child.recv()
    except (EOFError, ConnectionResetError):
        return False
    if kind == "told":
        done.told.append(content)
    else:
        done.killed = False
        done.value, done.failure = (content, None) if kind == "value" else (None, content)
    return True


@contextlib.contextmanager
def fork_server(directory: Path, env: Mapping[str, str]) -> Iterator[ForkServer]:
    """Start the process that the work is forked from, with ``env`` as its whole environment."""
    directory.mkdir()
    address, log = str(directory / "children"), directory / "log"
    ours, theirs = socket.socketpair()
    with contextlib.ExitStack() as stack:
        children = stack.enter_context(Listener(address, family="AF_UNIX"))
        output = stack.enter_context(log.open("wb"))
        server = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno()), address],
            env=dict(env),
            cwd=_ROOT,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        stack.callback(server.wait)
        theirs.close()
        connection = stack.enter_context(Connection(ours.detach()))  # closing it ends the server
        yield ForkServer(log, children, connection)


def _serve(descriptor: int, address: str) -> None:
    """Fork a child for each piece of work, from a process without threads of Python's: a fork would not copy them."""
    from tests.harness.crash_scenes import stand_alone  # before the first fork, so that no child has to

    stand_alone()
    assert threading.active_count() == 1, "a thread was started by an import"
    with Connection(descriptor) as channel, contextlib.suppress(EOFError):
        while channel.recv():
            process = os.fork()
            if process == 0:
                channel.close()
                _work(address)
            channel.send(process)
            channel.send(os.waitpid(process, 0)[1])


def _work(address: str) -> None:
    faulthandler.dump_traceback_later(_LONGEST / 2)
    try:
        with Client(address, family="AF_UNIX") as parent:
            try:
                env, role, arguments, watched, reads = parent.recv()
                os.environ.update(env)
                tempfile.tempdir = None  # which the environment says, when it is asked for next
                if watched:
                    listener = hand_over(reads=reads)
                    send_handle(parent, listener, os.getppid())
                    os.close(listener)
                value = role(lambda *content: parent.send(("told", content)), *arguments)
                parent.send(("value", value))
            except BaseException:  # noqa: BLE001 - whoever waits for the work is to see any
                parent.send(("failure", traceback.format_exc()))
    finally:
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2])
