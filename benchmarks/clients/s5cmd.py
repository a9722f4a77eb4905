"""The binary s5cmd; its start counts, as it does for whoever calls it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.target import Target

_BINARY = Path(sys.executable).with_name("s5cmd")


class Client:
    SETTINGS = "cp --concurrency 32 --part-size 16, --numworkers 256 (its default)"
    DURABLE = False

    def __init__(self, target: Target) -> None:
        self._bucket = target.bucket
        self._command = [str(_BINARY), "--log=error", f"--endpoint-url={target.endpoint}", "cp"]
        self._command += ["--concurrency=32", "--part-size=16"]

    def save(self, directory: str, prefix: str) -> None:
        subprocess.run([*self._command, f"{directory}/", f"s3://{self._bucket}/{prefix}/"], check=True)

    def restore(self, prefix: str, directory: str) -> None:
        subprocess.run([*self._command, f"s3://{self._bucket}/{prefix}/*", f"{directory}/"], check=True)
