"""An HTTP proxy on loopback that passes requests on to a store, and fails some of them on purpose."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from tests.harness.bad_endpoints import s3_error
from tests.harness.passing_on import PassingOn, serving

Fault = Literal["503", "500", "429", "404", "reset", "truncate", "flip", "stall"]
Rule = Callable[[str, str], "Fault | None"]
_CREDENTIAL = re.compile(r"Credential=([^/]+)/")
_STATUS = {"503": "SlowDown", "500": "InternalError", "429": "TooManyRequests", "404": "NoSuchUpload"}


@dataclass
class FaultyProxy:
    """The proxy's URL, what it does, and what it has seen.

    Attributes
    ----------
    rule
        From method and path (with its query) to the fault that this request meets; it may be replaced at any time.
    requests, faults
        How many came by method, and how many failed by fault.
    busiest
        The largest number of requests at the same time since it was last set to 0.
    expired
        Access keys that are answered as S3 answers those of a session that has ended.
    retry_after
        Seconds that goes with a 503 or 429, as its ``Retry-After``.
    """

    endpoint: str = ""
    rule: Rule = lambda method, path: None
    requests: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    body_bytes: Counter[str] = field(default_factory=Counter)
    busiest: int = 0
    at_once: int = 0
    expired: set[str] = field(default_factory=set)
    retry_after: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    bits: random.Random = field(default_factory=lambda: random.Random(1))
    closing: threading.Event = field(default_factory=threading.Event)


def share(percent: float, faults: tuple[Fault, ...], seed: int = 1) -> Rule:
    """Fail so many requests of a hundred, each with one of the faults, by a seeded draw."""
    draw, lock = random.Random(seed), threading.Lock()

    def rule(method: str, path: str) -> Fault | None:
        with lock:
            return draw.choice(faults) if draw.uniform(0, 100) < percent else None

    return rule


@contextlib.contextmanager
def faulty_proxy(target: str) -> Iterator[FaultyProxy]:
    """Run a proxy before the endpoint ``target`` for the length of a ``with`` block."""
    proxy = FaultyProxy()

    class Handler(_Handler):
        shared = proxy

    with serving(Handler, target) as proxy.endpoint:
        try:
            yield proxy
        finally:
            proxy.closing.set()


class _Handler(PassingOn):
    shared: FaultyProxy

    def handle_one(self) -> None:
        proxy = self.shared
        with proxy.lock:
            proxy.at_once += 1
            proxy.busiest = max(proxy.busiest, proxy.at_once)
        try:
            body = self.body()
            fault = proxy.rule(self.command, self.path)
            expired = _CREDENTIAL.search(self.headers.get("Authorization", ""))
            refused = expired is not None and expired[1] in proxy.expired
            with proxy.lock:
                proxy.requests[self.command] += 1
                proxy.body_bytes[self.command] += len(body)
                if refused or fault:
                    proxy.faults["expired" if refused else str(fault)] += 1
            if refused:
                self.send(400, {}, s3_error("ExpiredToken", "The provided token has expired.").encode())
            else:
                self._answer(body, fault)
        finally:
            with proxy.lock:
                proxy.at_once -= 1

    def _answer(self, body: bytes, fault: Fault | None) -> None:
        if fault in _STATUS:
            asked = self.shared.retry_after
            headers = {} if asked is None else {"retry-after": str(asked)}
            self.send(int(fault), headers, s3_error(_STATUS[fault], "as asked for").encode())
        elif fault == "reset":
            self._reset()
        elif fault == "stall":
            self.shared.closing.wait()
            self.close_connection = True
        else:
            if fault == "flip" and self.command in ("PUT", "POST"):
                body, fault = self._flipped(body), None
            self._pass_on(body, fault)

    def _pass_on(self, body: bytes, fault: Fault | None) -> None:
        status, headers, payload = self.passed_on(body)
        if fault == "truncate" and self.command != "HEAD":
            self.send(status, headers, payload[: len(payload) // 2], length=str(max(len(payload), 1)))
            self._reset(hard=False)
        else:
            self.send(status, headers, self._flipped(payload) if fault == "flip" else payload)

    def _reset(self, *, hard: bool = True) -> None:
        self.close_connection = True
        if hard:
            self.drop_unsent()
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR) if not hard else self.connection.close()

    def _flipped(self, body: bytes) -> bytes:
        """The body with one bit changed, each time another."""
        if not body:
            return body
        with self.shared.lock:
            at, bit = self.shared.bits.randrange(len(body)), self.shared.bits.randrange(8)
        return body[:at] + bytes([body[at] ^ (1 << bit)]) + body[at + 1 :]
