"""The record of large files under way."""

from __future__ import annotations

import os
from pathlib import Path

from ray_anystorage.transfer.partial import Done, Partial
from ray_anystorage.transfer.temporary import temporary_beside


def test_what_was_done_of_the_same_source_is_known(tmp_path: Path) -> None:
    partial = Partial(str(tmp_path), {"a": "1"})
    partial.begin("a", "token")
    partial.note("a", 3, Done(("x",), "tag"))
    again = Partial(str(tmp_path), {"a": "1"})
    begun = again.known("a")
    assert begun is not None
    assert (begun.token, begun.parts, again.useless("a")) == ("token", {3: Done(("x",), "tag")}, None)


def test_of_another_source_only_where_its_parts_lie(tmp_path: Path) -> None:
    Partial(str(tmp_path), {"a": "1"}).begin("a", "token")
    for source in ({"a": "2"}, {}):
        other = Partial(str(tmp_path), source)
        assert (other.known("a"), other.useless("a")) == (None, "token")
    other.end("a")
    assert (other.useless("a"), other.covers("a")) == (None, False)


def test_a_torn_record_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    partial = Partial(str(tmp_path), {"a": "1"})
    partial.begin("a", "token")
    (path,) = tmp_path.glob("*.parts")
    with path.open("a") as file:
        file.write('{"index": 1, "chu')
    partial.note("a", 2, Done(("y",)))
    begun = partial.known("a")
    assert begun is not None
    assert begun.parts == {2: Done(("y",))}


def test_thousands_of_files_keep_no_descriptor_open(tmp_path: Path) -> None:
    keys = [str(n) for n in range(300)]
    partial = Partial(str(tmp_path), dict.fromkeys(keys, "1"))
    before = len(os.listdir("/proc/self/fd"))
    for key in keys:
        partial.begin(key, "token")
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_nobody_goes_on_with_is_removed_with_its_record_and_nothing_else_is(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    under_way, own = Path(temporary_beside(str(tmp_path / "a"))), tmp_path / "own"
    for path in (under_way, own):
        path.write_bytes(b"x")
    partial = Partial(str(tmp_path / "records"), {"a": "1", "b": "1"})
    for key, path in (("a", under_way), ("b", own)):
        partial.begin(key, str(path))
        partial.note(key, 0, Done(("x",)))
        partial.drop(key)
        assert partial.known(key) is None
    assert {path.name for path in tmp_path.iterdir()} == {"records", "own"}
