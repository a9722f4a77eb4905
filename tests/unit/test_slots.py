"""Places to write to a mount: counted over real processes, freed when one is killed, and how many a node gets."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_anystorage.transfer.slots import mount_slots, writers_per_node

SPAWN = multiprocessing.get_context("spawn")


def hold(folder: str, wanted: int, pipe: Connection) -> None:
    with mount_slots(folder, "/mnt/cluster", most=2, wanted=wanted) as taken:
        pipe.send(taken)
        pipe.recv()


def count_at_once(folder: str, counter: str, rounds: int) -> None:
    """Leave a file while holding a place, and fail where there are more of them than places."""
    for number in range(rounds):
        with mount_slots(folder, "name", most=2, wanted=1):
            mine = Path(counter, f"{multiprocessing.current_process().pid}-{number}")
            mine.touch()
            assert len(list(Path(counter).iterdir())) <= 2
            mine.unlink()


def test_one_process_takes_what_it_wants_and_no_more_than_there_is(tmp_path: Path) -> None:
    for wanted, got in ((1, 1), (3, 3), (4, 3)):
        with mount_slots(str(tmp_path), "a", most=3, wanted=wanted) as taken:
            assert taken == got
    with mount_slots(str(tmp_path), "a", most=3, wanted=2), mount_slots(str(tmp_path), "a", most=3, wanted=2) as rest:
        assert rest == 1


@pytest.mark.parametrize("name", ["", "/mnt/a\0b", "s3://bucket/ü", "\udcff", "x" * 5000])
def test_any_name_has_places_of_its_own(tmp_path: Path, name: str) -> None:
    with (
        mount_slots(str(tmp_path), "other", most=1, wanted=1),
        mount_slots(str(tmp_path), name, most=1, wanted=1) as taken,
    ):
        assert taken == 1


@pytest.mark.parametrize(("most", "wanted"), [(0, 1), (1, 0)])
def test_no_place_at_all_is_refused(tmp_path: Path, most: int, wanted: int) -> None:
    with pytest.raises(ValueError, match="at least 1"), mount_slots(str(tmp_path), "a", most=most, wanted=wanted):
        pass


def test_a_killed_process_frees_its_places(tmp_path: Path) -> None:
    ours, theirs = SPAWN.Pipe()
    holder = SPAWN.Process(target=hold, args=(str(tmp_path), 2, theirs))
    holder.start()
    try:
        assert ours.recv() == 2
    finally:
        holder.kill()
        holder.join()
    with mount_slots(str(tmp_path), "/mnt/cluster", most=2, wanted=2) as taken:
        assert taken == 2


def test_who_waits_gets_the_place_that_is_given_back(tmp_path: Path) -> None:
    ours, theirs = SPAWN.Pipe()
    with mount_slots(str(tmp_path), "/mnt/cluster", most=2, wanted=2):
        waiting = SPAWN.Process(target=hold, args=(str(tmp_path), 1, theirs))
        waiting.start()
        assert not ours.poll(0.5)
    try:
        assert ours.recv() == 1
        ours.send(None)
    finally:
        waiting.join()
    assert waiting.exitcode == 0


def test_never_more_at_once_than_places(tmp_path: Path) -> None:
    (tmp_path / "holding").mkdir()
    arguments = (str(tmp_path / "slots"), str(tmp_path / "holding"), 20)
    processes = [SPAWN.Process(target=count_at_once, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]


@given(nodes=st.none() | st.integers(1, 10_000), server_limit=st.integers(0, 1000), most=st.integers(1, 64))
def test_writers_of_all_nodes_stay_within_the_server(nodes: int | None, server_limit: int, most: int) -> None:
    writers = writers_per_node(nodes, server_limit=server_limit, most=most)
    assert 1 <= writers <= most
    assert writers == 1 or writers * (nodes or 1) <= server_limit


def test_writers_of_a_usual_cluster() -> None:
    assert [writers_per_node(nodes) for nodes in (None, 1, 16, 20, 32, 64, 100)] == [4, 4, 4, 3, 2, 1, 1]
