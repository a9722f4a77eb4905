"""Threads that take tasks from one source until it is dry, one fails, or somebody cancels."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

from ray_anystorage.transfer.budget import Cancel

Task = Callable[[], None]

_TICK = 0.05  # seconds between looks at whether more threads are of use, while all have a long task


def run_tasks(tasks: Iterable[Task], threads: int, cancel: Cancel, wanted: Callable[[], int] | None = None) -> None:
    """Run every task; when this returns or raises, no thread is left.

    Parameters
    ----------
    tasks
        Taken one by one, when a thread is free for it.
    threads
        Tasks at once, at most.
    cancel
        Set here when a task fails, so that the others end.
    wanted
        How many threads are of use now, where that is not known before.

    Raises
    ------
    BaseException
        What the first failing task raised.
    """
    crew = _Crew(iter(tasks), threads, cancel, wanted or (lambda: threads))
    try:
        crew.grow()
    except BaseException:
        cancel.set()
        raise
    finally:
        crew.join()
    if crew.failures:
        raise crew.failures[0]
    cancel.check()


class _Crew:
    """Threads, of which each starts another as long as one more is of use."""

    def __init__(self, source: Iterator[Task], most: int, cancel: Cancel, wanted: Callable[[], int]) -> None:
        self.threads: list[threading.Thread] = []
        self.failures: list[BaseException] = []
        self._source, self._most, self._cancel, self._wanted = source, most, cancel, wanted
        self._dry = False
        self._lock = threading.Lock()

    def grow(self) -> None:
        with self._lock:
            if not self._dry and not self._cancel.is_set and len(self.threads) < min(self._most, self._wanted()):
                name = f"anystorage-transfer-{len(self.threads)}"
                thread = threading.Thread(target=self._work, name=name)
                thread.start()
                self.threads.append(thread)

    def join(self) -> None:
        """Wait for the end of all; meanwhile more may come to be of use."""
        try:
            for thread in self.threads:  # the list grows, but not after the last of them has ended
                while thread.is_alive():
                    thread.join(_TICK)
                    self.grow()
        except BaseException:  # Ctrl-C: they must end before it goes on
            self._cancel.set()
            for thread in self.threads:
                thread.join()
            raise

    def _work(self) -> None:
        try:
            while not self._cancel.is_set and (task := self._next()) is not None:
                self.grow()
                task()
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
            self.failures.append(error)
            self._cancel.set()

    def _next(self) -> Task | None:
        with self._lock:
            task = next(self._source, None)
            self._dry = task is None
            return task
