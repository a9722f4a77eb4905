"""A proxy before a bucket that counts the requests which change something, and lets one of them fail."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from tests.harness.bad_endpoints import HOST, s3_error
from tests.harness.crash_points import Kind, Points

_CHANGING = ("PUT", "POST", "DELETE")


@dataclass(slots=True)
class CrashProxy:
    """The proxy's URL, who counts now, and how the process is killed whose requests these are."""

    endpoint: str = ""
    points: Points | None = None
    kill: Callable[[], None] = lambda: None

    def kind(self, method: str, path: str) -> Kind | None:
        """What is to happen to a request."""
        return self.points.meet("bucket", *_named(method, path)) if self.points and method in _CHANGING else None


@contextlib.contextmanager
def crash_proxy(target: str) -> Iterator[CrashProxy]:
    """Run a proxy before the endpoint ``target`` for the length of a ``with`` block."""
    proxy, upstream = CrashProxy(), urlsplit(target).netloc

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
        server.shutdown()
        server.server_close()
        thread.join()


def _named(method: str, path: str) -> tuple[str, str]:
    """Verb and target of a request: the path below the bucket; of the query, what tells one operation from another."""
    parts = urlsplit(path)
    query = parse_qs(parts.query, keep_blank_values=True)
    operation = [f"part {query['partNumber'][0]}"] if "partNumber" in query else sorted(query.keys() - {"x-id"})
    return " ".join([method, *operation]), unquote(parts.path).lstrip("/").partition("/")[2]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    shared: CrashProxy
    store: str

    def handle_one(self) -> None:
        body = self._body()
        kind = self.shared.kind(self.command, self.path)
        if kind == "kill":
            self.shared.kill()
            self._cut()
        elif kind == "refuse":
            self._send(403, {"content-type": "application/xml"}, s3_error("AccessDenied", "as asked for").encode())
        else:
            status, headers, payload = self._passed_on(body)
            if kind == "lose":
                self._cut()
            else:
                self._send(status, headers, payload)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one  # noqa: N815 - names of the base class

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            continue
        return b"".join(chunks)

    def _passed_on(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.store, timeout=60)
        with contextlib.closing(connection):
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection", "content-length", "transfer-encoding"):
                    connection.putheader(name, value)
            if body or self.command in _CHANGING:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            response = connection.getresponse()
            payload = response.read()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, payload

    def _send(self, status: int, headers: dict[str, str], payload: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = headers.get("content-length", "0") if self.command == "HEAD" else str(len(payload))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(payload)

    def _cut(self) -> None:
        self.close_connection = True  # and unsent data is dropped, so that the peer sees a reset
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
