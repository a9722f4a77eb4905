"""How many requests at once: against stores whose time per request is a known function of how many there are."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import pytest

from ray_anystorage.transfer.digest import CHUNK_BYTES
from ray_anystorage.transfer.pace import Pace, Stride


def play(pace: Pace, requests: int, seconds: Callable[[int], float]) -> list[int]:
    """Let as many requests run as the pace allows, each as long as ``seconds`` of those under way; the limits seen."""
    now, ends, limits = 0.0, list[float](), []
    for _ in range(requests):
        while len(ends) < int(pace.limit):
            pace.began(now)
            heapq.heappush(ends, now + seconds(len(ends) + 1))
        now = heapq.heappop(ends)
        pace.succeeded(now)
        limits.append(int(pace.limit))
    return limits


def test_far_away_it_doubles_every_round_up_to_the_bound() -> None:
    limits = play(Pace(4, 64), 200, lambda running: 0.05)
    assert list(dict.fromkeys(limits)) == [4, 8, 16, 32, 64]
    assert limits.index(64) < 4 + 8 + 16 + 32


def test_where_the_processor_is_the_limit_it_stays_small() -> None:
    limits = play(Pace(4, 64), 2000, lambda running: 0.01 * running)  # ten milliseconds of work each, one after another
    assert max(limits) == 8  # it tries, again and again
    assert sum(limit == 8 for limit in limits) < len(limits) / 4


@pytest.mark.parametrize("useful", [8, 16, 32])
def test_it_stops_where_more_do_not_help(useful: int) -> None:
    limits = play(Pace(4, 64), 4000, lambda running: 0.05 * max(1.0, running / useful))
    assert max(limits) == 2 * useful
    assert sum(limit == useful for limit in limits) > len(limits) / 2


def test_it_tries_again_when_the_store_becomes_slower_to_answer() -> None:
    pace = Pace(4, 64)
    play(pace, 500, lambda running: 0.01 * running)
    assert pace.limit <= 8
    play(pace, 2000, lambda running: 0.05)
    assert pace.limit == 64


def test_throttling_halves_and_success_grows_back_slowly() -> None:
    pace = Pace(16, 32)
    pace.throttled()
    assert (pace.limit, pace.lowest, pace.cuts) == (8, 8, 1)
    for _ in range(8):
        pace.succeeded(1.0)
    assert 8.9 < pace.limit < 9.1  # one more for a round of eight
    for _ in range(5):
        pace.throttled()
    assert pace.limit == pace.lowest == 1


def test_never_more_than_the_bound() -> None:
    assert max(play(Pace(4, 6), 100, lambda running: 0.05)) == 6
    assert Pace(8, 3).limit == 3


def test_a_request_takes_more_chunks_where_they_come_quickly() -> None:
    stride = Stride()
    assert stride.chunks(1000, 4) == 1  # nothing is known yet
    for megabytes_per_second, expected in ((20, 1), (90, 2), (1000, 4), (20, 1)):
        stride.took(CHUNK_BYTES, CHUNK_BYTES / (megabytes_per_second * 1e6))
        assert stride.chunks(1000, 4) == expected


def test_towards_the_end_every_request_has_a_share() -> None:
    stride = Stride()
    stride.took(CHUNK_BYTES, 0.001)
    assert [stride.chunks(left, 4) for left in (100, 32, 31, 16, 15, 1)] == [4, 4, 3, 2, 1, 1]
