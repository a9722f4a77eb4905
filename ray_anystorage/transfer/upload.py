"""Sending many files at once: read, hash and send in one pass, large files in parallel parts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial

from ray_anystorage.errors import SourceChangedError
from ray_anystorage.transfer.files import Outgoing, Stored
from ray_anystorage.transfer.outgoing_file import OutgoingFile
from ray_anystorage.transfer.reuse import by_content
from ray_anystorage.transfer.session import Session
from ray_anystorage.transfer.workers import Task, run_tasks


class Sending:
    """One call of :func:`ray_anystorage.transfer.engine.upload`."""

    def __init__(
        self,
        session: Session,
        files: Sequence[Outgoing],
        on_stored: Callable[[Stored], None] | None = None,
        on_changed: Callable[[Outgoing], None] | None = None,
    ) -> None:
        self._session, self._on_changed = session, on_changed
        self._files = [OutgoingFile(session, file, on_stored) for file in files]

    def run(self, already: Collection[Stored]) -> tuple[Stored, ...]:
        """Send what is not there yet, and tell what the store then holds, in the order of the files."""
        session = self._session
        try:
            self._reuse(already)
            to_send = sorted((f for f in self._files if f.stored is None), key=lambda f: -f.file.size)
            largest = to_send[0].file.size if to_send else 0
            threads = session.threads(sum(len(file.parts) for file in to_send), largest)
            run_tasks(self._tasks(to_send), threads, session.cancel, session.budget.wanted)
            session.store.settle()
        finally:
            for file in self._files:
                file.abort()
        return tuple(file.stored for file in self._files if file.stored is not None)

    def _reuse(self, already: Collection[Stored]) -> None:
        session, keys = self._session, {file.file.key for file in self._files}
        copies = session.store.copies
        known = by_content(held for held in already if held.etag and (held.key in keys or copies(held.size)))
        files = [file for file in self._files if file.file.size in known]
        tasks = [self._unless_changed(file, partial(file.reuse, known[file.file.size])) for file in files]
        run_tasks(tasks, session.threads(len(tasks)), session.cancel, session.budget.wanted)

    def _tasks(self, files: list[OutgoingFile]) -> Iterator[Task]:
        # Only one buffer size per call: whatever one file lets go of, the next can take.
        block = max((part.size for file in files for part in file.parts), default=0)
        if self._session.store.limits.in_pieces:
            block = self._session.store.limits.piece_bytes
        for file in files:
            whole = file.file.size <= self._session.store.limits.single_bytes
            for send in [file.send_whole] if whole else [partial(file.send_part, part) for part in file.parts]:
                yield self._unless_changed(file, partial(send, block))

    def _unless_changed(self, file: OutgoingFile, task: Task) -> Task:
        """Something to do for a file: where that is not what it was, it is left out, if the caller does without it."""
        if self._on_changed is None:
            return task
        return partial(file.leaving_out.unless, (SourceChangedError,), task, partial(self._on_changed, file.file))
