"""Manifests: they read back as they were written, and nothing else reads as one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_anystorage.checkpoint.contents import Contents, StoredFile
from ray_anystorage.checkpoint.manifest import FORMAT, FileEntry, Manifest, check_path, manifest_attempt, read_manifest
from ray_anystorage.checkpoint.record import Record, read_record
from ray_anystorage.checkpoint.sealed import seal
from ray_anystorage.errors import ManifestError, ManifestTooNewError
from ray_anystorage.transfer.digest import ALGORITHM, CHUNK_BYTES

DIGEST = "0123456789abcdef0123456789abcdef"


def entry(path: str, size: int = 20) -> FileEntry:
    return FileEntry(path, size, DIGEST, (DIGEST,) * -(-size // CHUNK_BYTES))


def manifest(*files: FileEntry, location: str | None = None, directories: tuple[str, ...] = ()) -> Manifest:
    return Manifest("a1", 0, 2, location, ALGORITHM, CHUNK_BYTES, files, directories)


segments = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=20)
paths = (
    st.lists(segments.filter(lambda segment: segment not in (".", "..", ".anystorage")), min_size=1, max_size=4)
    .map("/".join)
    .filter(lambda path: len(path.encode()) < 4096)
)


def apart(paths: list[str]) -> bool:
    """None of the paths is a folder of another one."""
    return not any(other.startswith(f"{path}/") for path in paths for other in paths)


files_of_one = st.lists(st.builds(entry, paths, st.integers(0, 100)), unique_by=lambda file: file.path).filter(
    lambda files: apart([file.path for file in files])
)


@given(files_of_one, st.none() | paths.map(lambda path: f"s3://bucket/{path}"))
def test_what_is_written_reads_back(files: list[FileEntry], location: str | None) -> None:
    taken = {file.path.partition("/")[0] for file in files}
    written = manifest(*files, location=location, directories=() if "empty" in taken else ("empty",))
    assert read_manifest(written.name, written.to_bytes()) == written
    assert manifest_attempt(written.name) == written.attempt
    assert written.size == sum(file.size for file in files)


@given(st.data())
def test_a_torn_manifest_is_never_read(data: st.DataObject) -> None:
    whole = manifest(entry("model"), entry("optimizer")).to_bytes()
    with pytest.raises(ManifestError):
        read_manifest("manifest-a1-0-of-2.json", whole[: data.draw(st.integers(0, len(whole) - 1))])


def test_every_bit_of_a_manifest_and_of_a_record_counts() -> None:
    whole = manifest(entry("model"), entry("deep/optimizer"), location="s3://bucket/folder", directories=("empty",))
    record = Record("a1", (0, 1), 2, 40, (("model", 20),))
    for content, read in (
        (whole.to_bytes(), lambda damaged: read_manifest(whole.name, damaged)),
        (record.to_bytes(), read_record),
    ):
        for bit in range(8 * len(content)):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            with pytest.raises(ManifestError) as raised:
                read(bytes(damaged))
            assert not isinstance(raised.value, ManifestTooNewError), "a flipped digit is no later version"


@pytest.mark.parametrize(
    "path",
    [
        *("../up", "/absolute", "a/../b", "a//b", "./a", "", "a\0b", "a/", ".anystorage/x", ".anystorage", "x" * 5000),
        "deep/.anystorage-0123456789abcdef.part",
    ],
)
def test_hostile_paths_are_refused_and_named(path: str) -> None:
    with pytest.raises(ValueError, match=r"path|folder|longer|temporary"):
        check_path(path)
    values = json.loads(manifest(entry("good")).to_bytes())
    values["files"][0][0] = path
    with pytest.raises(ManifestError, match=r"manifest-a1-0-of-2\.json"):
        read_manifest("manifest-a1-0-of-2.json", seal(values))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("files", [["a", CHUNK_BYTES + 1, DIGEST, [DIGEST]]]),
        ("files", [["a", -1, DIGEST, []]]),
        ("files", [["a", 8, "no digest", [DIGEST]]]),
        ("files", [["a", 8, DIGEST, [DIGEST]]] * 2),
        ("files", [["a", 8, DIGEST, [DIGEST]], ["a/b", 8, DIGEST, [DIGEST]]]),
        ("files", [["a", 8]]),
        ("files", None),
        ("location", 7),
        ("location", "/etc"),
        ("location", "s3://bucket"),
        ("location", "s3://bucket/a/../b"),
        ("location", "s3://bucket/a\0b"),
        ("rank", "one"),
        ("rank", 1),
        ("world_size", 3),
        ("attempt", "b2"),
        ("directories", [".."]),
        ("directories", ["good"]),
        ("directories", ["good/below"]),
        ("format", None),
    ],
)
def test_contradictions_are_refused(field: str, value: object) -> None:
    values = json.loads(manifest(entry("good")).to_bytes())
    values[field] = value
    with pytest.raises(ManifestError):
        read_manifest("manifest-a1-0-of-2.json", seal(values))


def test_a_newer_format_is_refused_with_the_remedy() -> None:
    values = json.loads(manifest().to_bytes())
    values["format"] = FORMAT + 1
    with pytest.raises(ManifestTooNewError, match="upgrade"):
        read_manifest("manifest-a1-0-of-2.json", seal(values))


@pytest.mark.parametrize(("field", "value"), [("algorithm", "another"), ("chunk_bytes", 2 * CHUNK_BYTES)])
def test_digests_that_are_made_in_another_way_are_of_a_later_version(field: str, value: object) -> None:
    values = json.loads(manifest(entry("good", 3 * CHUNK_BYTES)).to_bytes())
    with pytest.raises(ManifestTooNewError, match=f"has digests by .*{value}.* upgrade it"):
        read_manifest("manifest-a1-0-of-2.json", seal({**values, field: value}))


@pytest.mark.parametrize(
    "name", ["manifest.json", "manifest-a1-0-of-2.json.tmp", "../manifest-a1-0-of-2.json", "commit.json"]
)
def test_other_files_are_no_manifests(name: str) -> None:
    assert manifest_attempt(name) is None


@pytest.mark.parametrize("paths", [(), ("b",), ("a", "a/b", "a0", "b c", "ä", "日本")])
def test_a_file_is_found_by_its_path_and_no_other_is(paths: tuple[str, ...]) -> None:
    files = tuple(StoredFile(path, size, None, None, None) for size, path in enumerate(paths))
    contents = Contents("one", "a1", 1, (0,), files)
    assert [contents.find(path) for path in paths] == list(files)
    assert all(contents.find(path) is None for path in ("", "0", "a/", "a/c", "z", "日本語"))
