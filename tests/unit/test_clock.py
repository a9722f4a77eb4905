"""How a node's clock is read: the doubt holds whatever the way took, and whatever a clock was set by meanwhile."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_anystorage.diagnosis.clock import Moment, read_clock

WAYS = st.floats(0, 10)
SET_BY = st.floats(0, 10)
ROUNDING = 1e-6


@pytest.mark.parametrize(
    ("there", "back", "ahead"),
    [(0.5, 0.5, 0.0), (0.0, 1.0, 0.0), (1.0, 0.0, 3600.0), (0.2, 0.1, -7200.0)],
)
def test_it_lies_within_half_of_the_way(there: float, back: float, ahead: float) -> None:
    began, ended = there, there + 5.0
    found = read_clock(
        Moment(100.0, 0.0),
        Moment(100.0 + began + ahead, 40.0 + began),
        Moment(100.0 + ended + ahead, 40.0 + ended),
        Moment(100.0 + ended + back, ended + back),
    )
    assert found.error == pytest.approx((there + back) / 2)
    assert abs(found.offset - ahead) <= found.error + ROUNDING


@given(st.lists(WAYS, min_size=3, max_size=3), st.lists(SET_BY, min_size=3, max_size=3), st.sampled_from((-1, 1)))
def test_one_clock_is_its_own_also_where_it_is_set_while_it_is_asked(
    ways: list[float], set_by: list[float], way: int
) -> None:
    """The steps fall between the four instants. One of 1.3 ms is enough to make a doubt by its time alone negative."""
    steady = [0.0, *accumulate(ways)]
    moved = [0.0, *accumulate(way * by for by in set_by)]
    found = read_clock(*(Moment(1_000.0 + at + off, at) for at, off in zip(steady, moved, strict=True)))
    assert abs(found.offset) <= found.error + ROUNDING


def test_clocks_that_run_at_other_rates_leave_no_doubt_below_nothing() -> None:
    found = read_clock(Moment(0.0, 0.0), Moment(0.0, 0.0), Moment(10.001, 10.001), Moment(10.0, 10.0))
    assert found.error == 0.0
