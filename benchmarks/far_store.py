"""A store that is far away: a proxy before a real one that adds a round trip and a rate per connection, and counts.

Each connection is two independent links (there and back). A link serialises what it is given at its rate, then holds
it for half a round trip; opening a connection costs one round trip more, as TCP's handshake does. TCP's slow start,
loss and TLS are not modelled. With no delay and no rate it passes bytes on at once and only counts.

It runs in a process of its own, so that its CPU time is nobody else's:
``python -m benchmarks.far_store 127.0.0.1:8333 --round-trip 0.025 --rate 20e6``. It prints its port; then each line on
standard input is answered by one line of JSON (see :class:`Counts`), and the end of standard input ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from benchmarks.http_requests import RequestParser

HOST = "127.0.0.1"
_AHEAD = 0.05  # seconds of data that a link takes before it stops its sender; over a round trip, so that none is idle
_EARLY = 0.0005  # seconds; timers here fire on whole milliseconds, rounded up


@dataclass(slots=True)
class Counts:
    """What passed since the proxy started; bytes are those on the wire, heads included, CPU in seconds."""

    connections: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    cpu: float = 0.0
    requests: dict[str, int] = field(default_factory=dict)

    def since(self, earlier: Counts) -> Counts:
        """What came on top of an earlier state."""
        methods = {name: count - earlier.requests.get(name, 0) for name, count in self.requests.items()}
        return Counts(
            self.connections - earlier.connections,
            self.bytes_up - earlier.bytes_up,
            self.bytes_down - earlier.bytes_down,
            self.cpu - earlier.cpu,
            {name: count for name, count in methods.items() if count},
        )


class _Link:
    """One direction of one connection."""

    def __init__(self, delay: float, rate: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._delay, self._rate = delay, rate
        self._queue: collections.deque[tuple[float, bytes]] = collections.deque()
        self._free_at = 0.0  # when the last byte taken so far leaves the sender's end
        self._timer: asyncio.TimerHandle | None = None
        self._ended = self._blocked = self._paused = False
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None

    def hold(self, seconds: float) -> None:
        """Take nothing for a while: a handshake is under way."""
        self._free_at = self._loop.time() + seconds

    def push(self, data: bytes) -> None:
        if not self._queue and not self._delay and not self._rate and self.sink and not self._blocked:
            self.sink.write(data)
            return
        now = self._loop.time()
        self._free_at = max(now, self._free_at) + (len(data) / self._rate if self._rate else 0.0)
        self._queue.append((self._free_at + self._delay, data))
        if not self._paused and self.source and (self._free_at - now > _AHEAD or self._blocked):
            self._paused = True
            self.source.pause_reading()
        self._schedule()

    def end(self) -> None:
        """The sender is gone; what is under way still arrives."""
        self.source, self._ended = None, True
        self._schedule()

    def block(self) -> None:
        """The receiver takes no more for now."""
        self._blocked = True

    def unblock(self) -> None:
        self._blocked = False
        self._resume()
        self._schedule()

    def connected(self, sink: asyncio.Transport) -> None:
        self.sink = sink
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is not None or self._blocked or self.sink is None:
            return
        if self._queue:
            self._timer = self._loop.call_at(self._queue[0][0] - _EARLY, self._deliver)
        elif self._ended:
            self.sink.close()

    def _deliver(self) -> None:
        self._timer = None
        due = self._loop.time() + 2 * _EARLY
        while self._queue and self._queue[0][0] <= due and not self._blocked and self.sink is not None:
            self.sink.write(self._queue.popleft()[1])
        self._resume()
        self._schedule()

    def _resume(self) -> None:
        if self._paused and not self._blocked and self._free_at - self._loop.time() < _AHEAD:
            self._paused = False
            if self.source:
                self.source.resume_reading()


class _End(asyncio.Protocol):
    """One socket: what it hears goes into one link, what the other link delivers goes out."""

    def __init__(self, incoming: _Link, outgoing: _Link) -> None:
        self._incoming, self._outgoing = incoming, outgoing

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)  # uvloop's is one in all but its bases
        stream.set_write_buffer_limits(high=1 << 20)
        self._incoming.source = stream
        self._outgoing.connected(stream)

    def data_received(self, data: bytes) -> None:
        self._incoming.push(data)

    def pause_writing(self) -> None:
        self._outgoing.block()

    def resume_writing(self) -> None:
        self._outgoing.unblock()

    def connection_lost(self, error: Exception | None) -> None:
        self._outgoing.sink = None
        self._incoming.end()


class _Upstream(_End):
    def __init__(self, incoming: _Link, outgoing: _Link, counts: Counts) -> None:
        super().__init__(incoming, outgoing)
        self._counts = counts

    def data_received(self, data: bytes) -> None:
        self._counts.bytes_down += len(data)
        super().data_received(data)


class _Client(_End):
    def __init__(self, proxy: Proxy) -> None:
        delay, rate = proxy.round_trip / 2, proxy.rate
        self._proxy, self._parser = proxy, RequestParser(proxy.counts.requests)
        super().__init__(incoming=_Link(delay, rate), outgoing=_Link(delay, rate))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._proxy.counts.connections += 1
        self._incoming.hold(self._proxy.round_trip)
        self._connecting = asyncio.ensure_future(self._connect())

    def data_received(self, data: bytes) -> None:
        self._proxy.counts.bytes_up += len(data)
        self._parser.feed(data)
        super().data_received(data)

    async def _connect(self) -> None:
        # Upstream hears what the client's link delivers, and the other way round.
        upstream = _Upstream(self._outgoing, self._incoming, self._proxy.counts)
        try:
            await asyncio.get_running_loop().create_connection(lambda: upstream, *self._proxy.target)
        except OSError:
            self._outgoing.end()


class Proxy:
    """The server side: listens on a free port and passes everything on to ``target``, a host and a port."""

    def __init__(self, target: tuple[str, int], round_trip: float, rate: float | None) -> None:
        self.target, self.round_trip, self.rate = target, round_trip, rate
        self.counts = Counts()

    async def serve(self, host: str = HOST) -> None:
        """Print the port, answer each line of standard input with the counts, until its end."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Client(self), host, 0, backlog=1024)
        print(server.sockets[0].getsockname()[1], flush=True)
        lines = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while await lines.readline():
            used = resource.getrusage(resource.RUSAGE_SELF)
            self.counts.cpu = used.ru_utime + used.ru_stime
            print(json.dumps(asdict(self.counts)), flush=True)
        server.close()


class FarStore:
    """A running proxy process, seen from outside.

    Attributes
    ----------
    endpoint
        Where clients connect, an ``http://`` URL.
    """

    def __init__(self, process: subprocess.Popen[str], host: str = HOST) -> None:
        self._process = process
        self.endpoint = f"http://{host}:{int(self._line())}"

    def counts(self) -> Counts:
        """What has passed up to now."""
        assert self._process.stdin is not None  # noqa: S101 - for mypy: it was opened as a pipe
        print(file=self._process.stdin, flush=True)
        return Counts(**json.loads(self._line()))

    def _line(self) -> str:
        assert self._process.stdout is not None  # noqa: S101 - for mypy: it was opened as a pipe
        line = self._process.stdout.readline()
        if not line:
            raise ConnectionError(f"the proxy ended with {self._process.wait()}")
        return line


@contextlib.contextmanager
def running(target: str, *, round_trip: float, rate: float | None, host: str = HOST) -> Iterator[FarStore]:
    """A proxy in its own process before ``target``, "host:port" or a URL; seconds, bytes per second or no limit."""
    command = [sys.executable, "-m", "benchmarks.far_store", target, f"--round-trip={round_trip}", f"--host={host}"]
    command += [f"--rate={rate}"] if rate else []
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield FarStore(process, host)
    finally:
        process.kill()
        process.communicate()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="host:port of the real store")
    parser.add_argument("--round-trip", type=float, default=0.0, help="seconds")
    parser.add_argument("--host", default=HOST, help="where to listen")
    parser.add_argument("--rate", type=float, help="bytes per second, per connection and direction")
    options = parser.parse_args(arguments)
    host, _, port = options.target.removeprefix("http://").rpartition(":")
    _run(Proxy((host, int(port)), options.round_trip, options.rate).serve(options.host))


def _run(serving: Any) -> None:
    try:
        import uvloop
    except ImportError:  # slower: about half the rate
        asyncio.run(serving)
    else:
        uvloop.run(serving)


if __name__ == "__main__":
    main()
