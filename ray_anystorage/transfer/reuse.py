"""What a store holds already, found by the content of its chunks: what has the same is not sent again."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from ray_anystorage.transfer.files import Stored

Known = dict[tuple[str, ...], list[Stored]]  # of one size, by the first chunk, if there is one


def by_content(held: Iterable[Stored]) -> dict[int, Known]:
    """By size, and by the first chunk."""
    known: dict[int, Known] = {}
    for stored in held:
        known.setdefault(stored.size, {}).setdefault(stored.chunks[:1], []).append(stored)
    return known


def same_content(chunks: Iterator[str], known: Known) -> list[Stored]:
    """Those of the known that have these chunks; asks no further than the first that none of them has."""
    first = tuple(itertools.islice(chunks, 1))
    left, count = known.get(first, []), len(first)
    while left and (chunk := next(chunks, None)) is not None:
        left = [stored for stored in left if stored.chunks[count : count + 1] == (chunk,)]
        count += 1
    return [stored for stored in left if len(stored.chunks) == count]
