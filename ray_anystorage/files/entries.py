"""What lies at a place, with what tells one content from another."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ray_anystorage.checkpoint.small_files import patiently
from ray_anystorage.errors import ObjectMissingError, RequestError
from ray_anystorage.files.spot import Spot
from ray_anystorage.transfer.store import Store


@dataclass(frozen=True, slots=True)
class Entry:
    """A file: its path below the place (its own name where the place is the file), bytes, and the store's etag."""

    path: str
    key: str
    size: int
    etag: str | None = None


def entries(place: Spot) -> list[Entry]:
    """Every file at a place, sorted; the one file where it is one.

    Raises
    ------
    RequestError
        There is nothing, or nothing that the pattern names.
    StorageError, OSError
        It cannot be read.
    """
    store = place.open()
    found = list(_below(store, place))
    if place.pattern:
        wanted = pattern(place.pattern)
        found = [entry for entry in found if wanted.fullmatch(entry.path)]
    if not found and not place.pattern and place.key and not place.folder:
        found = _alone(store, place)
    if not found:
        raise RequestError(
            f"{place.said!r}: there is nothing at {place.uri}{'/' + place.pattern if place.pattern else ''}"
        )
    return sorted(found, key=lambda entry: entry.path)


def is_file(place: Spot) -> bool:
    """Whether a place is one file."""
    return bool(place.key) and not place.folder and not place.pattern and bool(_alone(place.open(), place))


def pattern(wild: str) -> re.Pattern[str]:
    """``*`` and ``?`` within a name, ``**`` over folders, ``[…]`` one of some characters."""
    parts = (_translated(part) for part in re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", wild))
    return re.compile("".join(parts), re.DOTALL)


def _translated(part: str) -> str:
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    if part in known:
        return known[part]
    if part.startswith("["):
        inside = part[1:-1].replace("\\", "\\\\")
        return f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]"
    return re.escape(part)


def _below(store: Store, place: Spot) -> Iterator[Entry]:
    prefix = f"{place.key}/" if place.key else ""
    listed: Iterable[tuple[str, int, str | None]] = patiently(lambda: list(store.tagged(place.key)))
    for key, size, etag in listed:
        path = key[len(prefix) :]
        if key.startswith(prefix) and path:
            yield Entry(path, key, size, etag)


def _alone(store: Store, place: Spot) -> list[Entry]:
    try:
        size = patiently(lambda: store.size(place.key))
    except (ObjectMissingError, IsADirectoryError):
        return []
    return [Entry(place.key.rpartition("/")[2], place.key, size, patiently(lambda: store.etag(place.key)))]
