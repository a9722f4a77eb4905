"""An HTTP proxy on loopback that passes requests on to a store, and fails some of them on purpose."""

from __future__ import annotations

import contextlib
import http.client
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

from tests.harness.bad_endpoints import HOST, s3_error

Fault = Literal["503", "500", "429", "404", "reset", "truncate", "flip", "stall"]
Rule = Callable[[str, str], "Fault | None"]
_CREDENTIAL = re.compile(r"Credential=([^/]+)/")
_STATUS = {"503": "SlowDown", "500": "InternalError", "429": "TooManyRequests", "404": "NoSuchUpload"}


@dataclass
class FaultyProxy:
    """The proxy's URL, what it does, and what it has seen.

    Attributes
    ----------
    rule
        From method and path (with its query) to the fault that this request meets; it may be replaced at any time.
    requests, faults
        How many came by method, and how many failed by fault.
    busiest
        The largest number of requests at the same time since it was last set to 0.
    expired
        Access keys that are answered as S3 answers those of a session that has ended.
    retry_after
        Seconds that goes with a 503 or 429, as its ``Retry-After``.
    """

    endpoint: str = ""
    rule: Rule = lambda method, path: None
    requests: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    body_bytes: Counter[str] = field(default_factory=Counter)
    busiest: int = 0
    at_once: int = 0
    expired: set[str] = field(default_factory=set)
    retry_after: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    bits: random.Random = field(default_factory=lambda: random.Random(1))
    closing: threading.Event = field(default_factory=threading.Event)


def share(percent: float, faults: tuple[Fault, ...], seed: int = 1) -> Rule:
    """Fail so many requests of a hundred, each with one of the faults, by a seeded draw."""
    draw, lock = random.Random(seed), threading.Lock()

    def rule(method: str, path: str) -> Fault | None:
        with lock:
            return draw.choice(faults) if draw.uniform(0, 100) < percent else None

    return rule


@contextlib.contextmanager
def faulty_proxy(target: str) -> Iterator[FaultyProxy]:
    """Run a proxy before the endpoint ``target`` for the length of a ``with`` block."""
    proxy = FaultyProxy()
    upstream = urlsplit(target).netloc

    class Handler(_Handler):
        shared = proxy
        store = upstream

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            """Say nothing: cut connections are what this is for."""

    server = Server((HOST, 0), Handler)
    proxy.endpoint = f"http://{HOST}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    shared: FaultyProxy
    store: str

    def handle_one(self) -> None:
        proxy = self.shared
        with proxy.lock:
            proxy.at_once += 1
            proxy.busiest = max(proxy.busiest, proxy.at_once)
        try:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = proxy.rule(self.command, self.path)
            expired = _CREDENTIAL.search(self.headers.get("Authorization", ""))
            refused = expired is not None and expired[1] in proxy.expired
            with proxy.lock:
                proxy.requests[self.command] += 1
                proxy.body_bytes[self.command] += len(body)
                if refused or fault:
                    proxy.faults["expired" if refused else str(fault)] += 1
            if refused:
                self._send(400, {}, s3_error("ExpiredToken", "The provided token has expired.").encode())
            else:
                self._answer(body, fault)
        finally:
            with proxy.lock:
                proxy.at_once -= 1

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one  # noqa: N815 - names of the base class

    def _answer(self, body: bytes, fault: Fault | None) -> None:
        if fault in _STATUS:
            asked = self.shared.retry_after
            headers = {} if asked is None else {"retry-after": str(asked)}
            self._send(int(fault), headers, s3_error(_STATUS[fault], "as asked for").encode())
        elif fault == "reset":
            self._reset()
        elif fault == "stall":
            self.shared.closing.wait()
            self.close_connection = True
        else:
            if fault == "flip" and self.command in ("PUT", "POST"):
                body, fault = self._flipped(body), None
            self._pass_on(body, fault)

    def _pass_on(self, body: bytes, fault: Fault | None) -> None:
        connection = http.client.HTTPConnection(self.store, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            response = connection.getresponse()
            payload = response.read()
            headers = {name.lower(): value for name, value in response.getheaders()}
        finally:
            connection.close()
        if self.command == "HEAD":
            self._send(response.status, headers, b"", length=headers.get("content-length"))
        elif fault == "truncate":
            self._send(response.status, headers, payload[: len(payload) // 2], length=str(max(len(payload), 1)))
            self._reset(hard=False)
        else:
            self._send(response.status, headers, self._flipped(payload) if fault == "flip" else payload)

    def _send(self, status: int, headers: dict[str, str], payload: bytes, length: str | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(payload)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def _reset(self, *, hard: bool = True) -> None:
        self.close_connection = True
        if hard:  # closing with unsent data dropped makes the peer see ECONNRESET
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR) if not hard else self.connection.close()

    def _flipped(self, body: bytes) -> bytes:
        """The body with one bit changed, each time another."""
        if not body:
            return body
        with self.shared.lock:
            at, bit = self.shared.bits.randrange(len(body)), self.shared.bits.randrange(8)
        return body[:at] + bytes([body[at] ^ (1 << bit)]) + body[at + 1 :]

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
