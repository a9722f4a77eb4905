"""Whether files are what they were when they were listed, and whether a copy goes to the file itself."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from ray_anystorage.checkpoint.small_files import side_by_side
from ray_anystorage.errors import FileMovedError, RequestError, SourceChangedError
from ray_anystorage.files.entries import Entry, alone_at, below
from ray_anystorage.files.plan import Copy
from ray_anystorage.files.spot import Spot
from ray_anystorage.transfer.open_store import MountRecipe

_FEW = 32  # files that are asked for one by one, rather than by a list of all
_NAMED = 5  # in an error


def resolved(place: Spot, key: str) -> str:
    """The one name of a file or folder: its path without symbolic links, or its URI."""
    if isinstance(place.recipe, MountRecipe):
        return os.path.realpath(os.path.join(place.recipe.root, key))
    return f"{place.recipe.uri.rstrip('/')}/{key}"


def refuse_same(source: Spot, target: Spot, copies: Iterable[Copy]) -> None:
    """Raise ``RequestError`` where a file would be copied to itself."""
    if source.is_bucket != target.is_bucket:
        return
    for copy in copies:
        name = resolved(source, copy.entry.key)
        if name == resolved(target, copy.key):
            raise RequestError(f"{name} would be copied to itself: name another TARGET than {target.said!r}")


def refuse_changed(source: Spot, wrong: Sequence[Entry]) -> None:
    """Raise where files changed or went away while they were copied: of each, nobody knows which content that was.

    Raises
    ------
    SourceChangedError
        It names some of them.
    """
    if wrong:
        raise SourceChangedError(
            f"{_named(wrong)} changed or went away while they were copied",
            tier=source.tier or ("artifact" if source.is_bucket else "local"),
            place=source.uri,
            tried="compare their etags with those of before the copy",
            remedy="copy again when nobody writes there",
        )


def changed(source: Spot, listed: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Those that are there with another size or etag than when they were listed, and those that are not there."""
    there = _now(source, [entry.key for entry in listed])
    pairs = [(entry, there.get(entry.key)) for entry in listed]
    altered = [entry for entry, now in pairs if now and (now.size, now.etag) != (entry.size, entry.etag)]
    return altered, [entry for entry, now in pairs if now is None]


def movable(source: Spot, target: Spot, copies: Sequence[Copy]) -> tuple[list[Entry], FileMovedError | None]:
    """The source's files that may be deleted after a copy, and the error about the others.

    A file may be where it is as it was listed, and the target has another file, of its size.
    """
    there = _now(target, [copy.key for copy in copies])
    lost = {c.entry.key for c in copies if c.key not in there or there[c.key].size != c.entry.size}
    lost |= {copy.entry.key for copy in _files_of_two_names(source, target, copies)}
    lost |= {entry.key for entry in changed(source, [copy.entry for copy in copies])[0]}
    kept = [copy.entry for copy in copies if copy.entry.key in lost]
    error = FileMovedError(
        f"{_named(kept)} changed since they were listed, or {target.uri} does not have another file of that size: "
        f"they are not deleted from {source.uri}. Move them again when nobody writes there"
    )
    return [copy.entry for copy in copies if copy.entry.key not in lost], error if kept else None


def _now(place: Spot, keys: Sequence[str]) -> dict[str, Entry]:
    """What lies there now, of these keys at least."""
    if len(keys) > _FEW:
        return {entry.key: entry for entry in below(place)}
    found = side_by_side(lambda key: alone_at(place, key), keys)
    return {entry.key: entry for entry in found if entry is not None}


def _files_of_two_names(source: Spot, target: Spot, copies: Iterable[Copy]) -> Iterator[Copy]:
    """Those that are the same file as their target, by whatever way the file system shows it twice."""
    if not (isinstance(source.recipe, MountRecipe) and isinstance(target.recipe, MountRecipe)):
        return
    for copy in copies:
        try:
            paths = os.path.join(source.recipe.root, copy.entry.key), os.path.join(target.recipe.root, copy.key)
            if os.path.samefile(*paths):
                yield copy
        except FileNotFoundError:  # one of them is gone
            continue


def _named(entries: Sequence[Entry]) -> str:
    some = ", ".join(entry.path for entry in entries[:_NAMED])
    return some if len(entries) <= _NAMED else f"{some} and {len(entries) - _NAMED:,} more"
