"""Threads that take tasks from one source until it is dry, one fails, or somebody cancels."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from ray_anystorage.transfer.budget import Cancel

Task = Callable[[], None]


def run_tasks(tasks: Iterable[Task], threads: int, cancel: Cancel) -> None:
    """Run every task; when this returns or raises, no thread is left.

    Parameters
    ----------
    tasks
        Taken one by one, when a thread is free for it.
    threads
        Tasks at once, at most.
    cancel
        Set here when a task fails, so that the others end.

    Raises
    ------
    BaseException
        What the first failing task raised.
    """
    source, lock = iter(tasks), threading.Lock()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while not cancel.is_set:
                with lock:
                    task = next(source, None)
                if task is None:
                    return
                task()
        except BaseException as error:  # noqa: BLE001 - it is raised below, in the caller's thread
            failures.append(error)
            cancel.set()

    running = [threading.Thread(target=work, name=f"anystorage-transfer-{i}") for i in range(threads)]
    try:
        for thread in running:
            thread.start()
    except BaseException:
        cancel.set()
        raise
    finally:
        _join(running, cancel)
    if failures:
        raise failures[0]
    cancel.check()


def _join(threads: list[threading.Thread], cancel: Cancel) -> None:
    for thread in threads:
        while thread.ident is not None and thread.is_alive():
            try:
                thread.join()
            except BaseException:  # Ctrl-C: the others must end before it goes on
                cancel.set()
                thread.join()
                raise
