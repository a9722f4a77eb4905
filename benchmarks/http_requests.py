"""Counts the HTTP requests that pass in a stream, without touching their bodies."""

from __future__ import annotations

_HEAD_END = b"\r\n\r\n"
_MAX_HEAD = 64 * 1024


class RequestParser:
    """Follows one connection's requests and adds them, by method, to ``counts``.

    It knows ``Content-Length`` and ``Transfer-Encoding: chunked`` (RFC 9112, section 6).
    """

    def __init__(self, counts: dict[str, int]) -> None:
        self._counts = counts
        self._skip = 0  # bytes of the present body still to come
        self._chunked = False
        self._head = b""  # the beginning of a head, or of a chunk's size line

    def feed(self, data: bytes) -> None:
        """Take the stream's next bytes, cut anywhere."""
        at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            at = self._chunk_size(data, at) if self._chunked else self._request(data, at)

    def _request(self, data: bytes, at: int) -> int:
        head, after = self._until(_HEAD_END, data, at)
        if head is None:
            return after
        method, _, fields = head.lstrip(b"\r\n").partition(b" ")
        name = method.decode("ascii")
        self._counts[name] = self._counts.get(name, 0) + 1
        for line in fields.lower().split(b"\r\n")[1:]:
            field, _, value = line.partition(b":")
            if field == b"content-length":
                self._skip = int(value)
            elif field == b"transfer-encoding" and b"chunked" in value:
                self._chunked = True
        return after

    def _chunk_size(self, data: bytes, at: int) -> int:
        line, after = self._until(b"\r\n", data, at)
        if line is None:
            return after
        size = int(line.partition(b";")[0], 16)
        self._skip = size + len(b"\r\n")  # the last one, of size 0, is taken to have no trailer
        self._chunked = size > 0
        return after

    def _until(self, end: bytes, data: bytes, at: int) -> tuple[bytes | None, int]:
        """The bytes up to ``end``, if they are all there, and where to go on."""
        carried = len(self._head)
        text = self._head + data[at : at + _MAX_HEAD]
        found = text.find(end)
        if found < 0:
            if len(text) > _MAX_HEAD:
                raise ValueError("this is no HTTP request")
            self._head = text
            return None, len(data)
        self._head = b""
        return text[:found], at + found + len(end) - carried
