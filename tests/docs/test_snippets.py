"""Every command and snippet of the documentation, done as its reader would do it, page by page.

A page that shows something new is found by itself. What a test machine has no program for is marked in the page, and
looked at in ``test_blocks.py``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_anystorage.testing.s3_server import S3Server
from ray_anystorage.transfer.posix_store import PosixStore
from tests.docs.blocks import PAGES, ROOT, blocks_of
from tests.docs.reader import BUCKET, Reader
from tests.harness.ray_cluster import RayCluster
from tests.harness.run_homes import Home

TRAINS = {"start.md", "checkpoints.md"}  # on the session's Ray cluster
SLOW = {"tune.md"}
BARE = {"start.md"}  # a machine of one's own, where nothing is said about storage yet
RUNS = {"checkpoints.md", "files.md", "recipes.md", "operations.md", "troubleshooting.md"}  # know of a run already

_REPORT = "benchmarks/results/2026-11-28-050318-lab.json"
FILES = {"benchmark.md": {"before.json": _REPORT, "after.json": _REPORT}}


def params() -> list[object]:
    marks = {name: [pytest.mark.needs_ray] for name in TRAINS | SLOW}
    for name in SLOW:
        marks[name].append(pytest.mark.soak)
    return [pytest.param(page, id=page.name, marks=marks.get(page.name, [])) for page in PAGES]


@pytest.fixture
def acme(s3_server: S3Server) -> S3Server:
    """The server, with an empty bucket of the name that the pages use."""
    client = s3_server.client()
    if BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        s3_server.make_bucket(BUCKET)
    for key in s3_server.keys(BUCKET):
        client.delete_object(Bucket=BUCKET, Key=key)
    return s3_server


@pytest.mark.parametrize("page", params())
def test_a_page_does_what_it_says(page: Path, acme: S3Server, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    reader = Reader(tmp_path, acme, site=page.name not in BARE)
    if page.name in TRAINS | SLOW:
        cluster: RayCluster = request.getfixturevalue("ray_cluster")
        reader.has(RAY_ADDRESS=cluster.address)
    for name, source in FILES.get(page.name, {}).items():
        reader.saves(name, ROOT / source)
    if page.name in RUNS:
        make_run(reader)
    for block in blocks_of(page):
        if not block.elsewhere:
            reader.plays(block)


def make_run(reader: Reader) -> None:
    """A run of two ranks that kept three checkpoints."""
    home = Home("llama-ft", PosixStore(str(reader.mnt / "cluster_storage" / "llama-ft")), None, reader.folder / "made")
    names = [f"checkpoint_00000{number}" for number in (1, 2, 3)]
    for report, name in enumerate(names):
        home.save(name, ranks=2, report=report)
    home.snapshot(*names, metric="loss")
