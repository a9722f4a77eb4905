"""The benchmark's own parts: a proxy that delays, limits and counts as it says, and statistics that are right."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from benchmarks import far_store
from benchmarks.http_requests import RequestParser
from ray_anystorage.bench.noise import ratio, spread

ROUND_TRIP, RATE = 0.04, 4e6
STREAM = (
    b"PUT /b/k?x=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nGET / \r\n\r\n"  # a body that looks like a head
    b"GET /b/k HTTP/1.1\r\nHost: h\r\n\r\n"
    b"PUT /b/c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nGET /\r\n3\r\nabc\r\n0\r\n\r\n"
    b"DELETE /b/k HTTP/1.1\r\n\r\n"
)


@pytest.fixture
def echo() -> Iterator[str]:
    """A server that sends back all it hears, and closes when the other side does."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # the fixture has ended
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def connect(store: far_store.FarStore) -> socket.socket:
    host, _, port = store.endpoint.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def exchange(connection: socket.socket, data: bytes) -> tuple[bytes, float]:
    """What came back, and after how many seconds the last of it."""
    start = time.perf_counter()
    sender = threading.Thread(target=connection.sendall, args=(data,))
    sender.start()
    answer = b""
    while len(answer) < len(data):
        answer += connection.recv(1 << 20)
    sender.join()
    return answer, time.perf_counter() - start


def test_far_store_takes_a_round_trip_and_one_more_to_connect(echo: str) -> None:
    with far_store.running(echo, round_trip=ROUND_TRIP, rate=None) as store, connect(store) as connection:
        request = b"GET / HTTP/1.1\r\n\r\n"
        first, opening = exchange(connection, request)
        again, seconds = exchange(connection, request)
        assert first == again == request
        assert opening >= 2 * ROUND_TRIP - 0.002
        assert seconds >= ROUND_TRIP - 0.002
        best = min(exchange(connection, request)[1] for _ in range(20))
        assert best < ROUND_TRIP + 0.01


def test_far_store_limits_each_connection_by_itself_and_keeps_the_bytes(echo: str) -> None:
    head = b"PUT /k HTTP/1.1\r\nContent-Length: 2000000\r\n\r\n"
    data = head + bytes(range(250)) * 8000
    with far_store.running(echo, round_trip=0.0, rate=RATE) as store:
        with connect(store) as one, connect(store) as other:
            answers: list[tuple[bytes, float]] = []
            threads = [
                threading.Thread(target=lambda end=end: answers.append(exchange(end, data))) for end in (one, other)
            ]
            start = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            both = time.perf_counter() - start
        assert [answer == data for answer, _ in answers] == [True, True]
        least = len(data) / RATE
        assert min(seconds for _, seconds in answers) >= least
        assert both < 3 * least  # sent one after the other through one link they would take four
        counts = store.counts()
    assert (counts.connections, counts.bytes_up, counts.bytes_down) == (2, 2 * len(data), 2 * len(data))
    assert counts.requests == {"PUT": 2}


def test_far_store_closes_when_the_server_does() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = f"127.0.0.1:{listener.getsockname()[1]}"
        with far_store.running(target, round_trip=0.01, rate=None) as store, connect(store) as connection:
            accepted, _ = listener.accept()
            accepted.sendall(b"last words")
            accepted.close()
            heard = b""
            while data := connection.recv(100):
                heard += data
            assert heard == b"last words"


def test_far_store_closes_when_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = f"127.0.0.1:{listener.getsockname()[1]}"
    with far_store.running(target, round_trip=0.0, rate=None) as store, connect(store) as connection:
        assert connection.recv(1) == b""


@pytest.mark.parametrize("step", [1, 2, 3, 7, 50, 10_000])
def test_requests_are_counted_however_the_stream_is_cut(step: int) -> None:
    counts: dict[str, int] = {}
    parser = RequestParser(counts)
    for start in range(0, len(STREAM), step):
        parser.feed(STREAM[start : start + step])
    assert counts == {"PUT": 2, "GET": 1, "DELETE": 1}


def test_ratio_has_students_interval() -> None:
    # Logarithms ln 2 and ln 8: mean ln 4, standard deviation ln 2 * sqrt 2, t (1 degree) 12.70620474.
    result = ratio([2.0, 8.0], [1.0, 1.0])
    assert result.mean == pytest.approx(4)
    assert result.low == pytest.approx(4 / math.exp(12.70620474 * math.log(2)))
    assert result.high == pytest.approx(4 * math.exp(12.70620474 * math.log(2)))
    assert not result.lost
    assert ratio([0.90, 0.91, 0.9], [1.0, 1.0, 1.0]).lost
    assert (ratio([2.0], [1.0]).low, ratio([2.0], [1.0]).lost) == (None, False)


def test_spread_of_one_and_of_many() -> None:
    assert spread([3.0]).upper == 3.0
    many = spread([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (many.least, many.lower, many.median, many.upper, many.most) == (1, 2, 3, 4, 5)
