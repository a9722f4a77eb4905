"""Saving one rank's part of a checkpoint: data first, durable; then the manifest that says so."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TypeVar

from ray_anystorage.checkpoint.manifest import FOLDER, FileEntry, Manifest, is_manifest, read_manifest
from ray_anystorage.checkpoint.tree import Tree
from ray_anystorage.errors import RankConflictError
from ray_anystorage.transfer.budget import Budget, Cancel
from ray_anystorage.transfer.digest import ALGORITHM, CHUNK_BYTES
from ray_anystorage.transfer.engine import upload
from ray_anystorage.transfer.files import Outgoing, Stored
from ray_anystorage.transfer.retry import Patience, persist
from ray_anystorage.transfer.store import Store

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of which checkpoint is saved: the checkpoint's name, and who saves it in which attempt."""

    checkpoint: str
    attempt: str
    rank: int
    world_size: int


def save(
    home: Store, tree: Tree, part: Part, *, spill: Store | None = None, already: Collection[Stored] = ()
) -> Manifest:
    """Store one rank's files and then its manifest; both are durable when this returns.

    Parameters
    ----------
    home
        The run home; the manifest goes there, and the data unless it is spilled.
    spill
        The bucket's folder of the run, where the data is to go there.
    already
        What the store of the data is known to hold, as :func:`ray_anystorage.transfer.engine.upload` takes it.

    Raises
    ------
    RankConflictError
        Another rank of this attempt stored another content under the same name; names both ranks and the file.
    StorageError, OSError
        The data or the manifest could not be stored; no manifest exists then.
    """
    data = home if spill is None else spill
    stored = upload(
        data,
        [Outgoing(file.source, f"{part.checkpoint}/{file.path}", file.size) for file in tree.files],
        already=already,
    )
    data.settle()
    manifest = Manifest(
        attempt=part.attempt,
        rank=part.rank,
        world_size=part.world_size,
        location=None if spill is None else f"{spill.uri}/{part.checkpoint}",
        algorithm=ALGORITHM,
        chunk_bytes=CHUNK_BYTES,
        files=tuple(_entry(item, part.checkpoint) for item in stored),
        directories=tree.empty,
    )
    _persist(lambda: home.write_small(f"{part.checkpoint}/{FOLDER}/{manifest.name}", manifest.to_bytes()))
    home.settle()
    # After writing: of two ranks that save at once, at least the later one sees the other's manifest.
    refuse_conflicts(manifest, (other for other in read_manifests(home, part.checkpoint) if other.rank != part.rank))
    return manifest


def read_manifests(home: Store, checkpoint: str) -> tuple[Manifest, ...]:
    """Every manifest of a checkpoint, of whatever attempt, in the order of their names.

    Raises
    ------
    ManifestError
        One of them is torn, contradicts itself, or comes from a later version.
    StorageError
        The home cannot be read.
    """
    folder = f"{checkpoint}/{FOLDER}"
    listed = _persist(lambda: sorted(home.list(folder)))
    named = [(key.rpartition("/")[2], key, size) for key, size in listed]
    return tuple(read_manifest(name, _read(home, key, size)) for name, key, size in named if is_manifest(name))


def _read(home: Store, key: str, size: int) -> bytes:
    content = bytearray(size)
    _persist(lambda: home.read_range(key, 0, memoryview(content)))
    return bytes(content)


def _persist(request: Callable[[], T]) -> T:
    """Make a request that stands alone as patiently as the engine makes its own."""
    return persist(request, Budget(), Cancel(), Patience())


def refuse_conflicts(manifest: Manifest, others: Iterable[Manifest]) -> None:
    """Raise where another rank of the same attempt stored something else under a name of this one's.

    Raises
    ------
    RankConflictError
        Naming the file and both ranks. Equal content is no conflict: it is stored once.
    """
    own = {file.path: file.digest for file in manifest.files}
    for other in others:
        if other.attempt != manifest.attempt:
            continue
        for file in other.files:
            if own.get(file.path, file.digest) != file.digest:
                raise RankConflictError(
                    f"ranks {manifest.rank} and {other.rank} saved different content under the same name, "
                    f"{file.path!r}: have each rank write names of its own, or only one rank write this file"
                )


def _entry(stored: Stored, checkpoint: str) -> FileEntry:
    return FileEntry(stored.key.removeprefix(f"{checkpoint}/"), stored.size, stored.digest, stored.chunks)
