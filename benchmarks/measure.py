"""Runs :mod:`benchmarks.worker` and watches its memory from outside."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.target import Target

_SAMPLE = 0.02  # seconds between looks at the memory
_PATIENCE = 600  # seconds


@dataclass(frozen=True, slots=True)
class Run:
    """One save or restore: wall clock and CPU in seconds, growth of anonymous resident memory in bytes."""

    seconds: float
    cpu: float
    memory: int
    settings: str
    durable: bool


class RunFailedError(RuntimeError):
    """A client raised, or ran out of time; its message ends with what it wrote."""


def run(
    client: str, operation: str, source: str, goal: str, target: Target, environment: Mapping[str, str], log: Path
) -> Run:
    """Let a client do one thing in a fresh process.

    Parameters
    ----------
    client
        A module of :mod:`benchmarks.clients`.
    operation, source, goal
        ``"save"``, a directory and a prefix; or ``"restore"``, a prefix and a directory.
    log
        Where its standard error goes.

    Raises
    ------
    RunFailedError
        It did not finish.
    """
    order = {"client": client, "operation": operation, "source": source, "goal": goal, "target": asdict(target)}
    command = [sys.executable, "-m", "benchmarks.worker"]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=dict(environment)
        ) as process,
    ):
        try:
            assert process.stdin is not None  # noqa: S101 - for mypy: it was opened as a pipe
            print(json.dumps(order), file=process.stdin, flush=True)
            assert process.stdout is not None  # noqa: S101 - for mypy: it was opened as a pipe
            ready, _ = answer(process.stdout, process.pid, log)
            before = anonymous_memory(process.pid)
            print(file=process.stdin, flush=True)
            took, peak = answer(process.stdout, process.pid, log)
        except BaseException:
            process.kill()
            raise
    return Run(took["seconds"], took["cpu"], max(0, peak - before), ready["settings"], ready["durable"])


def answer(lines: IO[str], pid: int, log: Path | None = None) -> tuple[dict[str, Any], int]:
    """The next line of JSON that a process writes, and the most anonymous memory that it had until then."""
    peak, waited = 0, 0.0
    while not select.select([lines], [], [], _SAMPLE)[0]:
        peak = max(peak, anonymous_memory(pid))
        waited += _SAMPLE
        if waited > _PATIENCE:
            raise RunFailedError(f"not done after {_PATIENCE} s: {_tail(log)}")
    line = lines.readline()
    if not line:
        raise RunFailedError(f"it ended: {_tail(log)}")
    return json.loads(line), peak


def _tail(log: Path | None) -> str:
    return log.read_text()[-2000:] if log else "see its own log"


def anonymous_memory(pid: int) -> int:
    """Bytes of anonymous memory that a process and its children have resident (proc(5), RssAnon)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:  # it ended between two looks
        return 0
    own = sum(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon:"))
    return own + sum(anonymous_memory(int(child)) for child in children)
