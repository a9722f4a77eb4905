"""What a benchmark measures of a node itself."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from ray_anystorage.bench.on_node.cores import Busy, cores
from ray_anystorage.bench.on_node.own_work import work_per_file


def test_what_a_small_file_takes_is_measured_and_nothing_is_left(tmp_path: Path) -> None:
    start = time.process_time()
    saving, restoring = work_per_file(str(tmp_path))
    assert 0 < 500 * (saving + restoring) < time.process_time() - start
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_works_makes_the_cores_busy() -> None:
    busy, until = Busy(), time.process_time() + 0.3
    threads = [threading.Thread(target=_work, args=(until,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.5 / cores() < busy.share() <= 1


def _work(until: float) -> None:
    while time.process_time() < until:
        pass
