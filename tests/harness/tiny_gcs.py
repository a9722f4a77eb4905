"""A few lines of GCS's XML API in memory: there is no server of it to install that speaks what obstore speaks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

HOST = "127.0.0.1"


@dataclass
class TinyGcs:
    """Its URL, and the objects by their path (bucket and key)."""

    endpoint: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)


@pytest.fixture
def tiny_gcs() -> Iterator[TinyGcs]:
    """A store that takes every token, lists nothing, and keeps what it is given."""
    store = TinyGcs()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            path, query = unquote(urlsplit(self.path).path).lstrip("/"), urlsplit(self.path).query
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, payload = 200, b""
            if "list-type" in query:
                store.seen.append("list")
                payload = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
            elif self.command == "PUT":
                store.seen.append("put")
                store.objects[path] = body
            elif self.command == "DELETE":
                store.seen.append("delete")
                status = 204 if store.objects.pop(path, None) is not None else 404
            else:
                store.seen.append("get")
                payload = store.objects[path]
            self.send_response(status)
            for name, value in (
                ("Content-Length", str(len(payload))),
                ("ETag", '"1"'),
                ("Last-Modified", "Mon, 02 Jan 2023 00:00:00 GMT"),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_PUT = do_DELETE = answer  # noqa: N815 - names of the base class

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer((HOST, 0), Handler)
    store.endpoint = f"http://{HOST}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
