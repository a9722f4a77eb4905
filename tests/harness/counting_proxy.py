"""An HTTP proxy on loopback before an S3 server that counts what was fetched of each object, phase by phase."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from tests.harness.passing_on import PassingOn, serving

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

    with serving(Handler, target) as proxy.endpoint:
        yield proxy


class _Handler(PassingOn):
    shared: CountingProxy

    def handle_one(self) -> None:
        if self.path.startswith(PHASE):
            self.shared.phase = self.path.removeprefix(PHASE)
            self.send(200, {}, b"")
            return
        status, headers, payload = self.passed_on(self.body())
        if self.command == "GET" and status in (200, 206):
            self._count(payload)
        self.send(status, headers, payload)

    def _count(self, payload: bytes) -> None:
        key = unquote(urlsplit(self.path).path).removeprefix("/")
        with self.shared.lock:
            self.shared.fetched[self.shared.phase][key] += len(payload)
