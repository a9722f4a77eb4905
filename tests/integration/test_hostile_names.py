"""Names that lead elsewhere, in manifests and on disks: refused with a clear error, and nothing is written outside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import ray_anystorage as anystorage
from ray_anystorage.checkpoint import node
from ray_anystorage.checkpoint.manifest import FileEntry, Manifest
from ray_anystorage.checkpoint.read import commit
from ray_anystorage.checkpoint.record import Record, record_key
from ray_anystorage.checkpoint.save import Part, begin
from ray_anystorage.checkpoint.saver import Saver
from ray_anystorage.errors import CheckpointCorruptedError, RequestError
from ray_anystorage.transfer.digest import ALGORITHM, CHUNK_BYTES, chunks_of, file_digest
from ray_anystorage.transfer.store import Store
from tests.harness.run_homes import Home, Site, site
from tests.harness.saved import NAME, PART, PLACES, Place, content_of, home_in, opened, put

__all__ = ["site"]

HOSTILE = ("../x", "/tmp/anystorage-hostile", "a/../../b", "a/./b", "a//b", "x\0y", ".anystorage/commit.json", "", "a/")


def manifest_of(*paths: str, location: str | None = None, directories: tuple[str, ...] = ()) -> Manifest:
    chunks = chunks_of(b"evil")
    files = tuple(FileEntry(path, 4, file_digest(4, chunks), chunks) for path in paths)
    return Manifest("a1", 0, 1, location, ALGORITHM, CHUNK_BYTES, files, directories)


def forge(store: Store, manifest: Manifest) -> None:
    """A manifest and a record as their formats have them, with the right digests, and the data where they say."""
    begin(store, PART)
    store.write_small(f"{NAME}/.anystorage/{manifest.name}", manifest.to_bytes())
    store.write_small(record_key(NAME), Record("a1", (0,), 1, 4).to_bytes())


@pytest.mark.parametrize("place", ["inline", "bucket"])
def test_hostile_manifests_and_records_are_refused_and_nothing_is_written(
    site: Site, place: Place, tmp_path: Path
) -> None:
    home, _ = home_in(site, place)
    forged = [
        *((manifest_of("good", path), "path|folder") for path in HOSTILE),
        *((manifest_of(directories=(path,)), "path|folder") for path in HOSTILE),
        (manifest_of("a", "a/b"), "'a' is named as a file and as a folder"),
        (manifest_of("a", directories=("a/b",)), "'a' is named as a file and as a folder"),
        (manifest_of("a", "a"), "twice"),
        *((manifest_of("a", location=uri), "location") for uri in ("/etc", "s3://x", "s3://x/../y", "s3://x/y\0")),
    ]
    for manifest, word in forged:
        forge(home.store, manifest)
        refused(home, tmp_path, f"damaged: manifest-a1-0-of-1.json.*({word})")
    for path in HOSTILE:
        home.store.write_small(record_key(NAME), Record(None, (), 0, 4, ((path, 4),)).to_bytes())
        refused(home, tmp_path, r"damaged: commit.json.*(path|folder)")
    assert not os.path.lexists("/tmp/anystorage-hostile")


def refused(home: Home, tmp_path: Path, word: str) -> None:
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    for read in (opened(home).contents, lambda: opened(home).to_directory(work / "to"), lambda: opened(home).open("a")):
        with pytest.raises(CheckpointCorruptedError, match=word):
            read()
    assert os.listdir(work) == []


def test_ranks_whose_names_collide_as_file_and_folder_are_named(site: Site, tmp_path: Path) -> None:
    home, _ = home_in(site, "bucket")
    for rank, name in enumerate(("name", "name/below")):
        put(tmp_path / str(rank), **{name: b"x"})
        Saver(home=home.store, threshold=1 << 40).save(str(tmp_path / str(rank)), Part(NAME, "a1", rank, 2))
    with pytest.raises(anystorage.errors.RankConflictError, match="saved 'name' as a file, others as a folder"):
        commit(home.store, NAME, "a1")


@pytest.mark.parametrize("place", PLACES)
def test_links_in_the_target_are_not_followed(site: Site, place: Place, tmp_path: Path) -> None:
    put(tmp_path / "source", **{"file": b"right", "folder/inside": b"right"})
    home, saver = home_in(site, place)
    saver.save(str(tmp_path / "source"), PART)
    commit(home.store, NAME, "a1")
    put(tmp_path / "outside", file=b"theirs")
    target = tmp_path / "to"
    target.mkdir()
    (target / "file").symlink_to(tmp_path / "outside" / "file")
    (target / "folder").symlink_to(tmp_path / "outside")
    with pytest.raises(RequestError, match=f"{target}/folder is a link"):
        opened(home).to_directory(target)
    (target / "folder").unlink()
    opened(home).to_directory(target)
    assert content_of(target) == {"file": b"right", "folder": None, "folder/inside": b"right"}
    assert content_of(tmp_path / "outside") == {"file": b"theirs"}


def test_links_in_the_nodes_cache_are_not_followed(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path / "source", **{"file": b"right", "folder/inside": b"right"})
    home, saver = home_in(site, "bucket")
    saver.save(str(tmp_path / "source"), PART)
    commit(home.store, NAME, "a1")
    (tmp_path / "outside").mkdir()
    with opened(home).as_directory() as directory:
        data = Path(directory)
    for planted in (data / "folder", data / "file"):
        kept = tmp_path / f"kept-{planted.name}"
        planted.rename(kept)
        planted.symlink_to(tmp_path / "outside" if kept.is_dir() else kept)
        with opened(home).as_directory() as directory:
            assert content_of(directory) == content_of(tmp_path / "source")
            assert not planted.is_symlink()
    assert os.listdir(tmp_path / "outside") == []
    assert f"removed {data / 'folder'}: it is a link" in caplog.text


@pytest.mark.parametrize("level", ["node", "node/cache"])
def test_a_folder_of_the_node_that_is_somebody_elses_is_not_used(site: Site, tmp_path: Path, level: str) -> None:
    put(tmp_path / "source", file=b"right")
    home, saver = home_in(site, "bucket")
    saver.save(str(tmp_path / "source"), PART)
    commit(home.store, NAME, "a1")
    (tmp_path / "outside").mkdir()
    taken = tmp_path / "local" / level.replace("node", os.path.basename(node.node_folder()))
    taken.parent.mkdir(parents=True)
    taken.symlink_to(tmp_path / "outside")
    node.enter(node.node_at(str(tmp_path / "local"), "session", 0.2))
    with opened(home).as_directory() as directory:
        assert content_of(directory) == {"file": b"right"}
        assert str(tmp_path) not in os.path.realpath(directory)
    assert os.listdir(tmp_path / "outside") == []
    assert taken.is_symlink()
