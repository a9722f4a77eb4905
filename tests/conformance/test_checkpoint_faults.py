"""The whole life of a checkpoint on a store that fails requests: saved, committed, restored, deleted, swept."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from ray_anystorage.checkpoint import small_files
from ray_anystorage.checkpoint.node import Node
from ray_anystorage.checkpoint.opened import Opened
from ray_anystorage.checkpoint.read import commit
from ray_anystorage.checkpoint.restore import Sources
from ray_anystorage.checkpoint.retention import (
    Orphan,
    delete_below,
    delete_checkpoint,
    find_orphans,
    largest_unfinished,
    remove,
)
from ray_anystorage.checkpoint.save import Part
from ray_anystorage.checkpoint.saver import Saver
from ray_anystorage.errors import BucketPermissionError
from ray_anystorage.testing.store_files import write_files
from ray_anystorage.transfer import engine
from ray_anystorage.transfer.digest import CHUNK_BYTES
from ray_anystorage.transfer.retry import Patience
from ray_anystorage.transfer.s3_store import S3Store
from tests.harness.faulty_proxy import Fault, FaultyProxy, Rule, share
from tests.harness.faulty_store import proxy, store

__all__ = ["proxy", "store"]

KINDS: tuple[Fault, ...] = ("503", "reset", "truncate", "flip")
ENDURING = Patience(first_delay=0.005, longest_delay=0.02)
NAME, SIZES = "checkpoint_1", {"small/1": 10_000, "empty": 0, "large.bin": CHUNK_BYTES + 17}


@pytest.fixture(autouse=True)
def enduring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again sooner than anybody would in earnest."""
    monkeypatch.setattr(small_files, "PATIENCE", ENDURING)
    monkeypatch.setattr(engine, "Patience", lambda: ENDURING)


def opened(store: S3Store, node: Path) -> Opened:
    return Opened(Sources(store, lambda uri: store), NAME, "a1", "run", Node(str(node), "session"), None)


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in SIZES}


def but_no_flipped_listing(rule: Rule) -> Rule:
    """The same faults, but that no bit flips in a listing, which carries no digest in any store."""

    def ruled(method: str, path: str) -> Fault | None:
        fault = rule(method, path)
        return "503" if fault == "flip" and "?" in path else fault

    return ruled


@pytest.mark.parametrize("percent", [10, 50, 90])
def test_a_checkpoint_lives_its_whole_life_while_requests_fail(
    store: S3Store, proxy: FaultyProxy, tmp_path: Path, percent: int
) -> None:
    write_files(tmp_path / "source", SIZES)
    (tmp_path / "source" / ".metadata.json").write_text("{}")
    kept = store.begin(f"{NAME}/killed", 2 * CHUNK_BYTES)
    kept.part(0, 0, bytes(CHUNK_BYTES))
    proxy.rule = but_no_flipped_listing(share(percent, KINDS, seed=percent))
    Saver(home=store, threshold=0).save(str(tmp_path / "source"), Part(NAME, "a1", 0, 1))
    commit(store, NAME, "a1")
    for number in range(3):
        with opened(store, tmp_path / f"node-{number}").directory() as directory:
            assert content(Path(directory)) == content(tmp_path / "source")
        opened(store, tmp_path / f"node-{number}").copy_to(str(tmp_path / f"copy-{number}"))
        assert content(tmp_path / f"copy-{number}") == content(tmp_path / "source")
    orphans = find_orphans(store, None, named=[NAME])
    assert {orphan.kind for orphan in orphans} == {"unfinished upload"}
    for orphan in orphans:
        remove(orphan, [store])
        remove(orphan, [store])  # as after an answer that was lost
    delete_checkpoint(store, None, NAME, lambda: delete_below(store, NAME))
    proxy.rule = lambda method, path: None
    assert sum(proxy.faults.values()) >= 5
    assert list(store.unfinished("")) == []
    assert list(store.list(NAME)) == []


def test_uploads_that_may_not_be_listed_keep_nothing_else_from_being_swept(
    store: S3Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store.write_small(f"{NAME}/.anystorage/begun-a1-0-1-0", b"")

    def refused(prefix: str) -> None:
        raise BucketPermissionError("no", tier="artifact", place="s3:", tried="list", remedy="ask")

    monkeypatch.setattr(store, "unfinished", refused)
    (orphan,) = find_orphans(store, None, named=[])
    assert (orphan.kind, orphan.name) == ("unfinished save", NAME)
    assert "unfinished uploads to" in caplog.text


def test_the_largest_unfinished_save_is_told() -> None:
    orphan = partial(Orphan, "unfinished save")
    orphans = [orphan("home", "a", 5), orphan("home", "b", 3), orphan("spill", "b", 3)]
    assert largest_unfinished([*orphans, Orphan("spilled data", "spill", "c", 100)]) == "b"
    assert largest_unfinished([]) is None
