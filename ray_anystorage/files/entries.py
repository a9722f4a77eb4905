"""What lies at a place, with what tells one content from another."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from ray_anystorage.checkpoint.small_files import patiently
from ray_anystorage.errors import ObjectMissingError, RequestError
from ray_anystorage.files.own import own_below
from ray_anystorage.files.spot import Spot
from ray_anystorage.transfer.open_store import MountRecipe
from ray_anystorage.transfer.posix_store import PosixStore
from ray_anystorage.transfer.store import Store

Skip = Callable[[OSError], None]
Listed = TypeVar("Listed")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file: its path below the place (its own name where the place is the file), bytes, and the store's etag."""

    path: str
    key: str
    size: int
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What lies at a place: files, sorted; ``is_file`` where the place itself is the one."""

    entries: list[Entry]
    is_file: bool = False


def look(place: Spot, *, skip: Skip | None = None) -> Found:
    """Every file at a place; the one file where it is one.

    Parameters
    ----------
    skip
        Is told of a folder that cannot be read, which is then passed over; it is an error where ``None``.

    Raises
    ------
    RequestError
        There is nothing, or nothing that the pattern names; the pattern cannot be meant; or a bucket has a file and a
        folder of the name.
    StorageError, OSError
        It cannot be read.
    """
    if place.is_bucket:
        alone, found = _beside(place, lambda: below(place))
    else:
        found = below(place, skip=skip)
        alone = [] if found else _alone(place.open(), place)
    if found and alone:
        raise _ambiguous(place)
    if not found and not alone:
        raise RequestError(
            f"{place.said!r}: there is nothing at {place.uri}{'/' + place.pattern if place.pattern else ''}"
        )
    return Found(sorted(found or alone, key=lambda entry: entry.path), bool(alone))


def entries(place: Spot, *, skip: Skip | None = None) -> list[Entry]:
    """As :func:`look`, the files alone."""
    return look(place, skip=skip).entries


def below(place: Spot, *, skip: Skip | None = None) -> list[Entry]:
    """Every file below a folder, unsorted; none where there is no folder. This package's own are left out."""
    store = place.open()
    if skip is not None and isinstance(place.recipe, MountRecipe):
        store = PosixStore(place.recipe.root, unreadable=skip)
    own = own_below(place)
    found = [entry for entry in _listed(store, place) if own is None or not own.match(entry.path)]
    if place.pattern:
        wanted = pattern(place.pattern)
        found = [entry for entry in found if wanted.fullmatch(entry.path)]
    return found


def literal(place: Spot) -> Spot:
    """The place, or the object of a bucket whose name is the pattern, character by character."""
    if not place.pattern or not place.is_bucket:
        return place
    named = replace(place, key=posixpath.join(place.key, place.pattern), pattern="", folder=False)
    return named if _alone(named.open(), named) else place


def as_target(place: Spot, *, single: bool) -> Spot:
    """The place that files go to: a folder where one is there, or where it is not one file that goes.

    Raises
    ------
    RequestError
        It is a pattern; a file lies where a folder is needed; or a bucket has both of the name.
    """
    if place.pattern:
        raise RequestError(f"{place.said!r} is a pattern: expected one file or folder to write to")
    if place.folder:
        return place
    if place.is_bucket:
        alone, first = _beside(place, lambda: patiently(lambda: list(_first(place.open(), place))))
        folder = bool(first)
    else:
        alone, folder = _alone(place.open(), place), False
    if alone and folder:
        raise _ambiguous(place)
    if alone and not single:
        raise RequestError(f"{place.said!r} is a file, and the files of a folder cannot go there: name a folder")
    return replace(place, folder=folder or not single)


def alone_at(place: Spot, key: str) -> Entry | None:
    """The file of a key, if there is one."""
    found = _alone(place.open(), replace(place, key=key, folder=False, pattern=""))
    return found[0] if found else None


def pattern(wild: str) -> re.Pattern[str]:
    """``*`` and ``?`` within a name, ``**`` over folders, ``[…]`` one of some characters.

    Raises
    ------
    RequestError
        It cannot be meant: ``[z-a]``.
    """
    parts = (_translated(part) for part in re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", wild))
    try:
        return re.compile("".join(parts), re.DOTALL)
    except re.error as error:
        raise RequestError(f"{wild!r} is not a pattern ({error}): expected *, ?, ** or [a-z] in it") from error


def _translated(part: str) -> str:
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    if part in known:
        return known[part]
    if part.startswith("["):
        inside = part[1:-1].replace("\\", "\\\\")
        return f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]"
    return re.escape(part)


def _ambiguous(place: Spot) -> RequestError:
    return RequestError(
        f"{place.said!r}: the bucket has both an object {place.uri} and a folder of that name: add a slash at the end "
        "for the folder, or move the object away with the bucket's own tools"
    )


def _listed(store: Store, place: Spot) -> Iterator[Entry]:
    prefix = f"{place.key}/" if place.key else ""
    listed: Iterable[tuple[str, int, str | None]] = patiently(lambda: list(store.tagged(place.key)))
    for key, size, etag in listed:
        path = key[len(prefix) :]
        if key.startswith(prefix) and path:
            yield Entry(path, key, size, etag)


def _first(store: Store, place: Spot) -> Iterator[str]:
    """One key below a folder, if there is one: a look, not a listing."""
    for key, _ in store.list(place.key):
        if key.startswith(f"{place.key}/"):
            yield key
            return


def _beside(place: Spot, listed: Callable[[], Listed]) -> tuple[list[Entry], Listed]:
    """The object of a place, and what a listing gives meanwhile: each is a round trip."""
    with ThreadPoolExecutor(1) as pool:
        alone = pool.submit(_alone, place.open(), place)
        found = listed()
        return alone.result(), found


def _alone(store: Store, place: Spot) -> list[Entry]:
    if not place.key or place.folder or place.pattern:
        return []
    try:
        size = patiently(lambda: store.size(place.key))
        return [Entry(place.key.rpartition("/")[2], place.key, size, patiently(lambda: store.etag(place.key)))]
    except (ObjectMissingError, IsADirectoryError):
        return []
