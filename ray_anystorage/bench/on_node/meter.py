"""What an action takes of the process that does it: seconds, CPU, memory, requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ray_anystorage.transfer.store import Counters

T = TypeVar("T")
_SAMPLE = 0.02  # seconds between looks at the memory


@dataclass(frozen=True, slots=True)
class Took:
    """What one action took.

    Attributes
    ----------
    seconds
        Of the clock.
    cpu
        Seconds of all threads of the process.
    memory
        Bytes by which the anonymous resident memory grew at most; ``None`` where the system does not say.
    requests
        To the store; ``None`` where nobody counts them.
    stall
        Seconds of ``seconds`` that training would have stood still; all of them where nothing goes on behind it.
    fetched
        Bytes that came from the store.
    """

    seconds: float
    cpu: float
    memory: int | None = None
    requests: int | None = None
    stall: float | None = None
    fetched: int | None = None


def metered(action: Callable[[], T], counters: Counters | None = None) -> tuple[Took, T]:
    """Do something; what it took, and what it gave."""
    before = counters.requests if counters is not None else 0
    with _Memory() as memory:
        cpu, start = time.process_time(), time.perf_counter()
        value = action()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    requests = counters.requests - before if counters is not None else None
    return Took(seconds, cpu, memory.growth, requests), value


class _Memory:
    """Looks at this process's anonymous memory while it lasts (proc(5), RssAnon)."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._first = self._peak = _anonymous()
        self._thread = threading.Thread(target=self._look, name="anystorage-meter", daemon=True)

    def __enter__(self) -> _Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def growth(self) -> int | None:
        """Bytes above what there was at first."""
        return None if self._first is None or self._peak is None else max(0, self._peak - self._first)

    def _look(self) -> None:
        while self._first is not None and not self._over.wait(_SAMPLE):
            self._peak = max(self._peak or 0, _anonymous() or 0)


def _anonymous() -> int | None:
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            found = [int(line.split()[1]) << 10 for line in file if line.startswith("RssAnon:")]
    except FileNotFoundError:  # not Linux
        return None
    return found[0] if found else None
