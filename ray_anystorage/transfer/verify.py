"""Comparing what a store holds with digests, without keeping it: a chunk at a time, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from ray_anystorage.errors import ShortReadError
from ray_anystorage.transfer.budget import Budget, Cancel
from ray_anystorage.transfer.damage import Suspicion
from ray_anystorage.transfer.digest import CHUNK_BYTES, chunk_digest, file_digest
from ray_anystorage.transfer.download import mismatch
from ray_anystorage.transfer.files import Incoming
from ray_anystorage.transfer.retry import Patience
from ray_anystorage.transfer.session import Session
from ray_anystorage.transfer.store import Store
from ray_anystorage.transfer.workers import Task, run_tasks


def verify(
    store: Store,
    files: Sequence[Incoming],
    *,
    on_progress: Callable[[int], None] | None = None,
    cancel: Cancel | None = None,
    patience: Patience | None = None,
) -> None:
    """Read files and compare them with their digests; their targets are not touched.

    Parameters
    ----------
    on_progress, cancel, patience
        As for :func:`ray_anystorage.transfer.engine.download`.

    Raises
    ------
    DigestMismatchError, ShortReadError, ObjectMissingError
        The first file that is not what was stored; names it.
    StorageError
        The store refused or kept failing.
    """
    budget = Budget(requests=store.limits.requests)
    session = Session(store, budget, Cancel(cancel), patience or Patience(), on_progress)
    try:
        run_tasks(_tasks(session, files), session.threads(sum(1 + len(f.chunks or ()) for f in files)), session.cancel)
    finally:
        session.budget.trim()


def _tasks(session: Session, files: Sequence[Incoming]) -> Iterator[Task]:
    for file in files:
        yield partial(_check_whole, session, file)
        yield from (partial(_check_chunk, session, file, index) for index in range(len(file.chunks or ())))


def _check_whole(session: Session, file: Incoming) -> None:
    size = session.persist(partial(session.store.size, file.key))
    if size != file.size:
        raise ShortReadError(
            f"it has {size} bytes, {file.size} were stored",
            tier="artifact",
            place=f"{session.store.uri}/{file.key}",
            tried="compare it with its manifest",
            remedy="restore an older checkpoint, or store this one again from a good copy",
        )
    if file.chunks is not None and file.digest != file_digest(file.size, file.chunks):
        raise mismatch(session, file, "the digest of the whole file")


def _check_chunk(session: Session, file: Incoming, index: int) -> None:
    offset, suspicion = index * CHUNK_BYTES, Suspicion()
    size = min(CHUNK_BYTES, file.size - offset)

    def fetch_and_compare() -> None:
        session.store.read_range(file.key, offset, view)
        digest = chunk_digest(view)
        if file.chunks is not None and digest != file.chunks[index]:
            suspicion.of(digest, mismatch(session, file, f"chunk {index}, which begins at byte {offset}"))

    with session.buffer(CHUNK_BYTES) as buffer:
        view = memoryview(buffer)[:size]
        session.persist(fetch_and_compare)
    session.advance(size)
