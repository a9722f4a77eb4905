"""Where the parts of ranks that save side by side go."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ray_anystorage.checkpoint.manifest import Manifest
from ray_anystorage.checkpoint.read import commit
from ray_anystorage.checkpoint.save import Part
from ray_anystorage.checkpoint.saver import Saver
from ray_anystorage.transfer.posix_store import PosixStore


class Bucket(PosixStore):
    """Under a name that a manifest takes."""

    @property
    def uri(self) -> str:
        return "s3://bucket/spilled/run-1"


RANKS, PART_BYTES, THRESHOLD = 16, 300, 1000


@pytest.mark.parametrize("attempt", range(5))
def test_ranks_that_begin_at_once_store_no_more_inline_than_the_threshold(tmp_path: Path, attempt: int) -> None:
    """Each of them alone is far below it, and none knows of an earlier checkpoint."""
    home, spill, together = (
        PosixStore(str(tmp_path / "home")),
        Bucket(str(tmp_path / "bucket")),
        threading.Barrier(16),
    )
    for rank in range(RANKS):
        (tmp_path / str(rank)).mkdir()
        (tmp_path / str(rank) / f"shard-{rank}").write_bytes(bytes([rank]) * PART_BYTES)

    def save(rank: int) -> Manifest:
        saver = Saver(home=home, threshold=THRESHOLD, spill=lambda: spill)
        together.wait()
        return saver.save(str(tmp_path / str(rank)), Part("one", "a1", rank, RANKS, report=1))

    with ThreadPoolExecutor(RANKS) as pool:
        manifests = list(pool.map(save, range(RANKS)))
    inline = [manifest for manifest in manifests if manifest.location is None]
    assert sum(manifest.size for manifest in inline) <= THRESHOLD
    assert len(list((tmp_path / "home" / "one").glob("shard-*"))) == len(inline)
    contents = commit(home, "one", "a1", report=1)
    assert contents.size == RANKS * PART_BYTES
    assert {file.location for file in contents.files if file.location} == {f"{spill.uri}/one"}


def test_what_is_small_altogether_stays_inline(tmp_path: Path) -> None:
    home, spill = PosixStore(str(tmp_path / "home")), Bucket(str(tmp_path / "bucket"))
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "shard").write_bytes(bytes(PART_BYTES))
    for report in (1, 2):  # what the report before said does not count
        for rank in range(3):
            part = Part("latest", "a1", rank, 3, report=report)
            saver = Saver(home=home, threshold=THRESHOLD, spill=lambda: spill)
            assert saver.save(str(tmp_path / "source"), part).location is None
