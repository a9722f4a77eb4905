"""An HTTP proxy on loopback before an S3 server that counts what was fetched of each object, phase by phase."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from tests.harness.bad_endpoints import HOST

PHASE = "/.phase/"  # a GET of this and a name begins a phase, for tests whose steps are in other processes


@dataclass
class CountingProxy:
    """The proxy's URL, and what went through it.

    Attributes
    ----------
    phase
        Its present name.
    fetched
        Bytes of the bodies of good answers to GET, by phase and key (with the bucket's name, decoded, without query).
    """

    endpoint: str = ""
    phase: str = ""
    fetched: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def data(self, phase: str) -> dict[str, int]:
        """What a phase fetched of the data of checkpoints, by path below the checkpoint.

        Data is what the user saved: neither this package's own files, nor Ray's note, nor a listing.
        """
        found: Counter[str] = Counter()
        for key, size in self.fetched[phase].items():
            folder, mark, rest = key.partition("/checkpoint_")
            path = rest.partition("/")[2]
            if folder and mark and path and not path.startswith((".anystorage/", ".metadata.json")):
                found[path] += size
        return dict(found)


@contextlib.contextmanager
def counting_proxy(target: str) -> Iterator[CountingProxy]:
    """Run a proxy before the endpoint ``target`` for the length of a ``with`` block."""
    proxy = CountingProxy()

    class Handler(_Handler):
        shared = proxy
        store = urlsplit(target).netloc

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            """Say nothing of clients that went away."""

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


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    shared: CountingProxy
    store: str

    def handle_one(self) -> None:
        if self.path.startswith(PHASE):
            self.shared.phase = self.path.removeprefix(PHASE)
            self._send(200, {}, b"")
            return
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
        body = b"".join(self._chunks()) if chunked else self.rfile.read(int(self.headers.get("Content-Length", 0)))
        connection = http.client.HTTPConnection(self.store, timeout=60)
        with contextlib.closing(connection):
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    connection.putheader(name, value)
            connection.endheaders([body] if chunked else body or None, encode_chunked=chunked)
            response = connection.getresponse()
            payload = response.read()
        if self.command == "GET" and response.status in (200, 206):
            self._count(payload)
        headers = {name.lower(): value for name, value in response.getheaders()}
        length = headers.get("content-length") if self.command == "HEAD" else None
        self._send(response.status, headers, payload, length)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one  # noqa: N815 - names of the base class

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers, which nobody here sends
            pass

    def _count(self, payload: bytes) -> None:
        key = unquote(urlsplit(self.path).path).removeprefix("/")
        with self.shared.lock:
            self.shared.fetched[self.shared.phase][key] += len(payload)

    def _send(self, status: int, headers: dict[str, str], payload: bytes, length: str | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
