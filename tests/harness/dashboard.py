"""A Ray cluster with Ray's real dashboard, which is not installed where tests run."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import pytest

from tests.harness.mounts import cannot
from tests.harness.ray_cluster import RayCluster, started_head


@pytest.fixture(scope="module")
def dashboard_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``ray[default]`` has beside ``ray``, in a folder of its own: with it in place every test would start one."""
    target = tmp_path_factory.mktemp("dashboard-parts")
    lines = [line for line in requires("ray") or () if re.search(r"extra == .default.", line)]
    names = [line.partition(";")[0].strip() for line in lines]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        cannot(f"pip does not get what ray[default] needs: {done.stderr[-500:]}")
    return target


@contextlib.contextmanager
def cluster_with_dashboard(parts: Path, **env: str) -> Iterator[RayCluster]:
    """A cluster for one test, with a dashboard and what exports metrics."""
    directory = Path(tempfile.mkdtemp(prefix="anydash-", dir="/tmp"))
    env |= {"PYTHONPATH": str(parts)}
    with started_head(directory, "--include-dashboard=true", "--dashboard-port=0", env=env) as address:
        yield RayCluster(address, directory)


@pytest.fixture
def cluster(dashboard_parts: Path) -> Iterator[RayCluster]:
    """A cluster of this test's own, with a dashboard."""
    with cluster_with_dashboard(dashboard_parts, RAY_TRAIN_ENABLE_STATE_TRACKING="1") as cluster:
        yield cluster


def dashboard_url(cluster: RayCluster) -> str:
    """Where the cluster's dashboard answers."""
    said = (cluster.directory / "start.log").read_text()
    url = re.search(r"https?://[\d.]+:\d+", said)
    assert url, said
    return url[0]
