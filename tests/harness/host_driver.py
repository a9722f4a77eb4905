"""A driver that runs in a host of its own, seen from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class Driver:
    """A process in a host.

    Attributes
    ----------
    log
        The file with all that it and, through Ray, the workers of its run print.
    seconds
        How long it ran, once it has ended.
    """

    process: subprocess.Popen[bytes]
    log: Path
    seconds: float = 0.0
    _began: float = field(default_factory=time.monotonic)

    def until(self, condition: Callable[[], object], timeout: float = 100) -> None:
        """Wait for a condition that comes about while the driver runs."""
        deadline = time.monotonic() + timeout
        while not condition():
            ended = self.process.poll() is not None
            assert not ended, f"the driver ended before that: {self.output()[-8000:]}"
            assert time.monotonic() < deadline, f"it did not come about in {timeout} s: {self.output()[-8000:]}"
            time.sleep(0.1)

    def wait(self, timeout: float = 100) -> int:
        """Wait until it ends, and return how."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the driver did not end in {timeout} s: {self.output()[-8000:]}") from None
        self.seconds = time.monotonic() - self._began
        return code

    def kill(self) -> None:
        """End it at once, as ``kill -9`` does."""
        for child in children(self.process.pid):  # the process itself only waits for the one that is in the host
            os.kill(child, signal.SIGKILL)
        self.process.wait()

    def output(self) -> str:
        """What was printed so far."""
        return self.log.read_text(errors="replace")

    def result(self, timeout: float = 100) -> Any:
        """Wait until it ends well, and return what it printed as JSON after ``RESULT``."""
        assert self.wait(timeout) == 0, self.output()[-8000:]
        said = self.output()
        assert "RESULT " in said, said[-8000:]
        # What Ray prints for its workers meanwhile may have the beginning or the end of the same line.
        return json.JSONDecoder().raw_decode(said.rpartition("RESULT ")[2])[0]

    def failure(self, timeout: float = 100) -> str:
        """Wait until it ends with an error, and return what it printed."""
        assert self.wait(timeout) != 0, self.output()[-8000:]
        return self.output()


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
