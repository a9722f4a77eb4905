"""Fixtures: a real S3 server for the whole test session, and an own bucket for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ray_anystorage.testing.s3_server import S3Server, running_s3


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A SeaweedFS that checks signatures; no test may stop it."""
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    """The name of a new, empty bucket."""
    return s3_server.make_bucket()
