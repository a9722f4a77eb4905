"""Real controllers of real runs, killed at random while they write: the run always resumes from its last report."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from tests.harness.ray_cluster import RayCluster, clean_environment

pytestmark = pytest.mark.needs_ray

DRIVER = """
import json, os, pathlib, sys, tempfile
import ray, ray.train
from ray.train import Checkpoint, CheckpointConfig, ScalingConfig, UserCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
import ray_anystorage as anystorage

class Tell(UserCallback):
    def __init__(self, journal):
        self.journal = journal

    def after_report(self, run_context, metrics, checkpoint):
        with open(self.journal, "a") as file:
            file.write(f"report {os.getpid()} {metrics[0]['n']}\\n")

def train(config):
    checkpoint, start = ray.train.get_checkpoint(), 0
    if checkpoint:
        with checkpoint.as_directory() as directory:
            start = json.loads(pathlib.Path(directory, "n.json").read_text())
    with open(config["journal"], "a") as file:
        file.write(f"start {os.getpid()} {start}\\n")
    for n in range(start + 1, 10**6):
        with tempfile.TemporaryDirectory() as directory:
            pathlib.Path(directory, "n.json").write_text(json.dumps(n))
            ray.train.report({"n": n}, checkpoint=Checkpoint.from_directory(directory))

for _ in range(int(sys.argv[2])):
    try:
        DataParallelTrainer(
            train, train_loop_config={"journal": sys.argv[1]},
            # Without a dashboard Ray keeps the placement group of a killed controller until the driver ends.
            scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.01}),
            run_config=anystorage.run_config(
                "killed", callbacks=[Tell(sys.argv[1])], checkpoint_config=CheckpointConfig(num_to_keep=2)
            ),
        ).fit()
    except ray.exceptions.RayActorError:
        continue
"""


class Run(NamedTuple):
    """A driver at work: where its processes write down what they did, and its log."""

    journal: Path
    log: Path
    driver: subprocess.Popen[bytes]


@pytest.mark.soak
@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.timeout(1800))], ids=["two", "fifty"])
def test_the_run_resumes_after_every_kill_of_its_controller(
    ray_cluster: RayCluster, tmp_path: Path, kills: int
) -> None:
    (tmp_path / "cluster").mkdir()
    program, journal, random = tmp_path / "driver.py", tmp_path / "journal", Random(kills)
    program.write_text(DRIVER)
    journal.touch()
    env = {"RAY_ADDRESS": ray_cluster.address, "RAY_ANYSTORAGE_CLUSTER_STORAGE": str(tmp_path / "cluster")}
    command = [sys.executable, str(program), str(journal), str(kills)]
    log = tmp_path / "driver.log"
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("w"))
        driver = subprocess.Popen(command, env=clean_environment(env), stdout=output, stderr=output)
        stack.callback(driver.wait)
        stack.callback(driver.kill)
        run, seen, reported = Run(journal, log, driver), 0, 0
        for kill in range(kills):
            start = int(_wait_for(run, "start", after=seen)[0].split()[2])
            assert start >= reported, f"kill {kill}: report {reported} was made, the run resumed from {start}"
            last = _wait_for(run, "report", after=seen, count=random.randrange(1, 4))[-1]
            controller = int(last.split()[1])
            time.sleep(random.uniform(0, 0.25))  # where in its work the kill falls is left to chance
            os.kill(controller, signal.SIGKILL)
            _wait_gone(controller)
            entries = journal.read_text().splitlines()
            seen = len(entries)
            reported = int([line for line in entries if line.startswith("report")][-1].split()[2])
        driver.wait(60)
    assert driver.returncode == 0, log.read_text()[-3000:]


def _wait_for(run: Run, word: str, *, after: int, count: int = 1) -> list[str]:
    """Wait for so many journal lines that begin with the word, past the first ``after`` lines."""
    deadline = time.monotonic() + 90
    while True:
        found = [line for line in run.journal.read_text().splitlines()[after:] if line.startswith(word)]
        if len(found) >= count:
            return found
        assert run.driver.poll() is None, run.log.read_text()[-3000:]
        assert time.monotonic() < deadline, run.log.read_text()[-3000:]
        time.sleep(0.005)


def _wait_gone(pid: int) -> None:
    while Path(f"/proc/{pid}").exists() and "zombie" not in Path(f"/proc/{pid}/status").read_text():
        time.sleep(0.005)
