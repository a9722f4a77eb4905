"""The small files beside a checkpoint's data, read and written as patiently as the data itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ray_anystorage.errors import ManifestError, ManifestTooNewError
from ray_anystorage.transfer.budget import Budget, Cancel
from ray_anystorage.transfer.retry import Patience, persist
from ray_anystorage.transfer.store import Store

Item = TypeVar("Item")
T = TypeVar("T")

_AT_ONCE = 16
_TIMES, _READS = 3, 30  # that the same wrong bytes come, and any wrong ones, before they are taken for what is stored
PATIENCE = Patience(give_up_after=120.0)


def patiently(request: Callable[[], T]) -> T:
    """Make a request that stands alone; raises :class:`ray_anystorage.errors.StorageError` when patience ends."""
    return persist(request, Budget(), Cancel(), PATIENCE)


def names_below(store: Store, folder: str) -> dict[str, int]:
    """Path below the folder, and bytes, of every file there."""
    listed = patiently(lambda: list(store.list(folder)))
    return {key.removeprefix(f"{folder}/"): size for key, size in listed}


def write(store: Store, key: str, content: bytes) -> None:
    """Replace a file atomically; it is durable when this returns."""
    patiently(lambda: store.write_small(key, content))


def read(store: Store, key: str, size: int) -> bytes:
    """A whole file of ``size`` bytes."""
    content = bytearray(size)
    if size:
        patiently(lambda: store.read_range(key, 0, memoryview(content)))
    return bytes(content)


def parsed(store: Store, key: str, content: bytes, parse: Callable[[bytes], T]) -> T:
    """Parse a file that tells whether it is whole. Where it is not it is read again: a bit may flip on its way.

    Raises
    ------
    ManifestError
        It came several times in the same wrong way, and so is stored like that.
    """
    seen: Counter[bytes] = Counter()
    while True:
        try:
            return parse(content)
        except ManifestTooNewError:
            raise
        except ManifestError:
            seen[content] += 1
            if seen[content] == _TIMES or seen.total() == _READS:
                raise
        content = read(store, key, len(content))


def read_all(store: Store, files: Iterable[tuple[str, int]]) -> list[bytes]:
    """Several whole files, (key, bytes) each, side by side; in their order."""
    return side_by_side(lambda item: read(store, *item), list(files))


def side_by_side(act: Callable[[Item], T], items: Sequence[Item]) -> list[T]:
    """What an action says of each item, several at once; in their order."""
    if len(items) < 2:
        return [act(item) for item in items]
    with ThreadPoolExecutor(min(_AT_ONCE, len(items))) as pool:
        return list(pool.map(act, items))
