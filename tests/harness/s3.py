"""A real S3 server for the whole test session, an own bucket for each test, and what leads a site to them."""

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


def artifact_env(server: S3Server, folder: str, *, endpoint: str | None = None) -> dict[str, str]:
    """A site's variables for its artifact folder, ``bucket/path``; a proxy's endpoint may stand for the server's."""
    return {
        "RAY_ANYSTORAGE_ARTIFACT_STORAGE": f"s3://{folder}",
        "RAY_ANYSTORAGE_ENDPOINT": endpoint or server.endpoint,
        "RAY_ANYSTORAGE_REGION": server.region,
        "RAY_ANYSTORAGE_PROBE_TIMEOUT": "60",  # on a busy machine too, the bucket is one that works
    }


def keys_of(server: S3Server) -> dict[str, str]:
    """The variables with a key that has all rights."""
    return {"AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key}
