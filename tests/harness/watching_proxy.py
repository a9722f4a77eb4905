"""An HTTP(S) proxy on loopback before a store that notes every request, and refuses what a policy does not allow."""

from __future__ import annotations

import contextlib
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from tests.harness.bad_endpoints import s3_error
from tests.harness.passing_on import PassingOn, serving

_KEY = re.compile(rb"<Key>([^<]*)</Key>")


@dataclass(frozen=True)
class Seen:
    """One request: its path decoded, header names in lower case; the body of a POST alone."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def name(self) -> str:
        """The S3 operation, as far as tests tell them apart."""
        if self.method == "POST":
            return next((name for name in ("delete", "uploads", "uploadId") if name in self.query), "POST")
        if self.method == "PUT" and "x-amz-copy-source" in self.headers:
            return "part copy" if "uploadId" in self.query else "copy"
        return "part" if self.method == "PUT" and "uploadId" in self.query else self.method

    def __str__(self) -> str:
        query = "&".join(f"{name}={value}" for name, value in self.query.items())
        return f"{self.method} {self.path}?{query}"


@dataclass
class WatchingProxy:
    """The proxy's URL, what came, what of it was refused with 403, and which headers of answers it leaves out."""

    endpoint: str = ""
    refuses: Callable[[Seen], bool] = lambda seen: False
    leaves_out: frozenset[str] = frozenset()
    seen: list[Seen] = field(default_factory=list)
    refused: list[Seen] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def outside(bucket: str, prefix: str) -> Callable[[Seen], bool]:
    """The rule of a policy that allows everything below a prefix, a list of what lies there, and nothing else."""
    allowed = f"/{bucket}/{prefix}/"

    def refuses(seen: Seen) -> bool:
        copied = unquote(seen.headers.get("x-amz-copy-source", ""))
        if copied and not f"/{copied.lstrip('/')}".startswith(allowed):
            return True
        if seen.path.rstrip("/") != f"/{bucket}":
            return not seen.path.startswith(allowed)
        if seen.name == "delete":
            keys = [key.decode() for key in _KEY.findall(seen.body)]
            return not keys or not all(key.startswith(f"{prefix}/") for key in keys)
        listing = seen.method == "GET" and ("list-type" in seen.query or "uploads" in seen.query)
        return not listing or not seen.query.get("prefix", "").startswith(f"{prefix}/")

    return refuses


@contextlib.contextmanager
def watching_proxy(target: str, *, tls: ssl.SSLContext | None = None) -> Iterator[WatchingProxy]:
    """Run a proxy before the endpoint ``target`` for the length of a ``with`` block; by https with ``tls``."""
    proxy = WatchingProxy()

    class Handler(_Handler):
        shared = proxy

    with serving(Handler, target, tls=tls) as proxy.endpoint:
        yield proxy


class _Handler(PassingOn):
    shared: WatchingProxy

    def handle_one(self) -> None:
        url, body = urlsplit(self.path), self.body()
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(self.command, unquote(url.path), query, headers, body if self.command == "POST" else b"")
        refuse = self.shared.refuses(seen)
        with self.shared.lock:
            self.shared.seen.append(seen)
            if refuse:
                self.shared.refused.append(seen)
        if refuse:
            self.send(403, {"content-type": "application/xml"}, s3_error("AccessDenied", "Access Denied").encode())
        else:
            status, answered, payload = self.passed_on(body)
            passed = {name: value for name, value in answered.items() if name not in self.shared.leaves_out}
            self.send(status, passed, payload)
