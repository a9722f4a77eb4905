"""Every command and snippet of the documentation, done as its reader would do it, page by page.

A page that shows something new is found by itself. What a test machine has no program for is marked in the page, and
looked at in ``test_blocks.py``.
"""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path

import pytest

from ray_anystorage.testing.s3_server import S3Server
from ray_anystorage.transfer.posix_store import PosixStore
from tests.docs.blocks import PAGES, ROOT, blocks_of
from tests.docs.reader import BUCKET, Reader
from tests.harness.ray_cluster import RayCluster
from tests.harness.run_homes import Home

SOAK = {"checkpoints.md", "tune.md"}  # whose scripts run in `make soak` alone
BARE = {"start.md"}  # a machine of one's own, where nothing is said about storage yet
RUNS = {"checkpoints.md", "files.md", "recipes.md", "operations.md", "troubleshooting.md"}  # know of a run already

_REPORT = "benchmarks/results/2026-11-28-050318-lab.json"
FILES = {"benchmark.md": {"before.json": _REPORT, "after.json": _REPORT}}
ID = attrgetter("name")


@pytest.fixture
def acme(s3_server: S3Server) -> S3Server:
    """The server, with an empty bucket of the name that the pages use."""
    client = s3_server.client()
    if BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        s3_server.make_bucket(BUCKET)
    for key in s3_server.keys(BUCKET):
        client.delete_object(Bucket=BUCKET, Key=key)
    return s3_server


def trains(page: Path) -> bool:
    return any(block.trains for block in blocks_of(page))


@pytest.mark.parametrize("page", [page for page in PAGES if not trains(page) or page.name in SOAK], ids=ID)
def test_a_page_does_what_it_says(page: Path, acme: S3Server, tmp_path: Path) -> None:
    reader = reader_of(page, acme, tmp_path)
    for block in blocks_of(page):
        if not block.trains:
            reader.plays(block)


@pytest.mark.needs_ray
@pytest.mark.parametrize("page", [page for page in PAGES if trains(page) and page.name not in SOAK], ids=ID)
def test_a_page_trains_as_it_says(page: Path, acme: S3Server, tmp_path: Path, ray_cluster: RayCluster) -> None:
    play_all(page, acme, tmp_path, ray_cluster)


@pytest.mark.soak
@pytest.mark.needs_ray
@pytest.mark.parametrize("page", [page for page in PAGES if page.name in SOAK], ids=ID)
def test_each_other_page_trains_as_it_says(page: Path, acme: S3Server, tmp_path: Path, ray_cluster: RayCluster) -> None:
    play_all(page, acme, tmp_path, ray_cluster)


def play_all(page: Path, server: S3Server, folder: Path, cluster: RayCluster) -> None:
    reader = reader_of(page, server, folder)
    reader.has(RAY_ADDRESS=cluster.address)
    for block in blocks_of(page):
        reader.plays(block)


def reader_of(page: Path, server: S3Server, folder: Path) -> Reader:
    """Someone who opens a page, with what it takes for granted."""
    reader = Reader(folder, server, site=page.name not in BARE)
    for name, source in FILES.get(page.name, {}).items():
        reader.saves(name, ROOT / source)
    if page.name in RUNS:
        make_run(reader)
    return reader


def make_run(reader: Reader) -> None:
    """A run of two ranks that kept three checkpoints."""
    home = Home("llama-ft", PosixStore(str(reader.mnt / "cluster_storage" / "llama-ft")), None, reader.folder / "made")
    names = [f"checkpoint_00000{number}" for number in (1, 2, 3)]
    for report, name in enumerate(names):
        home.save(name, ranks=2, report=report)
    home.snapshot(*names, metric="loss")
