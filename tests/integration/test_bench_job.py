"""The benchmark as a job that Ray's own job server runs, to its end and stopped in the middle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ray_anystorage.bench.results import read_report
from tests.harness.dashboard import cluster, dashboard_parts, dashboard_url
from tests.harness.ray_cluster import RayCluster, clean_environment
from tests.harness.waiting import wait_until

__all__ = ["cluster", "dashboard_parts"]
pytestmark = [pytest.mark.needs_ray, pytest.mark.soak, pytest.mark.timeout(400)]

BIN = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Jobs:
    """``ray job …`` against a cluster, and a tier that its nodes have."""

    env: dict[str, str]
    folder: Path

    def submit(self, *arguments: str, wait: bool = True) -> subprocess.CompletedProcess[str]:
        tiers = {name: value for name, value in self.env.items() if name.startswith("RAY_ANYSTORAGE_")}
        command = ["submit", f"--runtime-env-json={json.dumps({'env_vars': tiers})}", "--submission-id=bench"]
        bench = [str(BIN / "ray-anystorage"), "bench", "--tier=cluster", f"--output={self.folder}/report", *arguments]
        tries: list[subprocess.CompletedProcess[str]] = []

        def taken() -> bool:
            tries.append(self.ray(*command, *([] if wait else ["--no-wait"]), "--", *bench))
            return "No available agent to submit job" not in tries[-1].stderr

        wait_until(taken, 150, "the cluster's job server is there")
        return tries[-1]

    def ray(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "ray"), "job", *arguments]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=150, check=False)

    @property
    def written(self) -> list[str]:
        return sorted(os.listdir(self.folder / "cluster"))


@pytest.fixture
def jobs(cluster: RayCluster, dashboard_parts: Path, tmp_path: Path) -> Jobs:
    for tier in ("cluster", "local"):
        (tmp_path / tier).mkdir()
    tiers = {f"RAY_ANYSTORAGE_{tier.upper()}_STORAGE": str(tmp_path / tier) for tier in ("cluster", "local")}
    url = dashboard_url(cluster)
    return Jobs(
        clean_environment({"PYTHONPATH": str(dashboard_parts), "RAY_API_SERVER_ADDRESS": url} | tiers), tmp_path
    )


def test_a_job_writes_its_report_and_leaves_nothing(jobs: Jobs) -> None:
    done = jobs.submit("--budget=60s", "--max-bytes=400MB", "--shape=lora", "--rounds=3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The model of scale" in done.stdout
    report = read_report((jobs.folder / "report.json").read_text(), what="the report")
    assert report.complete
    assert {cell.path for cell in report.cells} == {"anystorage", "stock"}
    assert jobs.written == []


def test_a_job_that_is_stopped_leaves_nothing_for_long(jobs: Jobs) -> None:
    started = jobs.submit("--budget=10m", "--shape=lora", "--rounds=1000", wait=False)
    assert started.returncode == 0, started.stdout + started.stderr
    wait_until(lambda: jobs.written, 100, "it writes")
    stopped = jobs.ray("stop", "bench")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    wait_until(lambda: jobs.written == [], 100, "what it wrote is removed")
