"""Bits that flip and files that are cut short, in what is stored and in what a node keeps: nobody gets wrong bytes."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import ray_anystorage as anystorage
from ray_anystorage.checkpoint import audit as audit_module
from ray_anystorage.checkpoint import node
from ray_anystorage.checkpoint import opened as opened_module
from ray_anystorage.checkpoint.audit import audit
from ray_anystorage.checkpoint.manifest import manifest_attempt
from ray_anystorage.checkpoint.read import commit
from ray_anystorage.checkpoint.record import RECORD
from ray_anystorage.checkpoint.restore import Sources
from ray_anystorage.checkpoint.retention import find_orphans
from ray_anystorage.checkpoint.save import Part, save
from ray_anystorage.checkpoint.saver import Saver
from ray_anystorage.checkpoint.tree import scan
from ray_anystorage.errors import CheckpointCorruptedError, CheckpointIncompleteError, ManifestTooNewError
from ray_anystorage.transfer.digest import CHUNK_BYTES
from ray_anystorage.transfer.store import Store
from tests.harness.run_homes import Home, Site, site
from tests.harness.saved import NAME, PLACES, Place, flipped, of_a_later_version

__all__ = ["site"]

SIZES = {"large": 300_000, "deep/small": 5000, "empty": 0}


@dataclass(frozen=True, slots=True)
class Saved:
    """A committed checkpoint, where it lies, and what it holds."""

    home: Store
    data: Store
    spill: Store | None
    files: dict[str, bytes]

    def open(self) -> Any:
        return anystorage.Checkpoint(f"{self.home.uri}/{NAME}")

    def enter(self) -> str:
        return str(self.open().as_directory().__enter__())

    def own(self, name: Callable[[str], object]) -> tuple[Store, str]:
        """One of the package's own files beside the data."""
        keys = [key for key, _ in self.home.list(f"{NAME}/.anystorage") if name(key.rpartition("/")[2])]
        return self.home, keys[0]

    def is_whole(self, directory: str) -> bool:
        return all(Path(directory, name).read_bytes() == content for name, content in self.files.items())


def saved_in(site: Site, place: Place, tmp_path: Path, **sizes: int) -> Saved:
    home = site.in_bucket() if place == "bucket" else site.on_mount()
    source, chance = tmp_path / "source", random.Random(place)
    files = {name: chance.randbytes(size) for name, size in {**SIZES, **sizes}.items()}
    for name, content in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    save(home.store, scan(str(source)), Part(NAME, "a1", 0, 1), spill=home.spill if place == "spilled" else None)
    commit(home.store, NAME, "a1")
    return Saved(home.store, home.spill if place == "spilled" and home.spill else home.store, home.spill, files)


def is_record(name: str) -> bool:
    return name == RECORD


def content_of(store: Store, key: str) -> bytearray:
    content = bytearray(store.size(key))
    store.read_range(key, 0, memoryview(content))
    return content


@contextlib.contextmanager
def instead(store: Store, key: str, content: bytes | None) -> Iterator[None]:
    """Other content under a key, or none, for a while."""
    good = bytes(content_of(store, key))
    try:
        if content is None:
            store.delete([key])
        else:
            store.write_small(key, content)
        yield
    finally:
        store.write_small(key, good)


def no_cache(site: Site) -> None:
    """From now on this process is a node that keeps nothing."""
    site.environment.setitem(node._state, os.getpid(), node.Node(str(site.root / "node"), "no-cache", 0.0))


# --- what is stored -------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_damaged_data_is_an_error_that_names_the_file(site: Site, place: Place, tmp_path: Path) -> None:
    no_cache(site)
    saved = saved_in(site, place, tmp_path)
    key, good = f"{NAME}/deep/small", saved.files["deep/small"]
    for number, damaged in enumerate((flipped(good, 4 * 5000), good[:-1], b"", None)):
        node.enter(replace(node.current(), session=f"session {number}"))
        with instead(saved.data, key, damaged):
            for read in (
                saved.enter,
                lambda: saved.open().to_directory(tmp_path / "to"),
            ):
                with pytest.raises(CheckpointCorruptedError, match="deep/small"):
                    read()
                assert not (tmp_path / "to" / "deep" / "small").exists()
                with pytest.raises(CheckpointCorruptedError, match=r"was found damaged: .*deep/small"):
                    saved.open().contents()
                saved.home.delete([f"{NAME}/.anystorage/damaged.json"])
    node.enter(replace(node.current(), session="at last"))
    with saved.open().as_directory() as directory:
        assert saved.is_whole(directory)


@pytest.mark.parametrize("place", PLACES)
def test_a_range_finds_a_flipped_bit_in_its_own_chunk(site: Site, place: Place, tmp_path: Path) -> None:
    saved = saved_in(site, place, tmp_path, large=2 * CHUNK_BYTES + 17)
    key, good = f"{NAME}/large", saved.files["large"]
    with instead(saved.data, key, flipped(good, 8 * (CHUNK_BYTES + 100))):
        with saved.open().open("large") as file:
            assert file.read(10) == good[:10]
            file.seek(2 * CHUNK_BYTES)
            assert file.read() == good[2 * CHUNK_BYTES :]
            file.seek(2 * CHUNK_BYTES - 1)  # far from the bit, in its chunk
            with pytest.raises(CheckpointCorruptedError, match=f"large is damaged: .*chunk 1.* byte {CHUNK_BYTES}"):
                file.read(1)
        with pytest.raises(CheckpointCorruptedError, match="was found damaged"):
            saved.open().contents()


@pytest.mark.parametrize("place", PLACES)
def test_any_damage_of_a_manifest_or_record_is_found(site: Site, place: Place, tmp_path: Path) -> None:
    saved, chance = saved_in(site, place, tmp_path), random.Random(place)
    for store, key in (saved.own(manifest_attempt), saved.own(is_record)):
        good = bytes(content_of(store, key))
        bits = chance.sample(range(8 * len(good)), 10)
        for damaged in (*(flipped(good, bit) for bit in bits), good[: len(good) // 2], b"", b"{}", bytes(len(good))):
            with (
                instead(store, key, damaged),
                pytest.raises(CheckpointCorruptedError, match=f"{NAME} is damaged: {os.path.basename(key)}"),
            ):
                saved.open().contents()
    with saved.open().as_directory() as directory:
        assert saved.is_whole(directory)


def test_a_name_whose_manifest_is_torn_can_be_saved_again(site: Site, tmp_path: Path) -> None:
    saved = saved_in(site, "inline", tmp_path)
    store, key = saved.own(manifest_attempt)
    store.write_small(key, b"torn")
    Saver(home=store, threshold=1 << 40).save(str(tmp_path / "source"), Part(NAME, "b2", 0, 1))
    commit(store, NAME, "b2")
    with saved.open().as_directory() as directory:
        assert saved.is_whole(directory)


# --- a name that several reports of an attempt use ------------------------------------------------


def test_each_report_under_one_name_is_verified_in_place(site: Site) -> None:
    file = site.cluster / "run" / NAME / "rank-0.bin"
    for report in (1, 2):
        home = site.on_mount()
        home.save(NAME, report=report)
        if report == 1:
            with anystorage.Checkpoint(file.parent).as_directory() as directory:
                assert Path(directory, "rank-0.bin").read_bytes() == home.saved[NAME]["rank-0.bin"]
    file.write_bytes(flipped(file.read_bytes(), 99))
    with (
        pytest.raises(CheckpointCorruptedError, match=r"rank-0\.bin"),
        anystorage.Checkpoint(file.parent).as_directory(),
    ):
        pass


def test_a_reader_keeps_the_report_that_it_reads_when_another_takes_the_name(site: Site) -> None:
    home = site.on_mount()
    home.save(NAME, report=1, spilled=True)
    first = home.saved[NAME]["rank-0.bin"]
    checkpoint = anystorage.Checkpoint(f"{home.store.uri}/{NAME}")
    with checkpoint.as_directory() as directory:
        home.save(NAME, report=2, spilled=True)
        with checkpoint.as_directory() as other:
            assert Path(other, "rank-0.bin").read_bytes() == home.saved[NAME]["rank-0.bin"]
        assert Path(directory, "rank-0.bin").read_bytes() == first


def saved_again(home: Home) -> None:
    home.save(NAME, report=2)


def saved_again_in_part(home: Home) -> None:
    """A later report has its mark, and the record of the first came after it was looked for."""
    home.store.write_small(f"{NAME}/.anystorage/begun-a1-0-2-0", b"")


def deleted(home: Home) -> None:
    home.store.delete([key for key, _ in home.store.list(NAME)])


@pytest.mark.parametrize("meddle", [saved_again, saved_again_in_part, deleted])
def test_what_was_replaced_or_deleted_while_it_was_read_is_not_marked(
    site: Site, monkeypatch: pytest.MonkeyPatch, meddle: Callable[[Home], None]
) -> None:
    home, folder = site.on_mount(), site.cluster / "run" / NAME
    home.save(NAME, report=1)

    def find_damage(*_: object, **__: object) -> None:
        meddle(home)
        raise CheckpointCorruptedError("damaged: rank-0.bin (other content)")

    monkeypatch.setattr(opened_module, "verify_in_place", find_damage)
    monkeypatch.setattr(audit_module, "verify_in_place", find_damage)
    with (
        pytest.raises(CheckpointIncompleteError, match="deleted or saved again while it was read"),
        anystorage.Checkpoint(folder).as_directory(),
    ):
        pass
    assert not (folder / ".anystorage" / "damaged.json").exists()
    deleted(home)
    home.save(NAME, report=1)
    assert audit(Sources(home.store, site.folder), NAME, str(folder)).state == "deleted meanwhile"
    assert not (folder / ".anystorage" / "damaged.json").exists()


# --- what a later version stored ------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_a_later_version_is_named_and_is_no_damage(site: Site, place: Place, tmp_path: Path) -> None:
    saved = saved_in(site, place, tmp_path)
    for store, key in (saved.own(manifest_attempt), saved.own(is_record)):
        with instead(store, key, of_a_later_version(content_of(store, key))):
            before = site.everything()
            for read in (saved.open().contents, saved.enter):
                with pytest.raises(ManifestTooNewError, match=f"checkpoint {NAME}: .* has format 2, .* upgrade it"):
                    read()
            directory = None if place == "bucket" else f"{store.uri}/{NAME}"
            finding = audit(Sources(store, lambda uri: saved.data), NAME, directory)
            assert (finding.state, "upgrade" in str(finding.reason)) == ("not readable", True)
            assert not [orphan for orphan in find_orphans(store, saved.spill, named=[]) if orphan.certain]
            assert site.everything() == before


# --- what a node keeps ----------------------------------------------------------------------------


def cached_files(site: Site) -> list[Path]:
    return sorted(path for path in (site.root / "node" / "cache").rglob("*") if path.is_file())


def damage(path: Path, chance: random.Random) -> str:
    """Do something to a file that its disk or somebody might."""
    content = path.read_bytes()
    kinds = ["gone", "longer", "other"] + (["flip", "cut", "zeros"] if content else [])
    kind = chance.choice(kinds)
    if kind == "gone":
        path.unlink()
        return kind
    other = {
        "longer": lambda: content + chance.randbytes(10),
        "other": lambda: chance.randbytes(50),
        "flip": lambda: flipped(content, chance.randrange(8 * len(content))),
        "cut": lambda: content[: chance.randrange(len(content))],
        "zeros": lambda: bytes(len(content)),
    }[kind]()
    path.write_bytes(other)
    return kind


@pytest.mark.parametrize("place", ["spilled", "bucket"])
def test_whatever_happens_to_the_cache_it_gives_no_wrong_byte(site: Site, place: Place, tmp_path: Path) -> None:
    saved, chance = saved_in(site, place, tmp_path), random.Random(1)
    done: list[tuple[str, str]] = []
    # The index is there when a stamp tells a file from any later state, which the clock decides.
    while len(done) < 25 or not {"index.json", "large", "small"} <= {name for name, _ in done}:
        turn = len(done)
        assert turn < 200, done
        if turn % 3 == 0:
            node.enter(replace(node.current(), session=f"session {turn}"))
        with saved.open().as_directory() as directory:
            assert directory.startswith(str(site.root / "node"))
            assert saved.is_whole(directory), done
        path = chance.choice(cached_files(site))
        done.append((path.name, damage(path, chance)))


def test_only_what_is_damaged_in_the_cache_is_fetched_again(site: Site, tmp_path: Path) -> None:
    saved = saved_in(site, "bucket", tmp_path)
    checkpoint = saved.open()
    store = checkpoint.opened().sources.home
    fetched = []
    for names in ((), ("small",), ("large", "small"), ()):
        for path in cached_files(site):
            if path.name in names:
                path.write_bytes(flipped(path.read_bytes(), 99))
        before = store.counters.bytes_fetched
        with checkpoint.as_directory() as directory:
            assert saved.is_whole(directory)
        fetched.append(store.counters.bytes_fetched - before)
    own = fetched.pop()  # the record and the manifest
    assert [size - own for size in fetched] == [305_000, 5000, 305_000]
