"""Odd files are kept as they are, wherever a checkpoint goes, or refused by name before anything is stored."""

from __future__ import annotations

import contextlib
import os
import socket
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ray_anystorage.checkpoint.read import commit, commit_external
from ray_anystorage.checkpoint.save import Part
from ray_anystorage.errors import BucketError, UnsavableFileError
from ray_anystorage.transfer.digest import CHUNK_BYTES
from tests.harness.run_homes import Site, site
from tests.harness.saved import NAME, PART, PLACES, Place, content_of, home_in, opened, put

__all__ = ["site"]

NAMES = (
    "a b", " lead", "trail ", "ü", unicodedata.normalize("NFD", "ü"), "emoji 😀", "日本", "100%", "a%20b", "%2e%2e",
    "a#b", "a?b=c", "a&b;c,d=e@f:g$h!", "a+b", "[x]{y}(z)", "a*b", "~", "q\"u'o`te", "<x>", "a|b", "a^b", "-dash",
    ".hidden", ".anystorage-x", "...", "..a", "CON", "x" * 255, "nested/.anystorage/inside",
    "/".join(f"{number}{'y' * 189}" for number in range(5)),
)  # fmt: skip


def odd_source(root: Path) -> Path:
    """Every name, a folder and a link of every kind, an empty file, and a sparse one of more than a chunk."""
    put(root, **{name: name.encode() for name in NAMES}, empty=b"", **{"shared/inside": b"linked folder"})
    (root / "empty folder" / "inner ü").mkdir(parents=True)
    (root / "link to a file").symlink_to("a b")
    (root / "link to a folder").symlink_to("shared", target_is_directory=True)
    with (root / "sparse").open("wb") as file:
        file.truncate(CHUNK_BYTES + 5)
        file.seek(CHUNK_BYTES - 1)
        file.write(b"xyz")
    return root


@pytest.mark.parametrize("place", PLACES)
def test_odd_files_come_back_bit_for_bit(site: Site, place: Place, tmp_path: Path) -> None:
    source = odd_source(tmp_path / "source")
    home, saver = home_in(site, place)
    manifest = saver.save(str(source), PART)
    commit(home.store, NAME, "a1")
    assert (manifest.location is not None) == (place == "spilled")
    expected = content_of(source)
    with opened(home).as_directory() as directory:
        assert content_of(directory) == expected
    opened(home).to_directory(tmp_path / "fetched")
    assert content_of(tmp_path / "fetched") == expected
    assert not [path for path in (tmp_path / "fetched").rglob("*") if path.is_symlink()], (
        "links became what they lead to"
    )
    with opened(home).open("a?b=c") as file:
        assert file.read() == b"a?b=c"
    if place != "inline":
        prefix = "team/artifacts/" + (
            "run" if place == "bucket" else (home.spill.uri if home.spill else "").split("/", 5)[5]
        )
        keys = {key.removeprefix(f"{prefix}/{NAME}/") for key in site.server.keys(site.bucket)}
        assert set(NAMES) <= keys, "plain objects, under their own names"


@pytest.mark.parametrize("place", PLACES)
def test_a_path_too_long_for_a_bucket_stays_on_the_mount_or_is_refused_by_name(
    site: Site, place: Place, tmp_path: Path
) -> None:
    path = "/".join(f"{number}{'y' * 199}" for number in range(5))
    put(tmp_path / "source", **{path: b"long", "short": b"short"})
    home, saver = home_in(site, place)
    if place == "bucket":
        with pytest.raises(BucketError, match=rf"(?s)KeyTooLongError.*{path}.*1,024 bytes"):
            saver.save(str(tmp_path / "source"), PART)
        return
    manifest = saver.save(str(tmp_path / "source"), PART)
    commit(home.store, NAME, "a1")
    assert "KeyTooLongError" in (manifest.detour or "") or place == "inline"
    with opened(home).as_directory() as directory:
        assert content_of(directory) == content_of(tmp_path / "source")


@pytest.mark.parametrize("place", PLACES)
def test_a_checkpoint_without_a_file_is_one(site: Site, place: Place, tmp_path: Path) -> None:
    (tmp_path / "source" / "only").mkdir(parents=True)
    home, saver = home_in(site, place)
    saver.save(str(tmp_path / "source"), PART)
    commit(home.store, NAME, "a1")
    with opened(home).as_directory() as directory:
        assert content_of(directory) == {"only": None}


def test_a_rank_that_has_nothing_but_folders_keeps_them_beside_the_files_of_others(site: Site, tmp_path: Path) -> None:
    put(tmp_path / "0", file=b"more than the threshold of the other")
    (tmp_path / "1" / "only").mkdir(parents=True)
    home, saver = home_in(site, "inline")
    saver.save(str(tmp_path / "0"), Part(NAME, "a1", 0, 2))
    replace(saver, threshold=10).save(str(tmp_path / "1"), Part(NAME, "a1", 1, 2))
    commit(home.store, NAME, "a1")
    with opened(home).as_directory() as directory:
        assert content_of(directory) == {"only": None, "file": b"more than the threshold of the other"}


def make_socket(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)


REFUSED: tuple[tuple[str, Callable[[Path], object], str], ...] = (
    ("pipe", os.mkfifo, "neither a file nor a folder"),
    ("socket", make_socket, "neither a file nor a folder"),
    ("dangling", lambda path: path.symlink_to("nowhere"), "leads to nothing"),
    ("circle", lambda path: path.symlink_to(path.name), "in a circle"),
    ("up", lambda path: path.symlink_to("../sub"), "leads back"),
    *((name, Path.touch, "not every store keeps") for name in ("new\nline", "tab\t", "\x7f", "back\\slash", "\ufffe")),
    (os.fsdecode(b"\xff"), Path.touch, "not every store keeps"),
    (".anystorage-0123456789abcdef.part", Path.touch, "temporary files"),
)


@pytest.mark.parametrize("place", PLACES)
def test_what_cannot_be_kept_is_refused_by_name_before_anything_is_stored(
    site: Site, place: Place, tmp_path: Path
) -> None:
    put(tmp_path / "source", **{"sub/good": b"good"})
    _, saver = home_in(site, place)
    before = site.everything()
    for name, make, word in REFUSED:
        odd = tmp_path / "source" / "sub" / name
        make(odd)
        with pytest.raises(UnsavableFileError, match=word) as raised:
            saver.save(str(tmp_path / "source"), PART)
        assert repr(name)[1:-1] in str(raised.value)
        odd.unlink()
    assert site.everything() == before


def test_stock_folders_in_a_bucket_are_folders(site: Site, tmp_path: Path) -> None:
    home, _ = home_in(site, "bucket")
    for key, body in (("deep/", b""), ("deep/file", b"x"), ("only/", b""), ("empty", b"")):
        site.client.put_object(Bucket=site.bucket, Key=f"team/artifacts/run/{NAME}/{key}", Body=body)
    expected = {"deep": None, "deep/file": b"x", "only": None, "empty": b""}
    opened(home).to_directory(tmp_path / "to")
    assert content_of(tmp_path / "to") == expected
    commit_external(home.store, NAME)
    with opened(home).as_directory() as directory:
        assert content_of(directory) == {path: body for path, body in expected.items() if path != "only"}
