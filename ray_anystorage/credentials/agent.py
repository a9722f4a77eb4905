"""The agent: an HTTP server on loopback that gives a lease to who shows its token.

It speaks the container-credentials protocol, which every AWS SDK knows. The server is a small one of
its own: it knows one request and gives each caller a few seconds, where a general one has routes, logs and bodies to go
wrong, and lets a caller hold a connection for as long as it likes.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import socket
import threading
import weakref
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from ray_anystorage.credentials.agent_address import HOST, TOKEN_FILE, AgentAddress
from ray_anystorage.credentials.lease import Lease
from ray_anystorage.credentials.memory_folder import MemoryFolder
from ray_anystorage.errors import CredentialsAgentError

_HEAD_BYTES = 16 * 1024
_PATIENCE = 10.0  # seconds that a caller may take for one request, or be silent between two
_CALLERS = 1000  # at once
_BACKLOG = 256
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_REASONS = {
    200: "OK",
    204: "No Content",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}
_live: weakref.WeakSet[Agent] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes = b""

    def encode(self) -> bytes:
        stays = "keep-alive" if self.status < 300 else "close"
        head = f"HTTP/1.1 {self.status} {_REASONS[self.status]}\r\nConnection: {stays}\r\n"
        if self.status != 204:
            head += f"Content-Type: application/json\r\nContent-Length: {len(self.body)}\r\n"
        return f"{head}\r\n".encode() + self.body


class Agent:
    """Serves from a thread of its own, from :meth:`start` to :meth:`close` or the end of this process.

    Parameters
    ----------
    address
        Where.
    token
        What a caller must show; a file of the agent's folder holds it.
    held
        A socket that has the port already.

    Raises
    ------
    CredentialsAgentError
        The port is taken, or this node has no place for the folder.
    """

    def __init__(self, address: AgentAddress, token: str, held: socket.socket | None = None) -> None:
        self._address, self._token = address, token.encode()
        self._lease: Lease | None = None
        self._socket = held or _bind(address)
        # Only who has the port touches the folder, so that two processes of a host do not fight for it.
        try:
            self._folder = MemoryFolder(address.folder)
        except BaseException:
            self._socket.close()
            raise
        self._callers = 0
        self._loop, self._serving = asyncio.new_event_loop(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="anystorage-agent", daemon=True)
        _live.add(self)

    def start(self, first: Lease | None = None) -> None:
        """Serve, with this lease to begin with; from now on a caller is answered.

        Raises
        ------
        CredentialsAgentError
            As of :meth:`take`. It is closed then.
        """
        try:
            self._folder.write(TOKEN_FILE, self._token)
            if first is not None:
                self.take(first)
            self._socket.listen(_BACKLOG)
            self._thread.start()
        except BaseException:
            self.close()
            raise
        self._serving.wait()

    def take(self, lease: Lease) -> None:
        """Give this one from now on.

        Raises
        ------
        CredentialsAgentError
            This node's memory file system takes no file; the lease before goes on.
        """
        for name, content in lease.files().items():
            self._folder.write(name, content)
        self._lease = lease

    def close(self) -> None:
        """End, and remove the folder."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        elif self._thread.ident is None:  # it never ran, and closes the loop nowhere else
            self._loop.close()
        self._socket.close()
        self._folder.close()

    def forget_in_child(self) -> None:
        """Let go of the port, which a child that was forked would hold beyond its parent's end."""
        self._socket.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        starting = asyncio.start_server(self._converse, sock=self._socket, limit=_HEAD_BYTES)
        server = self._loop.run_until_complete(starting)
        self._loop.call_soon(self._serving.set)
        try:
            self._loop.run_forever()
        finally:
            server.close()
            talking = asyncio.all_tasks(self._loop)
            for task in talking:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*talking, return_exceptions=True))
            self._loop.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._callers += 1
        try:
            while self._callers <= _CALLERS:
                too_late = self._loop.call_later(_PATIENCE, writer.transport.abort)
                answer = self.answer(await reader.readuntil(b"\r\n\r\n"))
                writer.write(answer.encode())
                await writer.drain()
                too_late.cancel()
                if answer.status >= 300:
                    break
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # a caller that left, was too slow or sent no request: there is nobody to tell
        except asyncio.CancelledError:
            pass  # the agent ends; raised on, Python before 3.12 prints it for each caller that is still connected
        finally:
            self._callers -= 1
            writer.close()

    def answer(self, head: bytes) -> _Answer:
        """What one request gets; who may not know learns nothing from it."""
        method, _, rest = head.decode("latin-1").partition(" ")
        path, _, rest = rest.partition(" ")
        version, _, rest = rest.partition("\r\n")
        fields = [line.partition(":")[::2] for line in rest.split("\r\n") if line]
        said = {name.lower(): value.strip() for name, value in fields}
        if not version.startswith("HTTP/1.") or len(said) != len(fields):  # no field that counts may come twice
            return _Answer(400)
        if method != "GET":
            return _Answer(405)
        host = said.get("host", "")
        if path != self._address.path or host.rpartition(":")[0] not in _LOOPBACK:
            return _Answer(404)
        if not hmac.compare_digest(said.get("authorization", "").encode("latin-1"), self._token):
            return _Answer(401)
        if said.get("content-length", "0") != "0" or "transfer-encoding" in said:
            return _Answer(400)
        return self._given()

    def _given(self) -> _Answer:
        lease = self._lease
        if lease is None:
            return _unavailable("the driver has not given any credentials yet")
        if lease.seconds_left() <= 0:
            ended = datetime.fromtimestamp(lease.expires_at or 0, timezone.utc)
            return _unavailable(f"the credentials expired at {ended:%Y-%m-%d %H:%M:%S} UTC; the driver's log says why")
        document = lease.document()
        return _Answer(200, document) if document else _Answer(204)


def _unavailable(why: str) -> _Answer:
    return _Answer(503, json.dumps({"Code": "NoCredentials", "Message": f"anystorage: {why}"}).encode())


def _bind(address: AgentAddress) -> socket.socket:
    bound = socket.socket()
    # An agent that comes back must not wait for its predecessor's last connections.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((HOST, address.port))
        bound.listen(_BACKLOG)  # two may bind with this option, one may listen
    except OSError as error:
        bound.close()
        raise CredentialsAgentError(
            f"port {address.port} of {HOST} on node {socket.gethostname()} cannot be had for the credentials of this "
            f"run: {error.strerror}\n  what to do: end what uses it, or start the run again, which takes another port"
        ) from error
    return bound


def is_ours(address: AgentAddress) -> bool:
    """Whether who listens at the address is an agent of the same broker and user: its token is shown to nobody else."""
    return _listener(address.port) == os.geteuid() and address.ask()[0] in (200, 204, 503)


def _listener(port: int) -> int | None:
    """The user who listens on a port of loopback, as the kernel tells (``man 5 proc``, ``/proc/net/tcp``)."""
    local = f"0100007F:{port:04X}"
    try:
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    except OSError:  # a kernel that does not tell
        return None
    for line in lines:
        fields = line.split()
        if fields[1] == local and fields[3] == "0A":
            return int(fields[7])
    return None


def _forget_in_child() -> None:
    for agent in list(_live):
        agent.forget_in_child()


os.register_at_fork(after_in_child=_forget_in_child)
