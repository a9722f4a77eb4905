"""Which files are to be copied and which to be removed: pure functions."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ray_anystorage.errors import RequestError
from ray_anystorage.files.entries import Entry
from ray_anystorage.files.record import Copied


@dataclass(frozen=True, slots=True)
class Copy:
    """A file and the key that it is to have."""

    entry: Entry
    key: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done.

    Attributes
    ----------
    copies
        To be made.
    same
        Files that are there already.
    extra
        Files of the target that the source does not have.
    """

    copies: tuple[Copy, ...]
    same: tuple[Copy, ...] = ()
    extra: tuple[Entry, ...] = ()

    @property
    def whole(self) -> tuple[Copy, ...]:
        """All that the source has, with where it is or is to be."""
        return (*self.copies, *self.same)

    @property
    def bytes(self) -> int:
        """That are to be copied."""
        return sum(copy.entry.size for copy in self.copies)


def plan(
    sources: Sequence[Entry],
    there: Iterable[Entry],
    known: Mapping[str, Copied],
    key: str,
    *,
    whole: bool = True,
    by_size: bool = False,
) -> Plan:
    """What it takes for a folder to hold the sources.

    Parameters
    ----------
    there
        What the target holds.
    known
        What was copied before, by path: a file is there already where both etags are those of then.
    key
        Of the target's folder, or of the target itself where ``whole`` is false and the source is one file.
    by_size
        Take files of one size for the same.

    Raises
    ------
    RequestError
        Two files would have one key, or a file the name of another's folder.
    """
    held = {entry.path: entry for entry in there}
    copies: list[Copy] = []
    same: list[Copy] = []
    for entry in sources:
        target, copy = held.get(entry.path), Copy(entry, posixpath.join(key, entry.path) if whole else key)
        is_same = target is not None and _is_same(entry, target, known.get(entry.path), by_size=by_size)
        (same if is_same else copies).append(copy)
    refuse_clashes(copy.key for copy in (*copies, *same))
    paths = {entry.path for entry in sources}
    return Plan(tuple(copies), tuple(same), tuple(entry for entry in held.values() if entry.path not in paths))


def _is_same(entry: Entry, target: Entry, copied: Copied | None, *, by_size: bool) -> bool:
    if entry.size != target.size:
        return False
    if by_size:
        return True
    return copied is not None and (entry.etag, target.etag) == (copied.source, copied.target)


def refuse_clashes(keys: Iterable[str]) -> None:
    """Raise ``RequestError`` where two files would get one key, or one the name of a folder that others lie in."""
    files: set[str] = set()
    folders: set[str] = set()
    for key in keys:
        if key in files or key.startswith("/") or "//" in key:
            raise RequestError(f"{key!r} would be written twice, or is no path: copy the files of that name one by one")
        files.add(key)
        folder = posixpath.dirname(key)
        while folder and folder not in folders:
            folders.add(folder)
            folder = posixpath.dirname(folder)
    for key in sorted(files & folders):
        raise RequestError(f"{key!r} would be both a file and a folder: copy {key + '/'!r} to a place of its own")


def refuse_overlap(source: str, target: str) -> None:
    """Raise ``RequestError`` where one place lies in the other: what is written would be read again."""
    first, second = (place.rstrip("/") + "/" for place in (source, target))
    if first.startswith(second) or second.startswith(first):
        raise RequestError(f"{source} and {target} overlap: copy to a place beside it")
