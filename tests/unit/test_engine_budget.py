"""The engine's own parts, without a store: budget, patience, cancelling, workers."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading

import pytest

from ray_anystorage.errors import BucketError, StoreUnavailableError, TransferCancelledError
from ray_anystorage.transfer.budget import Budget, Cancel
from ray_anystorage.transfer.retry import Patience, Transient, persist
from ray_anystorage.transfer.workers import run_tasks

LONG = Patience(first_delay=100.0, longest_delay=100.0)
QUICK = Patience(first_delay=0.0, longest_delay=0.0)


def transient(*, throttled: bool = False) -> Transient:
    problem = StoreUnavailableError("busy", tier="artifact", place="s3://b/k", tried="put", remedy="wait")
    return Transient(problem, throttled=throttled)


def test_of_requests_that_fail_for_long_one_says_so(caplog: pytest.LogCaptureFixture) -> None:
    budget = Budget()

    def request() -> None:
        raise transient()

    for complain_after, expected in ((60.0, 0), (0.0, 1)):
        patience = Patience(first_delay=0.0, longest_delay=0.0, attempts=20, complain_after=complain_after)
        for _ in range(3):
            with pytest.raises(StoreUnavailableError):
                persist(request, budget, Cancel(), patience)
        said = [record.message for record in caplog.records]
        assert len(said) == expected
    assert said[0].startswith("artifact storage s3://b/k: busy; requests have failed for 0 s")


def run_one(budget: Budget, error: Exception | None = None) -> None:
    def request() -> None:
        if error is not None:
            raise error

    try:
        with budget.slot(Cancel()):
            request()
    except Transient:
        pass


def test_requests_under_way_together_halve_it_once() -> None:
    budget, cancel = Budget(requests=8, first_requests=8), Cancel()
    all_started = threading.Barrier(8)

    def throttled() -> None:
        with contextlib.suppress(Transient), budget.slot(cancel):
            all_started.wait()
            raise transient(throttled=True)

    threads = [threading.Thread(target=throttled) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (budget.limit, budget.cuts) == (4, 1)


def test_success_after_throttling_grows_back() -> None:
    budget = Budget(requests=32, first_requests=16)
    run_one(budget, transient(throttled=True))
    for _ in range(40):
        run_one(budget)
    assert budget.lowest_limit == 8
    assert 11 < budget.limit < 13


def test_other_failures_do_not_slow_down() -> None:
    budget = Budget(first_requests=8)
    run_one(budget, transient())
    assert (budget.limit, budget.cuts) == (8, 0)


def test_no_more_requests_at_once_than_the_limit() -> None:
    budget, cancel, lock = Budget(requests=3, first_requests=3), Cancel(), threading.Lock()
    running, most = 0, 0
    three = threading.Barrier(3)

    def task() -> None:
        nonlocal running, most
        with budget.slot(cancel):
            with lock:
                running += 1
                most = max(most, running)
            three.wait(10)  # it breaks, and the test fails, unless three run together
            with lock:
                running -= 1

    run_tasks([task] * 30, 10, cancel)
    assert most == 3


def test_buffers_stay_within_memory_and_are_reused() -> None:
    budget, cancel, lock = Budget(memory_bytes=3000), Cancel(), threading.Lock()
    seen: set[int] = set()
    lent, most = 0, 0

    def task() -> None:
        nonlocal lent, most
        with budget.buffer(1000, cancel) as buffer:
            with lock:
                lent += len(buffer)
                most = max(most, lent)
                seen.add(id(buffer))
            with lock:
                lent -= len(buffer)

    run_tasks([task] * 200, 8, cancel)
    assert most <= 3000
    assert len(seen) <= 3


def test_a_buffer_larger_than_memory_is_alone() -> None:
    budget, cancel = Budget(memory_bytes=1000), Cancel()
    with budget.buffer(5000, cancel) as buffer:
        assert len(buffer) == 5000
        cancel.set()
        with pytest.raises(TransferCancelledError), budget.buffer(1, cancel):
            pass


def test_persist_tries_until_it_succeeds() -> None:
    budget, left = Budget(), itertools.count()

    def request() -> str:
        if next(left) < 5:
            raise transient()
        return "done"

    assert persist(request, budget, Cancel(), QUICK) == "done"
    assert budget.retries == 5


def test_persist_gives_up_with_the_reason() -> None:
    def request() -> None:
        raise transient()

    with pytest.raises(StoreUnavailableError, match=r"busy \(given up after 3 attempts"):
        persist(request, Budget(), Cancel(), Patience(first_delay=0, attempts=3))
    with pytest.raises(StoreUnavailableError, match="given up after 1 attempts"):
        persist(request, Budget(), Cancel(), Patience(first_delay=0, give_up_after=-1))


def test_hard_failures_are_not_tried_again() -> None:
    budget, attempts = Budget(), []

    def request() -> None:
        attempts.append(1)
        raise BucketError("no", tier="artifact", place="s3://b/k", tried="put", remedy="none")

    with pytest.raises(BucketError):
        persist(request, budget, Cancel(), QUICK)
    assert attempts == [1]
    assert budget.retries == 0


def test_delays_double_up_to_a_bound_and_are_drawn_below_it() -> None:
    patience = Patience(first_delay=1, longest_delay=10)
    for failures, bound in ((1, 1), (2, 2), (4, 8), (5, 10), (500, 10)):
        delays = [patience.delay(failures) for _ in range(200)]
        assert max(delays) <= bound
        assert min(delays) < bound / 2 < max(delays)


def test_waiting_ends_when_cancelled_even_by_a_parent() -> None:
    parent = Cancel()
    child = Cancel(parent)
    threading.Timer(0.05, parent.set).start()
    with pytest.raises(TransferCancelledError):
        child.sleep(60)
    other = Cancel(parent)
    assert other.is_set
    assert not Cancel().is_set


def test_no_more_threads_than_are_wanted() -> None:
    wanted, running, most, lock = 2, 0, {2: 0, 5: 0}, threading.Lock()
    together = threading.Barrier(5)

    def task(number: int) -> None:
        nonlocal running, wanted
        with lock:
            running += 1
            most[wanted] = max(most[wanted], running)
            if number == 9:
                wanted = 5
        if number >= 20:
            together.wait(10)  # it breaks, and the test fails, unless five run together
        with lock:
            running -= 1

    tasks = ((lambda n=n: task(n)) for n in range(30))
    run_tasks(tasks, 8, Cancel(), lambda: wanted)
    assert most[2] <= 2
    assert most[5] == 5


def test_the_first_failure_ends_all_tasks() -> None:
    cancel, done = Cancel(), []

    def task(number: int) -> None:
        if number == 3:
            raise ValueError("three")
        done.append(number)

    def tasks() -> itertools.count[int]:
        return itertools.count()

    endless = ((lambda n=n: task(n)) for n in tasks())
    with pytest.raises(ValueError, match="three"):
        run_tasks(endless, 4, cancel)
    assert len(done) < 10_000
    assert [t.name for t in threading.enumerate() if t.name.startswith("anystorage-transfer")] == []


def test_the_wait_leaves_a_users_sequence_alone_and_follows_no_seed() -> None:
    random.seed(42)
    state, first = random.getstate(), LONG.delay(1)
    assert random.getstate() == state
    random.seed(42)
    assert LONG.delay(1) != first
