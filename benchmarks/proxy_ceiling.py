"""What the proxy alone can pass, before a server that costs next to nothing: ``python -m benchmarks.proxy_ceiling``.

A transfer benchmark whose cells come near these figures measures the proxy.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from benchmarks import far_store
from benchmarks.shapes import FAR
from benchmarks.target import MiB

_BYTES = 512 * MiB  # over all connections, per measurement; whole pieces for each of them
_REQUESTS = 4000
_HEAD = b"PUT /k HTTP/1.1\r\nContent-Length: %d\r\n\r\n"
_DOWN, _UP, _ECHO = b"d", b"u", b"e"
_CONNECTIONS = 16


def measure() -> dict[str, float]:
    """MB/s down and up, and small requests per second, through a proxy without delay and through the far store's.

    Each also per CPU second of the proxy, which says what it could do on a core of its own and varies less with the
    machine's load. ``far_round_trip`` is in seconds, ``far_rate`` in MB/s of one connection.
    """
    server = subprocess.Popen([sys.executable, "-m", "benchmarks.proxy_ceiling", "serve"], stdout=subprocess.PIPE)
    assert server.stdout is not None  # noqa: S101 - for mypy: it was opened as a pipe
    target = f"{far_store.HOST}:{int(server.stdout.readline())}"
    try:
        with far_store.running(target, round_trip=0.0, rate=None) as passing:
            figures = _figures(passing, "passed", _CONNECTIONS)
        with far_store.running(target, round_trip=FAR.round_trip, rate=FAR.rate) as far:
            figures |= _figures(far, "far", 4 * _CONNECTIONS)
            figures["far_round_trip"] = min(_timed(far, 1, lambda sock: _ask(sock, 20)) / 20 for _ in range(2))
            figures["far_rate"] = 32 * MiB / _timed(far, 1, lambda sock: _take(sock, 32 * MiB)) / 1e6
        return figures
    finally:
        server.kill()
        server.communicate()


def _figures(store: far_store.FarStore, name: str, connections: int) -> dict[str, float]:
    share = _BYTES // connections
    megabytes = _BYTES / 1e6
    kinds: dict[str, tuple[float, Callable[[socket.socket], None]]] = {
        "down": (megabytes, lambda sock: _take(sock, share)),
        "up": (megabytes, lambda sock: _give(sock, share)),
        "requests": (_REQUESTS, lambda sock: _ask(sock, _REQUESTS // connections)),
    }
    figures = {}
    for kind, (amount, work) in kinds.items():
        before = store.counts().cpu
        figures[f"{kind}_{name}"] = amount / _timed(store, connections, work)
        figures[f"{kind}_{name}_per_cpu_second"] = amount / (store.counts().cpu - before)
    return figures


def _timed(store: far_store.FarStore, connections: int, work: Callable[[socket.socket], None]) -> float:
    """Seconds for ``work`` on each of some connections at once, opening them included."""
    host, _, port = store.endpoint.removeprefix("http://").partition(":")

    def one() -> None:
        with socket.create_connection((host, int(port))) as connection:
            work(connection)

    threads = [threading.Thread(target=one) for _ in range(connections)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def _take(connection: socket.socket, size: int) -> None:
    connection.sendall(_HEAD % 9 + _DOWN + size.to_bytes(8, "little"))
    buffer = bytearray(MiB)
    while size > 0:
        size -= connection.recv_into(buffer)


def _give(connection: socket.socket, size: int) -> None:
    connection.sendall(_HEAD % (9 + size) + _UP + size.to_bytes(8, "little"))
    data = bytes(MiB)
    for _ in range(size // MiB):
        connection.sendall(data)
    connection.recv(1)


def _ask(connection: socket.socket, count: int) -> None:
    for _ in range(count):
        connection.sendall(_HEAD % 9 + _ECHO + bytes(8))
        connection.recv(1)


def _serve() -> None:
    with socket.create_server((far_store.HOST, 0), backlog=256) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    data, buffer = bytes(MiB), bytearray(MiB)
    with connection, connection.makefile("rb") as lines:
        while lines.readline():
            while lines.readline() != b"\r\n":
                pass
            order, size = lines.read(1), int.from_bytes(lines.read(8), "little")
            if order == _DOWN:
                for _ in range(size // MiB):
                    connection.sendall(data)
            else:
                while size > 0:
                    size -= lines.readinto1(memoryview(buffer)[: min(size, MiB)])
                connection.sendall(b"x")


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        _serve()
    print(json.dumps(measure(), indent=1))
