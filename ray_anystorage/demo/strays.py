"""Ends processes that belong to a directory: Ray's and the S3 server's, should their parent have had no time to."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TIMEOUT = 5.0  # seconds
_PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class _Process:
    number: int
    session: int
    command: bytes

    @property
    def leads(self) -> bool:
        return self.number == self.session


def end_strays(directory: Path, session: int | None) -> None:
    """Kill a session, and every other one whose leader's command line names the directory, with all their processes.

    Ray's workers rename themselves, so that only their session tells whose they are. Where there is no ``/proc``
    nothing is done.

    Raises
    ------
    TimeoutError
        A process is still there after five seconds.
    """
    mark, sessions = os.fsencode(directory), {session} - {None}
    deadline = time.monotonic() + _TIMEOUT
    while True:
        processes = list(_processes())
        sessions |= {process.number for process in processes if process.leads and mark in process.command}
        strays = [process.number for process in processes if process.session in sessions]
        if not strays:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {strays} of {directory} do not end")
        for number in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        time.sleep(_PAUSE)


def _processes() -> Iterator[_Process]:
    """Every process but zombies."""
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        if not entry.name.isdigit():
            continue
        try:
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            command = (entry / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if state != "Z":
            yield _Process(int(entry.name), int(session), command)
