"""Trying again: what deserves it, how long to wait, and when to give up."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ray_anystorage.errors import StorageError, StoreUnavailableError
from ray_anystorage.transfer.budget import Budget, Cancel

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_chance = random.SystemRandom()  # neither alike in processes of one seed, nor a step in a user's sequence


class Transient(Exception):  # noqa: N818 - it is a signal to the engine, and never leaves it
    """A failure that another attempt may not meet.

    Parameters
    ----------
    problem
        The error to raise when no attempt is left.
    throttled
        The store asked for fewer requests (429, 503).
    retry_after
        Seconds that the store asked to be left alone for.
    """

    def __init__(self, problem: StorageError, *, throttled: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(str(problem))
        self.problem = problem
        self.throttled = throttled
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one request is tried. Unless told otherwise time ends it: a bad minute of the store is outlasted.

    Attributes
    ----------
    first_delay, longest_delay
        Seconds; the bound of the wait doubles from one to the other, and the wait is drawn evenly below it ("full
        jitter", https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
    give_up_after
        Seconds since the first attempt after which none follows.
    attempts
        At most so many.
    longest_asked
        Seconds that a store may ask to be left alone for; what it asks beyond them is not heeded.
    complain_after
        Seconds since the first attempt after which a warning says that a request fails.
    """

    first_delay: float = 0.05
    longest_delay: float = 5.0
    give_up_after: float = 300.0
    attempts: int = 1000
    longest_asked: float = 60.0
    complain_after: float = 10.0

    def delay(self, failures: int) -> float:
        """Seconds to wait after so many failures."""
        return _chance.uniform(0, min(self.longest_delay, self.first_delay * 2 ** min(failures - 1, 30)))

    def wait(self, failures: int, asked: float) -> float:
        """Seconds to wait after so many failures, where the store asked for some: drawn above them, not to meet."""
        return min(asked, self.longest_asked) + self.delay(failures)


_ABORT_PATIENCE = Patience(attempts=5, longest_delay=0.5)


def persist(request: Callable[[], Result], budget: Budget, cancel: Cancel, patience: Patience) -> Result:
    """Make a request until it succeeds, a slot of the budget held for each attempt and for no wait between.

    Raises
    ------
    StorageError
        A hard failure, or the last transient one when patience ends.
    TransferCancelledError
        Somebody cancelled.
    """
    began = 0.0
    for failures in range(1, patience.attempts + 1):
        try:
            with budget.slot(cancel):
                if failures == 1:  # the wait for the first slot does not count
                    began = time.monotonic()
                return request()
        except Transient as transient:
            budget.retried()
            seconds = time.monotonic() - began
            if failures == patience.attempts or seconds > patience.give_up_after:
                raise _given_up(transient, failures, seconds) from transient
            if seconds >= patience.complain_after and budget.may_complain():
                _complain(transient.problem, seconds, patience.give_up_after)
            wait = patience.wait(failures, transient.retry_after)
        cancel.sleep(wait)
    raise AssertionError("unreachable")


def gave_back(abort: Callable[[], None], budget: Budget) -> bool:
    """Take back what was begun, also after a cancel; false where the store keeps it, for ``unfinished`` to find."""
    try:
        persist(abort, budget, Cancel(), _ABORT_PATIENCE)
    except StorageError:
        return False
    return True


def _complain(problem: StorageError, seconds: float, limit: float) -> None:
    logger.warning(
        "%s storage %s: %s; requests have failed for %.0f s, and are tried again for up to %.0f s",
        problem.tier,
        problem.place,
        problem.reason,
        seconds,
        limit,
    )


def _given_up(transient: Transient, attempts: int, seconds: float) -> StorageError:
    problem = transient.problem
    if not isinstance(problem, StoreUnavailableError):
        return problem
    return StoreUnavailableError(
        f"{problem.reason} (given up after {attempts} attempts in {seconds:.1f} s)",
        tier=problem.tier,
        place=problem.place,
        tried=problem.tried,
        remedy=problem.remedy,
    )
