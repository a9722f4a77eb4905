"""The binary rclone; its start counts, as it does for whoever calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.target import Target

_BINARY = Path(sys.executable).with_name("rclone")
_OPTIONS = (
    *("--transfers=64", "--checkers=64", "--s3-upload-concurrency=16", "--s3-chunk-size=8M", "--s3-upload-cutoff=8M"),
    *("--multi-thread-streams=16", "--multi-thread-cutoff=16M", "--multi-thread-chunk-size=8M", "--no-traverse"),
    *("--s3-no-check-bucket", "--s3-no-head", "--config=", "--quiet"),
)


class Client:
    SETTINGS = f"copy {' '.join(_OPTIONS)}"
    DURABLE = False

    def __init__(self, target: Target) -> None:
        self._bucket = target.bucket
        said = {"TYPE": "s3", "PROVIDER": "Other", "ENV_AUTH": "true", "ENDPOINT": target.endpoint}
        said |= {"REGION": target.region, "FORCE_PATH_STYLE": "true"}
        self._env = {**os.environ, **{f"RCLONE_CONFIG_BENCH_{name}": value for name, value in said.items()}}

    def save(self, directory: str, prefix: str) -> None:
        self._copy(directory, f"bench:{self._bucket}/{prefix}")

    def restore(self, prefix: str, directory: str) -> None:
        self._copy(f"bench:{self._bucket}/{prefix}", directory)

    def _copy(self, source: str, goal: str) -> None:
        subprocess.run([str(_BINARY), "copy", *_OPTIONS, source, goal], check=True, env=self._env)
