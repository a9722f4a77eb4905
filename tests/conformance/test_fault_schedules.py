"""Seeded schedules of all faults at once, what patience means in them, and who honours what the store asks for."""

from __future__ import annotations

import itertools
import threading
from functools import partial
from pathlib import Path

import pytest

from ray_anystorage import errors
from ray_anystorage.testing.store_files import incoming, leftovers, same_content, transfer_threads, write_files
from ray_anystorage.transfer.budget import Budget, Cancel
from ray_anystorage.transfer.digest import CHUNK_BYTES
from ray_anystorage.transfer.engine import download, upload
from ray_anystorage.transfer.retry import Patience, Transient, persist
from ray_anystorage.transfer.s3_store import S3Store
from tests.harness.faulty_proxy import Fault, FaultyProxy, Rule, share
from tests.harness.faulty_store import proxy, store, whole_objects

__all__ = ["proxy", "store"]

KINDS: tuple[Fault, ...] = ("503", "reset", "truncate", "flip")
MIXED: tuple[Fault, ...] = (*KINDS, *KINDS, *KINDS, "stall")  # which takes a second each time
SEEDS = {10: 131, 50: 5, 90: 38}  # among the first of each are a 503 and a stall, of the last all kinds
ENDURING = Patience(first_delay=0.005, longest_delay=0.02)
IMPATIENT = Patience(first_delay=0.001, longest_delay=0.01, attempts=4)


def survives(store: S3Store, proxy: FaultyProxy, folder: Path, sizes: dict[str, int], rule: Rule) -> Budget:
    """Send and fetch files under a rule; the bytes must be right and nothing left."""
    files, budget = write_files(folder / "source", sizes), Budget()
    proxy.rule = rule
    stored = upload(store, files, budget=budget, patience=ENDURING)
    assert transfer_threads() == []
    download(store, incoming(stored, folder / "target"), budget=budget, patience=ENDURING)
    proxy.rule = lambda method, path: None
    assert transfer_threads() == []
    assert leftovers(folder / "target") == []
    assert same_content(files, folder / "target")
    assert whole_objects(store, files) == set(sizes)
    return budget


@pytest.mark.parametrize("percent", [10, 50, 90])
def test_all_faults_together(store: S3Store, proxy: FaultyProxy, tmp_path: Path, percent: int) -> None:
    sizes = {"small/1": 10_000, "small/2": 0, "large.bin": 3 * CHUNK_BYTES}
    budget = survives(store, proxy, tmp_path, sizes, share(percent, MIXED, seed=SEEDS[percent]))
    assert budget.retries > 0
    assert budget.cuts > 0
    assert percent < 90 or set(proxy.faults) == set(MIXED)


@pytest.mark.soak
@pytest.mark.timeout(600)  # of ten requests nine fail, a good part of them by a stall, and few are made at once then
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("percent", [10, 50, 90])
def test_all_faults_together_for_long(
    store: S3Store, proxy: FaultyProxy, tmp_path: Path, percent: int, seed: int
) -> None:
    # No chunk of a few bytes: of so few bits the same one flips again and again, which is damage.
    sizes = {f"small/{i}": 10_000 + i for i in range(40)} | {f"large{i}": 3 * CHUNK_BYTES + 9000 * i for i in range(3)}
    survives(store, proxy, tmp_path, sizes, share(percent, MIXED, seed=seed))


def test_who_is_impatient_gets_a_clear_error_and_nothing_in_part(
    store: S3Store, proxy: FaultyProxy, tmp_path: Path
) -> None:
    files = write_files(tmp_path / "source", {f"{i}": 10_000 for i in range(12)} | {"large.bin": 3 * CHUNK_BYTES})
    said = r"(?s)given up after 4 attempts.*tried: {}.*what to do: "
    proxy.rule = share(90, MIXED, seed=2)
    with pytest.raises(errors.StoreUnavailableError, match=said.format("(put|multipart upload) s3://")):
        upload(store, files, patience=IMPATIENT)
    assert transfer_threads() == []
    proxy.rule = lambda method, path: None
    assert whole_objects(store, files) != {file.key for file in files}
    wanted = incoming(upload(store, files), tmp_path / "target")
    proxy.rule = share(90, MIXED, seed=3)
    with pytest.raises(errors.StoreUnavailableError, match=said.format("(get s3://|fetch it to )")):
        download(store, wanted, patience=IMPATIENT)
    assert transfer_threads() == []
    assert leftovers(tmp_path / "target") == []
    there = [file for file in files if (tmp_path / "target" / file.key).exists()]
    assert same_content(there, tmp_path / "target")


def test_the_default_patience_outlasts_a_bad_minute() -> None:
    patience = Patience()
    assert patience.give_up_after > 120
    for _ in range(100):
        waits = itertools.accumulate(patience.delay(failures) for failures in range(1, patience.attempts))
        assert max(waits) > patience.give_up_after, "attempts ran out before the time"


class Watched(Cancel):
    """Notes how long somebody meant to wait, and lets them go on at once."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


def test_a_store_that_says_when_to_come_back_is_heeded(store: S3Store, proxy: FaultyProxy) -> None:
    rights, numbers, watched = Patience(first_delay=0.5, longest_delay=0.5), itertools.count(), Watched()
    s3_upload = store.begin("large", 2 * CHUNK_BYTES)
    proxy.rule, proxy.retry_after = (lambda method, path: "503" if next(numbers) < 3 else None), 7
    persist(partial(s3_upload.part, 0, 0, bytes(CHUNK_BYTES)), Budget(), watched, rights)
    assert len(watched.waits) == 3
    assert all(7 <= wait <= 7.5 for wait in watched.waits)
    assert len(set(watched.waits)) == 3, "all who were sent away come back together"
    assert rights.wait(1, 3600.0) < 100, "a store may not stop a save for an hour"
    s3_upload.abort()


def test_waiting_for_a_turn_takes_nothing_from_the_patience() -> None:
    budget, numbers, patience = Budget(requests=1), itertools.count(), Patience(first_delay=0, give_up_after=0.05)
    held = budget.slot(Cancel())
    held.__enter__()
    turn = threading.Timer(0.2, lambda: held.__exit__(None, None, None))
    turn.start()

    def request() -> int:
        if (number := next(numbers)) == 0:
            where = {"tier": "artifact", "place": "s3://b/k", "tried": "put", "remedy": "wait"}
            raise Transient(errors.StoreUnavailableError("busy", **where))
        return number

    assert persist(request, budget, Cancel(), patience) == 1
    turn.join()
