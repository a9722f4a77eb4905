"""Endpoints that fail on purpose, on loopback: closed, silent, or answering every request the same."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

import pytest

HOST = "127.0.0.1"


def s3_error(code: str, message: str, **extra: str) -> str:
    """The body of an S3 error, as the API reference documents it."""
    fields = {"Code": code, "Message": message, **extra, "RequestId": "4442587FB7D0A2F9"}
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'


@contextlib.contextmanager
def running(server: ThreadingHTTPServer) -> Iterator[str]:
    """Have a server answer for the length of a ``with`` block; gives the URL to talk to."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def answering(
    status: int, body: str, headers: Mapping[str, str] | None = None, signatures: list[str] | None = None
) -> Iterator[str]:
    """An endpoint that gives one answer to everything; yields its URL. ``signatures`` collects what was signed with."""
    payload = body.encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if signatures is not None:
                signatures.append(self.headers.get("Authorization", ""))
            self.send_response(status)
            for name, value in {"Content-Type": "application/xml", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(payload)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815 - names of the base class

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with running(ThreadingHTTPServer((HOST, 0), Handler)) as url:
        yield url


@pytest.fixture
def refused_endpoint() -> Iterator[str]:
    """A port that nothing listens on; it stays bound, so that nothing else takes it."""
    with socket.socket() as held:
        held.bind((HOST, 0))
        yield f"http://{HOST}:{held.getsockname()[1]}"


@pytest.fixture
def silent_endpoint() -> Iterator[str]:
    """A port that accepts connections (the kernel does, into the backlog) and never answers."""
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        listening.listen(128)
        yield f"http://{HOST}:{listening.getsockname()[1]}"


@pytest.fixture
def elsewhere_endpoint() -> Iterator[str]:
    """A store whose bucket lives in another region, as S3 says it."""
    body = s3_error("PermanentRedirect", "The bucket must be addressed at another endpoint.")
    with answering(301, body, {"x-amz-bucket-region": "eu-central-1"}) as endpoint:
        yield endpoint
