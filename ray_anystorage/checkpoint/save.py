"""Saving one rank's part of a checkpoint, step by step: begin, data, manifest. Each is durable before the next."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from ray_anystorage.checkpoint.course import Course
from ray_anystorage.checkpoint.manifest import (
    FOLDER,
    METADATA,
    POINTER,
    FileEntry,
    Manifest,
    manifest_attempt,
    manifest_rank,
)
from ray_anystorage.checkpoint.marks import Mark, marks_in, read_mark
from ray_anystorage.checkpoint.read import whole_manifests_of
from ray_anystorage.checkpoint.record import DAMAGED, RECORD
from ray_anystorage.checkpoint.small_files import names_below, patiently, side_by_side, write
from ray_anystorage.checkpoint.tree import SourceFile, Tree
from ray_anystorage.errors import StorageError
from ray_anystorage.transfer.budget import Cancel
from ray_anystorage.transfer.digest import ALGORITHM, CHUNK_BYTES
from ray_anystorage.transfer.engine import upload
from ray_anystorage.transfer.files import Outgoing, Stored
from ray_anystorage.transfer.posix_store import PosixStore
from ray_anystorage.transfer.retry import Patience
from ray_anystorage.transfer.store import Store


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of which checkpoint is saved: the checkpoint's name, who saves it in which attempt, for which report.

    The reports of a run are counted from 1, all ranks alike: a name that is used again holds what one report saved.
    """

    checkpoint: str
    attempt: str
    rank: int
    world_size: int
    report: int = 0


@dataclass(frozen=True, slots=True)
class Begun:
    """What was there when a save began.

    Attributes
    ----------
    others
        Bytes of the parts that other ranks had begun to save for the same report.
    former
        This rank's manifests of other attempts at the same name; they are gone from the home, their data may still be
        of use.
    """

    others: int
    former: tuple[Manifest, ...]


def begin(home: Store, part: Part, size: int = 0, allowed: Callable[[], object] | None = None) -> Begun:
    """Mark the checkpoint as one that is being saved, so that what a crash leaves is known as garbage.

    A name that is used again then loses its record and the manifests of other attempts: from here on what it held is
    being written over.

    Parameters
    ----------
    size
        Bytes of the part, for the other ranks to know.
    allowed
        Raises where this rank may not save any more; then nothing is written.

    Raises
    ------
    StorageError, OSError
        The home cannot be read or written.
    """
    folder = f"{part.checkpoint}/{FOLDER}"
    mark = Mark(part.attempt, part.rank, part.report, size)
    names = _marked(home, folder, mark, allowed or _always)
    outdated = [name for name in names if manifest_attempt(name) not in (None, part.attempt)]
    # Each rank reads its own alone: all of them would be read once by each rank.
    own_outdated = {name: names[name] for name in outdated if manifest_rank(name) == part.rank}
    former = tuple(whole_manifests_of(home, part.checkpoint, own_outdated))
    # The record goes before what it speaks of.
    for name in (name for name in (RECORD, DAMAGED, *outdated) if name in names):
        patiently(lambda name=name: home.delete([f"{folder}/{name}"]))  # type: ignore[misc]
    marks = marks_in(names, part.attempt)
    own = (other for other in marks if other.rank == part.rank and other != mark)
    if earlier := [f"{folder}/{other.name}" for other in own if other.report <= part.report]:  # the last one says all
        patiently(lambda: home.delete(earlier))
    return Begun(sum(m.size for m in marks if m.rank != part.rank and m.report == part.report), former)


def _marked(home: Store, folder: str, mark: Mark, allowed: Callable[[], object]) -> dict[str, int]:
    """Write the mark; what else there is."""

    found: dict[str, int] = {}
    refused = False

    def ask() -> None:
        nonlocal refused
        refused = True
        allowed()
        refused = False

    def write_mark() -> None:
        write(home, f"{folder}/{mark.name}", b"")

    def look() -> None:
        found.update(names_below(home, folder))

    steps: tuple[Callable[[], None], ...] = (ask, write_mark, look)
    if isinstance(home, PosixStore):
        for step in steps:  # looking comes after the mark: of two ranks that begin at once, one at least sees the other
            step()
        return found
    try:  # in a bucket nobody asks what the others began, and each of these is a round trip
        side_by_side(_do, steps)
    except BaseException:
        if refused:  # what lies there is another's, and says nothing of a save that this rank began
            with contextlib.suppress(StorageError):
                patiently(lambda: home.delete([f"{folder}/{mark.name}"]))
        raise
    return found


def _do(step: Callable[[], None]) -> None:
    step()


def _always() -> None:
    pass


def store_data(
    data: Store,
    tree: Tree,
    part: Part,
    *,
    already: Collection[Stored] = (),
    on_stored: Callable[[Stored], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
    cancel: Cancel | None = None,
    patience: Patience | None = None,
) -> tuple[Stored, ...]:
    """Store a rank's files below the checkpoint's name; they are durable when this returns.

    Parameters
    ----------
    data
        The run home, or the folder of the bucket that the run spills to.
    already, on_progress, cancel, on_stored, patience
        As :func:`ray_anystorage.transfer.engine.upload` takes them.

    Raises
    ------
    StorageError, OSError
        A file could not be read or stored. What was stored stays, known by the mark.
    """
    if isinstance(data, PosixStore):  # an object store has no folders, so an empty one is in the manifest alone
        for path in tree.empty:
            data.make_folder(data.path(f"{part.checkpoint}/{path}"))
    files = [Outgoing(file.source, f"{part.checkpoint}/{file.path}", file.size) for file in data_of(tree)]
    stored = upload(
        data, files, already=already, on_stored=on_stored, on_progress=on_progress, cancel=cancel, patience=patience
    )
    data.settle()
    return stored


def write_manifest(
    home: Store,
    tree: Tree,
    part: Part,
    stored: Collection[Stored],
    *,
    location: str | None = None,
    detour: str | None = None,
    seconds: float = 0.0,
    course: Course | None = None,
) -> Manifest:
    """Say what was stored; durable when this returns, and only then may the rank report.

    Parameters
    ----------
    location
        URI of the bucket folder that the data was spilled to.
    """
    for file in tree.files:
        if file.path == METADATA:
            with open(file.source, "rb") as source:
                write(home, f"{part.checkpoint}/{METADATA}", source.read())
    if location is not None:
        write(home, f"{part.checkpoint}/{POINTER}", _pointer(location))
    manifest = Manifest(
        attempt=part.attempt,
        rank=part.rank,
        world_size=part.world_size,
        report=part.report,
        location=location,
        algorithm=ALGORITHM,
        chunk_bytes=CHUNK_BYTES,
        files=tuple(_entry(item, part.checkpoint) for item in stored),
        directories=tree.empty,
        detour=detour,
        seconds=seconds,
        course=course,
    )
    write(home, f"{part.checkpoint}/{FOLDER}/{manifest.name}", manifest.to_bytes())
    home.settle()
    return manifest


def save(home: Store, tree: Tree, part: Part, *, spill: Store | None = None) -> Manifest:
    """All steps, for a place that is chosen already; see :class:`ray_anystorage.checkpoint.saver.Saver` for runs."""
    began = time.monotonic()
    begin(home, part)
    stored = store_data(home if spill is None else spill, tree, part)
    location = None if spill is None else f"{spill.uri}/{part.checkpoint}"
    return write_manifest(home, tree, part, stored, location=location, seconds=time.monotonic() - began)


def data_of(tree: Tree) -> tuple[SourceFile, ...]:
    """The files that are stored as data: all but the host's own note."""
    return tuple(file for file in tree.files if file.path != METADATA)


def own_name(name: str) -> bool:
    """True for a file name in a checkpoint's ``.anystorage`` folder that this package wrote."""
    return name in (RECORD, DAMAGED) or mark_attempt(name) is not None


def mark_attempt(name: str) -> str | None:
    """The attempt that a mark or a manifest speaks of."""
    mark = read_mark(name)
    return mark.attempt if mark is not None else manifest_attempt(name)


def _pointer(location: str) -> bytes:
    lines = (
        "The data of this checkpoint lies in the bucket, as plain objects:",
        f"  {location}/",
        f"Open it with ray_anystorage.Checkpoint, or read it with: aws s3 ls --recursive {location}/",
    )
    return (os.linesep.join(lines) + os.linesep).encode()


def _entry(stored: Stored, checkpoint: str) -> FileEntry:
    path = stored.key.removeprefix(f"{checkpoint}/")
    return FileEntry(path, stored.size, stored.digest, stored.chunks, stored.etag)
