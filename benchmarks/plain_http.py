"""The least that can move bytes over S3: one socket, hand-signed requests, ``sendfile`` up, bytes dropped down.

It checks nothing but the status and hashes nothing; what it reaches is the ceiling for everybody else.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import socket
import time
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from benchmarks.target import MiB

_PAYLOAD = "UNSIGNED-PAYLOAD"
_SIGNED = "host;x-amz-content-sha256;x-amz-date"


class Signer:
    """AWS Signature Version 4 for S3, payload unsigned."""

    def __init__(self, host: str, region: str, environment: Mapping[str, str]) -> None:
        self._host, self._id = host, environment["AWS_ACCESS_KEY_ID"]
        self._date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self._scope = f"{self._date[:8]}/{region}/s3/aws4_request"
        self._key = ("AWS4" + environment["AWS_SECRET_ACCESS_KEY"]).encode()
        for word in self._scope.split("/"):
            self._key = hmac.digest(self._key, word.encode(), "sha256")

    def head(self, method: str, path: str, query: str, length: int, extra: str = "") -> bytes:
        """The request's head; ``query`` sorted and quoted, ``extra`` whole header lines."""
        fields = f"host:{self._host}\nx-amz-content-sha256:{_PAYLOAD}\nx-amz-date:{self._date}\n"
        canonical = f"{method}\n{path}\n{query}\n{fields}\n{_SIGNED}\n{_PAYLOAD}"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        signature = hmac.new(
            self._key, f"AWS4-HMAC-SHA256\n{self._date}\n{self._scope}\n{digest}".encode(), "sha256"
        ).hexdigest()
        return (
            f"{method} {path}{'?' if query else ''}{query} HTTP/1.1\r\n"
            f"Host: {self._host}\r\nx-amz-date: {self._date}\r\nx-amz-content-sha256: {_PAYLOAD}\r\n"
            f"Authorization: AWS4-HMAC-SHA256 Credential={self._id}/{self._scope}, "
            f"SignedHeaders={_SIGNED}, Signature={signature}\r\n"
            f"Content-Length: {length}\r\n{extra}\r\n"
        ).encode()


class Connection:
    """One keep-alive connection; not for two threads at once."""

    def __init__(self, endpoint: str, bucket: str, signer: Signer) -> None:
        parts = urlsplit(endpoint)
        assert parts.hostname  # noqa: S101 - our own endpoint
        self._socket = socket.create_connection((parts.hostname, parts.port or 80))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._bucket, self._signer = bucket, signer
        self._buffer = bytearray(MiB)

    def close(self) -> None:
        self._socket.close()

    def put(self, key: str, descriptor: int, offset: int, length: int, query: str = "") -> str:
        """Send a piece of a file, return its ETag."""
        self._socket.sendall(self._signer.head("PUT", self._path(key), query, length))
        end = offset + length
        while offset < end:
            offset += os.sendfile(self._socket.fileno(), descriptor, offset, end - offset)
        head, body = self._answer()
        self._drop(head, body)
        return _field(head, "etag")

    def post(self, key: str, query: str, content: bytes = b"") -> bytes:
        """Send a small body, return the answer's."""
        self._socket.sendall(self._signer.head("POST", self._path(key), query, len(content)) + content)
        head, body = self._answer()
        if "chunked" in head.lower():
            while not body.endswith(b"0\r\n\r\n"):
                body += self._receive()
            return body
        while len(body) < int(_field(head, "content-length")):
            body += self._receive()
        return body

    def get(self, key: str, offset: int, length: int, whole: bool) -> None:
        """Receive a piece of an object and drop it."""
        extra = "" if whole else f"Range: bytes={offset}-{offset + length - 1}\r\n"
        self._socket.sendall(self._signer.head("GET", self._path(key), "", 0, extra))
        head, body = self._answer()
        if int(_field(head, "content-length")) != length:
            raise ConnectionError(f"{key}: another length than asked for: {head}")
        self._drop(head, body)

    def _path(self, key: str) -> str:
        return f"/{self._bucket}/{quote(key)}"

    def _receive(self) -> bytes:
        data = self._socket.recv(MiB)
        if not data:
            raise ConnectionError("the server closed the connection in the middle of an answer")
        return data

    def _answer(self) -> tuple[str, bytes]:
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._receive()
        head, _, body = data.partition(b"\r\n\r\n")
        text = head.decode()
        if text.split(" ", 2)[1] not in ("200", "206"):
            raise ConnectionError(f"{text}\n{body.decode(errors='replace')}")
        return text, body

    def _drop(self, head: str, body: bytes) -> None:
        left = int(_field(head, "content-length")) - len(body)
        while left > 0:
            count = self._socket.recv_into(self._buffer, min(left, MiB))
            if not count:
                raise ConnectionError("the server closed the connection in the middle of an answer")
            left -= count


def _field(head: str, name: str) -> str:
    match = re.search(rf"^{name}: *(.*?)\r?$", head, re.IGNORECASE | re.MULTILINE)
    if match is None:
        raise ConnectionError(f"no {name} in the answer: {head}")
    return match[1]
