"""How far long saves and restores are, in the terminal of a driver on a store that is slow until somebody saw it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ray_anystorage.testing.s3_server import S3Server
from tests.harness.faulty_proxy import Fault, faulty_proxy
from tests.harness.ray_cluster import RayCluster, clean_environment
from tests.harness.s3 import artifact_env, keys_of

pytestmark = [pytest.mark.needs_ray, pytest.mark.soak]

FILES, SIZE, PAUSE = 40, 100_000, 0.5  # bytes; seconds between two files of a slow store
LONG = 7.0  # seconds; a transfer that takes as long has a bar
DRIVER = f"""
import os, pathlib, tempfile
import ray, ray.train
from ray.train import Checkpoint, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
import ray_anystorage as anystorage

def train():
    with tempfile.TemporaryDirectory() as directory:
        for number in range({FILES}):
            pathlib.Path(directory, f"part-{{number}}").write_bytes(os.urandom({SIZE}))
        anystorage.report({{"n": 1}}, directory)

config = anystorage.run_config("shown", checkpoint_size="12GB", credentials="env")
result = DataParallelTrainer(train, scaling_config=ScalingConfig(num_workers=1), run_config=config).fit()
with tempfile.TemporaryDirectory() as directory:
    result.checkpoint.to_directory(directory + "/there")
print("DONE")
"""
TUNER = f"""
import os, pathlib, tempfile
from ray import tune
import ray_anystorage as anystorage

def trial(config):
    with tempfile.TemporaryDirectory() as directory:
        for number in range({FILES}):
            pathlib.Path(directory, f"part-{{number}}").write_bytes(os.urandom({SIZE}))
        tune.report({{"n": 1}}, checkpoint=tune.Checkpoint.from_directory(directory))

config = anystorage.tune_run_config("shown", checkpoint_size="12GB", credentials="env")
(result,) = tune.Tuner(trial, run_config=config).fit()
with tempfile.TemporaryDirectory() as directory:
    result.checkpoint.to_directory(directory + "/there")
print("DONE")
"""


class Slow:
    """A rule of a store that passes one file on at a time, each after a pause, until it is told to be quick.

    ``limit`` is how many seconds it is slow at most, for each method.
    """

    def __init__(self) -> None:
        self.quick = {method: threading.Event() for method in ("PUT", "GET")}
        self.since: dict[str, float] = {}
        self.limit = 60.0
        self._one = threading.Lock()

    def __call__(self, method: str, path: str) -> Fault | None:
        if "/part-" in path and method in self.quick:
            with self._one:
                if time.monotonic() - self.since.setdefault(method, time.monotonic()) > self.limit:
                    self.quick[method].set()
                self.quick[method].wait(PAUSE)
        return None


@pytest.fixture
def slow(s3_server: S3Server, bucket: str, tmp_path: Path) -> Iterator[tuple[Slow, dict[str, str]]]:
    """A slow store, and the variables of a site with a bucket there."""
    (tmp_path / "local").mkdir()
    with faulty_proxy(s3_server.endpoint) as proxy:
        proxy.rule = rule = Slow()
        yield (
            rule,
            {
                **artifact_env(s3_server, f"{bucket}/team", endpoint=proxy.endpoint),
                "RAY_ANYSTORAGE_LOCAL_STORAGE": str(tmp_path / "local"),
                "RAY_ANYSTORAGE_CACHE_SHARE": "0",
                **keys_of(s3_server),
                "HOME": str(tmp_path),
                "PYTHONUNBUFFERED": "1",
            },
        )
        for event in rule.quick.values():
            event.set()


def driven(
    cluster: RayCluster, env: dict[str, str], said: Callable[[str], None], *, terminal: bool, driver: str = DRIVER
) -> str:
    """All that a driver writes, told as it comes."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    if terminal:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))  # rows and columns
    environment = clean_environment({"RAY_ADDRESS": cluster.address, "TERM": "xterm", **env})
    process = subprocess.Popen(
        [sys.executable, "-c", driver], env=environment, cwd=tempfile.gettempdir(), stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    text = ""
    try:
        with contextlib.suppress(OSError):  # Linux' way to say that the other side of a terminal is closed
            while part := os.read(ours, 65536):
                text += part.decode(errors="replace")
                said(text)
        assert process.wait(60) == 0, text[-5000:]
    finally:
        os.close(ours)
        process.kill()
        process.wait()
    assert "DONE" in text
    return text


@pytest.mark.parametrize(
    ("driver", "name", "shown"),
    [(DRIVER, r"checkpoint_\S+", r"rank 0: saving checkpoint_\S+"), (TUNER, r"trial_\S+", r"saving trial_\S+")],
    ids=["train", "tune"],
)
def test_a_terminal_shows_long_saves_and_restores(
    ray_cluster: RayCluster, slow: tuple[Slow, dict[str, str]], driver: str, name: str, shown: str
) -> None:
    rule, env = slow
    waited: dict[str, float] = {}

    def said(text: str) -> None:
        for words, method in (("saving", "PUT"), ("fetching", "GET")):
            if method not in waited and re.search(rf"{words} {name}, the last \S+ MB: +\d+%", text):
                waited[method] = time.monotonic() - rule.since[method]
                rule.quick[method].set()

    text = driven(ray_cluster, env, said, terminal=True, driver=driver)
    assert waited.keys() == rule.quick.keys(), text[-5000:]
    assert min(waited.values()) > 4.5, "nothing is shown of what is over soon"
    assert re.search(rf"pid=\d+\) \S*{shown}, the last \S+ MB: 100%", text), text[-5000:]
    assert "magic" not in text, "of a bar's state nothing but the bar is shown"


def test_without_a_terminal_nothing_is_shown(ray_cluster: RayCluster, slow: tuple[Slow, dict[str, str]]) -> None:
    rule, env = slow
    rule.limit = LONG
    text = driven(ray_cluster, env, lambda _: None, terminal=False)
    assert all(event.is_set() for event in rule.quick.values()), "both took long"
    assert "saving checkpoint" not in text
    assert "fetching checkpoint" not in text
    assert "magic" not in text
