"""Files that are left out of a call: told once, taken back by who works on them last, and long before the call ends."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from ray_anystorage.transfer.budget import Budget
from ray_anystorage.transfer.digest import CHUNK_BYTES
from ray_anystorage.transfer.engine import download, upload
from ray_anystorage.transfer.files import Incoming, Outgoing
from ray_anystorage.transfer.leaving_out import LeavingOut
from ray_anystorage.transfer.memory_store import MemoryStore
from ray_anystorage.transfer.posix_store import PosixStore
from ray_anystorage.transfer.temporary import is_temporary

MANY = 100


def fail() -> None:
    raise LookupError


def test_it_is_told_once_and_taken_back_by_the_last_who_works_on_it() -> None:
    told, taken_back, began, go_on = [], [], threading.Event(), threading.Event()
    leaving = LeavingOut(lambda: taken_back.append(1))

    def wait() -> None:
        began.set()
        assert go_on.wait(30)

    other = threading.Thread(target=lambda: leaving.unless((LookupError,), wait, lambda: None))
    other.start()
    assert began.wait(30)
    for _ in range(2):
        leaving.unless((LookupError,), fail, lambda: told.append(1))
    assert (told, taken_back, leaving.done()) == ([1], [], True)
    go_on.set()
    other.join()
    assert taken_back == [1]
    leaving.unless((LookupError,), lambda: pytest.fail("somebody works on it still"), lambda: None)
    assert taken_back == [1]


def test_where_telling_raises_it_is_not_left_out() -> None:
    taken_back: list[int] = []
    leaving = LeavingOut(lambda: taken_back.append(1))
    with pytest.raises(ZeroDivisionError):
        leaving.unless((LookupError,), fail, lambda: print(1 // 0))
    assert not leaving.done()
    assert taken_back == []


def test_files_that_are_left_out_of_a_download_hold_nothing_while_it_goes_on(tmp_path: Path) -> None:
    store, goal = PosixStore(str(tmp_path / "store")), tmp_path / "goal"
    store.write_small("kept", b"kept")
    files = [Incoming(f"gone/{number}", str(goal / str(number)), 2 * CHUNK_BYTES) for number in range(MANY)]
    under_way: list[int] = []

    def count(file: Incoming) -> None:
        under_way.append(sum(is_temporary(path.name) for path in goal.iterdir()))

    budget = Budget(requests=4, first_requests=4)
    download(store, [*files, Incoming("kept", str(goal / "kept"), 4)], budget=budget, on_changed=count)
    assert len(under_way) == MANY
    assert max(under_way) <= 5, "as many as there are threads"
    assert [path.name for path in goal.iterdir()] == ["kept"]


def test_files_that_are_left_out_of_an_upload_hold_nothing_while_it_goes_on(tmp_path: Path) -> None:
    store, names = MemoryStore(), [str(number) for number in range(12)]
    for name in names:
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, CHUNK_BYTES + 1)  # its first part is sent
    files = [Outgoing(str(tmp_path / name), name, 3 * CHUNK_BYTES) for name in names]
    under_way: list[int] = []

    def count(file: Outgoing) -> None:
        under_way.append(sum(thread.name == "anystorage-streamed" for thread in threading.enumerate()))

    budget = Budget(requests=4, first_requests=4)
    assert upload(store, files, budget=budget, on_changed=count) == ()
    assert len(under_way) == len(names)
    assert 0 < max(under_way) <= 5, "as many as there are threads"
