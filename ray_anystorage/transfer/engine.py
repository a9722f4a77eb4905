"""Moving many files between local paths and a store, over one bounded budget of requests and memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Literal

from ray_anystorage.events import Transferred, operation
from ray_anystorage.transfer.budget import Budget, Cancel
from ray_anystorage.transfer.download import Changed, Fetched, Fetching
from ray_anystorage.transfer.files import Incoming, Outgoing, Stored
from ray_anystorage.transfer.partial import Partial
from ray_anystorage.transfer.retry import Patience
from ray_anystorage.transfer.session import Session
from ray_anystorage.transfer.sink import Sink
from ray_anystorage.transfer.store import Store
from ray_anystorage.transfer.upload import Sending

_SMALL_BYTES = 1 << 20  # of a file, at most: a request for it is mostly waiting, and takes hardly any memory


def upload(
    store: Store,
    files: Sequence[Outgoing],
    *,
    budget: Budget | None = None,
    on_progress: Callable[[int], None] | None = None,
    already: Collection[Stored] = (),
    on_stored: Callable[[Stored], None] | None = None,
    on_changed: Callable[[Outgoing], None] | None = None,
    cancel: Cancel | None = None,
    patience: Patience | None = None,
    partial: Partial | None = None,
) -> tuple[Stored, ...]:
    """Store files; they are durable when this returns, and none is under way when it raises.

    Parameters
    ----------
    files
        Keys must differ.
    budget
        May be shared by several calls at once; a fresh one where ``None``.
    on_progress
        Called with the number of bytes that were stored since the last call, by one thread at a time; with 0 while what
        may be there already is compared.
    already
        What the store is known to hold, under these keys or others. A file that is the same is not sent again: it is
        left alone, or copied on the store's own side.
    on_stored
        Called once for each file when the store has it, by any thread: a journal for a caller that tries again.
    on_changed
        Called once for each file that is gone, or shorter than it was, by any thread. Such a file is left out, and the
        others go on; without this, it is an error.
    cancel
        Set it to end the transfer; requests under way are waited for, uploads under way aborted.
    patience
        How long failing requests are tried again.
    partial
        Record of large files under way, where the store can go on with an upload: what an interrupted call sent is not
        sent again, and stays where this one is interrupted.

    Returns
    -------
    tuple of Stored
        In the order of ``files``, without those left out.

    Raises
    ------
    SourceChangedError
        A file is gone, or shrank; ``on_changed`` is not given.
    StorageError
        The store refused or kept failing. The first of several failures.
    OSError
        A file cannot be read.
    TransferCancelledError
        ``cancel`` was set.
    """
    budget, size = budget or _budget(store, files), sum(file.size for file in files)
    with moving("sent", store, budget, cancel, patience, on_progress, partial, size=size) as session:
        return Sending(session, files, on_stored, on_changed).run(already)


def download(
    store: Store,
    files: Sequence[Incoming],
    *,
    budget: Budget | None = None,
    on_progress: Callable[[int], None] | None = None,
    cancel: Cancel | None = None,
    patience: Patience | None = None,
    partial: Partial | None = None,
    on_fetched: Fetched | None = None,
    on_changed: Changed | None = None,
    durable: bool = False,
) -> None:
    """Fetch files. Each target appears whole and verified, or not at all; its folders are made.

    Parameters
    ----------
    files
        Targets must differ. Those with digests are verified.
    budget, on_progress, cancel, patience
        As for :func:`upload`.
    partial
        Record of large files under way, by key: what an interrupted call fetched is not fetched again.
    on_fetched
        Called once for each file when its target is there, with the etag of that, by any thread.
    on_changed
        Called once for each file whose object is gone, shorter, or has another etag than was asked for, by any thread.
        Such a file is left out, and the others go on; without this, it is an error.
    durable
        Sync each file before it gets its name, so that the name never stands for less after a power cut. The names
        themselves are for the caller to sync.

    Raises
    ------
    DigestMismatchError
        What the store holds is not what the digests say; names the file and the chunk.
    SourceChangedError, ShortReadError, ObjectMissingError
        An object has another etag than was asked for, is shorter than said, or not there; ``on_changed`` is not given.
    StorageError
        The store refused or kept failing. The first of several failures.
    OSError
        A target cannot be written.
    TransferCancelledError
        ``cancel`` was set.
    """
    budget, size = budget or _budget(store, files), sum(file.size for file in files)
    with moving("fetched", store, budget, cancel, patience, on_progress, partial, size=size) as session:
        Fetching(session, files, on_fetched, on_changed, durable=durable).run()


def _budget(store: Store, files: Sequence[Outgoing] | Sequence[Incoming]) -> Budget:
    """Small files may have all requests at once, with no trial whether more of them help."""
    largest = max((file.size for file in files), default=0)
    requests = store.limits.at_once(largest)
    if largest <= _SMALL_BYTES:
        return Budget(requests=requests, first_requests=requests)
    return Budget(requests=requests)


@contextlib.contextmanager
def sink(store: Store, key: str, about: int) -> Iterator[Sink]:
    """A file that is sent while it is written. It is whole and durable after the block, or not visible.

    Parameters
    ----------
    about
        How many bytes it will have, as far as that is known.

    Raises
    ------
    StorageError
        The store refused or kept failing: from a write, or as the block ends.
    """
    with moving("sent", store) as session, Sink(session, key, about) as opened:
        yield opened
        opened.commit()


@contextlib.contextmanager
def moving(
    direction: Literal["sent", "fetched"],
    store: Store,
    budget: Budget | None = None,
    cancel: Cancel | None = None,
    patience: Patience | None = None,
    on_progress: Callable[[int], None] | None = None,
    partial: Partial | None = None,
    *,
    size: int | None = None,
) -> Iterator[Session]:
    """What the parts of a call share; how it went is told when it ends. ``size`` in bytes, where it is known before."""
    budget = budget or Budget(requests=store.limits.requests)
    retries, cuts = budget.retries, budget.cuts
    kind: Literal["mount", "bucket"] = "mount" if store.limits.in_pieces else "bucket"
    with operation("upload" if direction == "sent" else "download", size=size) as under_way:

        def progress(more: int) -> None:
            under_way.moved(more)
            if on_progress is not None:
                on_progress(more)

        # A failure ends this call, not everything that shares the caller's flag.
        session = Session(store, budget, Cancel(cancel), patience or Patience(), progress, partial)
        try:
            yield session
        finally:
            budget.trim()
            under_way.outcome = Transferred(
                direction, kind, under_way.bytes, budget.retries - retries, budget.cuts - cuts
            )
