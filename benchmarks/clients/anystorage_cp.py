"""``ray-anystorage cp``; its start counts, as it does for whoever calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.target import Target

_PROGRAM = str(Path(sys.executable).with_name("ray-anystorage"))


class Client:
    SETTINGS = "cp --quiet, its defaults: verified, and a record of what is under way"
    DURABLE = False

    def __init__(self, target: Target) -> None:
        tier = {"ARTIFACT_STORAGE": f"s3://{target.bucket}", "ENDPOINT": target.endpoint, "REGION": target.region}
        self._env = {**os.environ, **{f"RAY_ANYSTORAGE_{name}": value for name, value in tier.items()}}

    def save(self, directory: str, prefix: str) -> None:
        self._copy(directory, f"artifact:{prefix}")

    def restore(self, prefix: str, directory: str) -> None:
        self._copy(f"artifact:{prefix}", directory)

    def _copy(self, source: str, goal: str) -> None:
        subprocess.run([_PROGRAM, "cp", "--quiet", "--credentials=env", source, goal], check=True, env=self._env)
