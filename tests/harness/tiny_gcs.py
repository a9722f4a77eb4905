"""What obstore and pyarrow speak of GCS's APIs, in memory: no server that speaks both can be installed."""

from __future__ import annotations

import hashlib
import itertools
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from tests.harness.bad_endpoints import HOST, running, s3_error
from tests.harness.tiny_gcs_json import JsonApi, speaks_json

_PAGE = 1000
_PART = re.compile(rb"<PartNumber>(\d+)</PartNumber>")
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")
Answer = tuple[int, bytes, dict[str, str]]


@dataclass
class TinyGcs:
    """Its URL, and the objects by their path (bucket and key); ``seen`` has what was asked, in a word each."""

    endpoint: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def put(self, path: str, body: bytes, query: dict[str, str], copied: str) -> Answer:
        """Write an object, a part, or a copy."""
        if "uploadId" in query:
            if query["uploadId"] not in self.uploads:
                return missing("NoSuchUpload")
            self.uploads[query["uploadId"]][int(query["partNumber"])] = body
            return 200, b"", {"ETag": etag(body)}
        if copied:
            if copied not in self.objects:
                return missing("NoSuchKey")
            body = self.objects[copied]
        self.objects[path] = body
        return 200, b"", {"ETag": etag(body)}

    def post(self, path: str, body: bytes, query: dict[str, str]) -> Answer:
        """Open an upload, or complete it."""
        if "uploads" in query:
            name = f"upload-{next(self.numbers)}"
            self.uploads[name] = {}
            return (
                200,
                f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>".encode(),
                {},
            )
        parts = self.uploads.pop(query["uploadId"], None)
        if parts is None:
            return missing("NoSuchUpload")
        self.objects[path] = whole = b"".join(parts[int(number)] for number in _PART.findall(body))
        result = f"<CompleteMultipartUploadResult><ETag>{escape(etag(whole))}</ETag></CompleteMultipartUploadResult>"
        return 200, result.encode(), {"ETag": etag(whole)}

    def get(self, path: str, wanted: str) -> Answer:
        """Read an object, or a range of it."""
        if path not in self.objects:
            return missing("NoSuchKey")
        content = self.objects[path]
        headers = {"ETag": etag(content), "x-goog-generation": "1"}
        found = _RANGE.fullmatch(wanted)
        if found is None:
            return 200, content, headers
        first, last = int(found[1]), min(int(found[2]), len(content) - 1)
        if first >= len(content):
            return 416, s3_error("InvalidRange", "The requested range cannot be satisfied.").encode(), {}
        return 206, content[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(content)}"}

    def list(self, bucket: str, query: dict[str, str]) -> Answer:
        """A page of keys."""
        prefix, after = f"{bucket}/{query.get('prefix', '')}", query.get("continuation-token", "")
        paths = sorted(path for path in self.objects if path.startswith(prefix) and path > after)
        entries = "".join(
            f"<Contents><Key>{escape(path.partition('/')[2])}</Key><Size>{len(self.objects[path])}</Size>"
            f"<ETag>{escape(etag(self.objects[path]))}</ETag><LastModified>2023-01-02T00:00:00.000Z</LastModified></Contents>"
            for path in paths[:_PAGE]
        )
        more = f"<NextContinuationToken>{escape(paths[_PAGE - 1])}</NextContinuationToken>" if paths[_PAGE:] else ""
        return 200, f"<ListBucketResult>{entries}{more}</ListBucketResult>".encode(), {}

    def delete(self, path: str, query: dict[str, str]) -> Answer:
        """Remove an object, or an upload."""
        there = self.uploads.pop(query["uploadId"], None) if "uploadId" in query else self.objects.pop(path, None)
        return (204, b"", {}) if there is not None else missing("NoSuchKey")


def etag(content: bytes) -> str:
    """As GCS has it for objects that were not composed."""
    return f'"{hashlib.md5(content).hexdigest()}"'


def missing(code: str) -> Answer:
    """A 404 with a code."""
    return 404, s3_error(code, "The specified one does not exist.").encode(), {}


@pytest.fixture
def tiny_gcs() -> Iterator[TinyGcs]:
    """A store that takes every token, and has every bucket."""
    store = TinyGcs()
    api = JsonApi(store.objects)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def answer(self) -> None:
            url = urlsplit(self.path)
            path = unquote(url.path).lstrip("/")
            query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            copied = unquote(self.headers.get("x-goog-copy-source", "")).lstrip("/")
            if speaks_json(url.path.lstrip("/")):
                with store.lock:
                    raw = url.path.lstrip("/")
                    answer = api.answer(self.command, raw, query, body, self.headers, store.endpoint)
                self.give(*answer)
                return
            with store.lock:
                asked = "list" if "list-type" in query else "copy" if copied else self.command.lower()
                store.seen.append(asked)
                if asked == "list":
                    answer = store.list(path.rstrip("/"), query)
                elif self.command == "PUT":
                    answer = store.put(path, body, query, copied)
                elif self.command == "POST":
                    answer = store.post(path, body, query)
                elif self.command == "DELETE":
                    answer = store.delete(path, query)
                else:
                    answer = store.get(path, self.headers.get("Range", ""))
            self.give(*answer)

        def give(self, status: int, payload: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            dated = {"Last-Modified": "Mon, 02 Jan 2023 00:00:00 GMT", "Content-Length": str(len(payload))}
            for name, value in (dated | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(payload)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - names of the base class

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with running(ThreadingHTTPServer((HOST, 0), Handler)) as store.endpoint:
        yield store
