"""A store on the session's S3 server behind a proxy that fails requests, and what a transfer may leave in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_anystorage.credentials.grant import Grant
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.environment import BucketAddress
from ray_anystorage.testing.s3_server import S3Server
from ray_anystorage.transfer.files import Outgoing
from ray_anystorage.transfer.s3_store import S3Store
from tests.harness.faulty_proxy import FaultyProxy, faulty_proxy

STALL_LIMIT = 1.0  # seconds


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultyProxy]:
    """A proxy before the session's S3 server."""
    with faulty_proxy(s3_server.endpoint) as running:
        yield running


@pytest.fixture
def store(s3_server: S3Server, bucket: str, proxy: FaultyProxy) -> Iterator[S3Store]:
    """The folder ``run`` of a bucket of this test's own, through the proxy."""
    s3_server.client().put_object(Bucket=bucket, Key="first", Body=b"x")  # so that its volume is there
    opened = store_at(proxy.endpoint, s3_server, bucket)
    yield opened
    opened.close()


def store_at(
    endpoint: str,
    server: S3Server,
    bucket: str,
    *,
    access_key: str | None = None,
    secret_key: str | None = None,
    stall_limit: float = STALL_LIMIT,
) -> S3Store:
    """The folder ``run`` of a bucket, with the full-rights keys unless told others."""
    keys = {
        "AWS_ACCESS_KEY_ID": access_key or server.access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key or server.secret_key,
    }
    address = BucketAddress("s3", bucket, "run", server.region, endpoint)
    grant = Grant("env", "the test's keys", "test", (), Secrets(keys))
    return S3Store(address, grant, read_timeout=stall_limit)


def whole_objects(store: S3Store, files: list[Outgoing]) -> set[str]:
    """The keys that the store holds, each compared with its file; uploads that did not end are known, and discarded."""
    by_key, found = {file.key: Path(file.path).read_bytes() for file in files}, set()
    for key, size in store.list(""):
        content = bytearray(size)
        if size:
            store.read_range(key, 0, memoryview(content))
        assert content == by_key[key], f"{key} is not whole"
        found.add(key)
    for key, token in list(store.unfinished("")):
        assert key in by_key
        store.discard(key, token)
    assert list(store.unfinished("")) == []
    return found
