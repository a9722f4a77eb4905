"""Runs what may never return within a time limit, and tries a directory by really writing into it."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

T = TypeVar("T")

PROBE_BYTES = 4096
PROBE_PREFIX = ".anystorage-probe-"


def bounded(function: Callable[[], T], timeout: float, *, what: str) -> T:
    """Call a function in a thread of its own and give up on it after a time.

    A thread that the kernel holds cannot be ended. It is a daemon, so the interpreter does not wait for it, and should
    the mount come back, the function runs on to its end: one that writes has to look whether it was given up. Only a
    file that was open on a FUSE mount when its daemon hung holds up the process's exit: the kernel closes it without
    listening to signals.

    Parameters
    ----------
    function
        What to call; whatever it raises is raised here.
    timeout
        Seconds.
    what
        Names the work, in the error and as the thread's name.

    Raises
    ------
    TimeoutError
        The function has not returned in time.
    """
    outcome: Future[T] = Future()

    def work() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            outcome.set_exception(error)

    threading.Thread(target=work, name=f"anystorage {what}", daemon=True).start()
    try:
        return outcome.result(timeout)
    except (TimeoutError, FutureTimeoutError):  # two classes until Python 3.11
        if outcome.done():  # the function's own, such as ETIMEDOUT of a soft NFS mount
            return outcome.result()
        raise TimeoutError(errno.ETIMEDOUT, f"{what}: no answer within {timeout:g} s") from None


def probe_directory(directory: str) -> None:
    """Create a file with a hidden name of its own, write, fsync, read back and delete it.

    Raises
    ------
    OSError
        Of the first step that failed; ``EBADMSG`` when what came back is not what was written.
    """
    path = os.path.join(directory, f"{PROBE_PREFIX}{uuid.uuid4().hex}")
    payload = os.urandom(PROBE_BYTES)
    try:
        _write_durably(path, payload)
        with open(path, "rb") as file:
            back = file.read()
        if back != payload:
            raise OSError(errno.EBADMSG, "what was read back is not what was written", path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _write_durably(path: str, payload: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(payload)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
