"""An HTTP server on loopback that passes requests on to a store; what a test's proxy does beside that, it adds."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import struct
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from tests.harness.bad_endpoints import HOST, running

_WITH_LENGTH = ("PUT", "POST", "DELETE")


class PassingOn(BaseHTTPRequestHandler):
    """One connection of a client; ``store`` is the host and port behind. A subclass gives ``handle_one``."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    store: str

    def handle_one(self) -> None:
        """Answer one request."""
        raise NotImplementedError

    def do_GET(self) -> None:
        """Every method is answered in the same way."""
        self.handle_one()

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET  # noqa: N815 - names of the base class

    def body(self) -> bytes:
        """The request's, whole, also where it comes in chunks, as pyarrow sends it."""
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            continue
        return b"".join(chunks)

    def passed_on(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """The store's answer to the request with this body: status, headers by lower-case name, body."""
        connection = http.client.HTTPConnection(self.store, timeout=60)
        with contextlib.closing(connection):
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection", "content-length", "transfer-encoding"):
                    connection.putheader(name, value)
            if body or self.command in _WITH_LENGTH:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            response = connection.getresponse()
            payload = response.read()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, payload

    def send(self, status: int, headers: dict[str, str], payload: bytes, length: str | None = None) -> None:
        """Answer; ``length`` is said in place of the payload's own."""
        if length is None:
            own = str(len(payload))
            length = headers.get("content-length", own) if self.command == "HEAD" else own
        self.send_response_only(status)
        for name, value in headers.items():
            if name not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(payload)

    def drop_unsent(self) -> None:
        """Have the connection end in a reset when it is closed."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving(handler: type[PassingOn], target: str, *, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve before the endpoint ``target`` for the length of a ``with`` block; gives the URL to talk to.

    With ``tls`` the URL is of https, and the address an IP address, which the certificate must name.
    """

    class Handler(handler):  # type: ignore[misc, valid-type]
        store = urlsplit(target).netloc

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            """Say nothing: clients that go away and connections that are cut are what this is for."""

    server = Server((HOST, 0), Handler)
    if tls is not None:  # the handshake is left to the connection's own thread
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    with running(server) as url:
        yield url.replace("http://", "https://") if tls is not None else url
