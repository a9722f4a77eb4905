"""Doing something on more and more threads, for as long as that helps; and again and again, for its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ray_anystorage.bench.limits import Rung
from ray_anystorage.bench.on_node.cores import Busy

STEP = 0.5  # seconds of one step at least
_HELPS = 1.1  # times as much by twice as many threads: less, twice in a row, and the ladder ends
_LONG = 4.0  # seconds of one step
_SINGLE = 20  # operations for a latency
_BRIEF = 0.2  # seconds for what needs no more


@dataclass(frozen=True, slots=True)
class Counts:
    """How many at once are tried, the fewest first: for writing and reading what is large, and for what is small."""

    write: tuple[int, ...]
    read: tuple[int, ...]
    small: tuple[int, ...]

    @classmethod
    def up_to(cls, most: int) -> Counts:
        """1, 2, 4, … up to ``most``."""
        steps = tuple(numbers(most))
        return cls(steps, steps, steps)

    @classmethod
    def known(cls, write: int, read: int, small: int) -> Counts:
        """One, and what was found to be best elsewhere."""
        return cls(tuple(sorted({1, write})), tuple(sorted({1, read})), (small,))


def climb(
    request: Callable[[int], int], counts: Iterable[int], *, may: Callable[[int], bool] = lambda _: True
) -> tuple[Rung, ...]:
    """Do a request over and over on more and more threads, for as long as more of them help.

    Parameters
    ----------
    request
        Gets the number of its thread; gives the bytes that it moved.
    counts
        Of threads, the fewest first.
    may
        Whether so many more requests may be made.
    """
    rungs: list[Rung] = []
    for count in counts:
        if rungs and not may(2 * count):
            break
        start = time.perf_counter()
        busy = Busy()
        rate = step(request, count, STEP)
        rungs.append(Rung(count, rate, busy.share()))
        if time.perf_counter() - start > _LONG:  # the link is full: more would only take longer
            break
        if len(rungs) > 2 and rungs[-1].rate < rungs[-3].rate * _HELPS and rungs[-2].rate < rungs[-3].rate * _HELPS:
            break
    return tuple(rungs)


def numbers(most: int) -> Iterator[int]:
    """1, 2, 4, … up to ``most``, which is the last."""
    count = 1
    while count < most:
        yield count
        count *= 2
    yield most


def step(request: Callable[[int], int], count: int, seconds: float) -> float:
    """Bytes per second by so many threads; each makes two requests at least."""

    def work(number: int) -> int:
        moved = sum(request(number) for _ in range(2))
        while time.perf_counter() < end:
            moved += request(number)
        return moved

    with ThreadPoolExecutor(count) as pool:
        start = time.perf_counter()
        end = start + seconds
        moved = sum(pool.map(work, range(count)))
        return moved / (time.perf_counter() - start)


def times(action: Callable[[], object]) -> list[float]:
    """Seconds that it takes, some times."""
    seconds: list[float] = []
    until = time.perf_counter() + 2 * STEP
    while len(seconds) < _SINGLE and (len(seconds) < 2 or time.perf_counter() < until):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return seconds


def rate_of(action: Callable[[], int]) -> float:
    """Bytes per second of one thread."""
    action()
    moved, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < _BRIEF:
        moved += action()
    return moved / seconds


def all_at_once(actions: list[Callable[[], int]]) -> float:
    """Bytes per second by actions that begin together."""
    with ThreadPoolExecutor(len(actions)) as pool:
        start = time.perf_counter()
        moved: int = sum(pool.map(lambda action: action(), actions))
        return moved / (time.perf_counter() - start)
