"""What Ray's real dashboard and state API answer while a run has keys from a broker: names, and no secret."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest

from ray_anystorage.testing.s3_server import S3Server
from tests.harness.dashboard import cluster, dashboard_parts, dashboard_url
from tests.harness.ray_cluster import QUIET, RayCluster
from tests.integration.test_broker import files_that_hold, running, site

__all__ = ["cluster", "dashboard_parts", "site"]
pytestmark = [pytest.mark.needs_ray, pytest.mark.soak]

# As `ray list …`, the dashboard's pages and Ray Train's tab ask.
STATE = ("actors", "jobs", "nodes", "objects", "placement_groups", "runtime_envs", "tasks", "workers")
PAGES = ("/logical/actors", "/nodes?view=details", "/nodes?view=summary", "/api/jobs/", "/api/train/v2/runs/v1",
         "/api/cluster_status", *(f"/api/v0/{what}?detail=1&limit=1000" for what in STATE))  # fmt: skip
MUST_ANSWER = {f"/api/v0/{what}?detail=1&limit=1000" for what in ("actors", "tasks", "workers")} | {"/logical/actors"}


def ask(url: str) -> bytes | None:
    """An answer, whatever its status; ``None`` where there is no such page."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {QUIET['RAY_AUTH_TOKEN']}"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            content: bytes = answer.read()
            return content
    except urllib.error.HTTPError as error:
        return None if error.code == 404 else error.read()


def test_a_secret_is_in_no_answer_of_the_dashboard(
    cluster: RayCluster, s3_server: S3Server, bucket: str, site: dict[str, str], tmp_path: Path
) -> None:
    site["RAY_TRAIN_ENABLE_STATE_TRACKING"] = "1"
    with running(cluster, site, tmp_path, bucket) as driver:
        url = dashboard_url(cluster)
        answers = {page: ask(url + page) for page in PAGES}
        (tmp_path / "go").touch()
        driver.wait(90)
        answers |= {f"{page} afterwards": ask(url + page) for page in PAGES}
    assert driver.returncode == 0, (tmp_path / "out").read_text()[-5000:]
    said = {page: answer for page, answer in answers.items() if answer is not None}
    assert said.keys() >= MUST_ANSWER, {page: answer and answer[:200] for page, answer in answers.items()}
    assert any(b"AWS_CONTAINER_CREDENTIALS_FULL_URI" in answer for answer in said.values()), "the control"
    assert any(b"RayTrainWorker" in answer for answer in said.values()), "the control"
    assert [page for page, answer in said.items() if s3_server.secret_key.encode() in answer] == []
    assert files_that_hold(s3_server.secret_key, cluster.directory) == []
