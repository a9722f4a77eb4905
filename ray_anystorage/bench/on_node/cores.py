"""A node's cores: how many there are for this process, and how busy they are, by whomever."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
_IDLE, _WAITING = 3, 4  # proc(5): fields of its first line


def cores() -> float:
    """That this process may use: by its affinity, and by what its container is allowed (cgroups, version 2 and 1)."""
    own = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for quota_path, period_path in (("cpu.max", ""), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError, IndexError):
            said = Path("/sys/fs/cgroup", quota_path).read_text().split()
            period = said[1] if not period_path else Path("/sys/fs/cgroup", period_path).read_text()
            if float(said[0]) > 0:  # "max", and -1, are no limit
                own = min(own, float(said[0]) / float(period))
    return own


class Busy:
    """From when it is made on."""

    def __init__(self) -> None:
        self._start, self._cpu, self._ticks = time.perf_counter(), time.process_time(), _ticks()

    def share(self) -> float:
        """Of the cores, 0 to 1: by all processes, or by this one of what its container is allowed, if that is more."""
        own = (time.process_time() - self._cpu) / (cores() * max(1e-6, time.perf_counter() - self._start))
        if self._ticks is None or (now := _ticks()) is None or now[1] == self._ticks[1]:
            return min(1.0, own)
        used, all_ = (after - before for before, after in zip(self._ticks, now, strict=True))
        return min(1.0, max(own, used / all_))


def _ticks() -> tuple[int, int] | None:
    """Of all cores since the system started: busy, and all; ``None`` where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = [int(word) for word in _STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
        return sum(fields) - fields[_IDLE] - fields[_WAITING], sum(fields)
    return None
