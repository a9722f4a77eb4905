"""Waiting for a condition, which is looked at again and again, until a time limit."""

from __future__ import annotations

import time
from collections.abc import Callable

_LOOK_EVERY = 0.02  # seconds


def wait_until(condition: Callable[[], object], timeout: float, what: str) -> None:
    """Return once the condition holds; fail the test, saying what did not come about, after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(_LOOK_EVERY)
