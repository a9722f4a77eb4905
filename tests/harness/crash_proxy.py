"""A proxy before a bucket that counts the requests which change something, and lets one of them fail."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from tests.harness.bad_endpoints import s3_error
from tests.harness.crash_points import Kind, Points
from tests.harness.passing_on import PassingOn, serving

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
    proxy = CrashProxy()

    class Handler(_Handler):
        shared = proxy

    with serving(Handler, target) as proxy.endpoint:
        yield proxy


def _named(method: str, path: str) -> tuple[str, str]:
    """Verb and target of a request: the path below the bucket; of the query, what tells one operation from another."""
    parts = urlsplit(path)
    query = parse_qs(parts.query, keep_blank_values=True)
    operation = [f"part {query['partNumber'][0]}"] if "partNumber" in query else sorted(query.keys() - {"x-id"})
    return " ".join([method, *operation]), unquote(parts.path).lstrip("/").partition("/")[2]


class _Handler(PassingOn):
    shared: CrashProxy

    def handle_one(self) -> None:
        body = self.body()
        kind = self.shared.kind(self.command, self.path)
        if kind == "kill":
            self.shared.kill()
            self.drop_unsent()
        elif kind == "refuse":
            self.send(403, {"content-type": "application/xml"}, s3_error("AccessDenied", "as asked for").encode())
        else:
            status, headers, payload = self.passed_on(body)
            if kind == "lose":
                self.drop_unsent()
            else:
                self.send(status, headers, payload)
