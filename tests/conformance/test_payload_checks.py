"""What puts without TLS carry against flipped bits: their SHA-256, or their CRC-64 where the store compares that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_anystorage.environment import BucketAddress
from ray_anystorage.testing.s3_server import S3Server
from ray_anystorage.testing.store_files import incoming, same_content, write_files
from ray_anystorage.transfer.budget import Budget
from ray_anystorage.transfer.engine import download, upload
from ray_anystorage.transfer.retry import Patience
from ray_anystorage.transfer.s3_store import READ_TIMEOUT, S3Store
from tests.harness.faulty_proxy import FaultyProxy, share
from tests.harness.faulty_store import proxy, store, store_at
from tests.harness.watching_proxy import Seen, WatchingProxy, watching_proxy

__all__ = ["proxy", "store"]

CRC64, SHA256, SIGNED = "x-amz-checksum-crc64nvme", "x-amz-checksum-sha256", "x-amz-content-sha256"


@pytest.fixture
def watching(s3_server: S3Server) -> Iterator[WatchingProxy]:
    with watching_proxy(s3_server.endpoint) as watching:
        yield watching


@pytest.fixture
def watched(watching: WatchingProxy, s3_server: S3Server, bucket: str) -> S3Store:
    return store_at(watching.endpoint, s3_server, bucket, stall_limit=READ_TIMEOUT)


def put(store: S3Store, watching: WatchingProxy, key: str, data: bytes) -> Seen:
    """The request that stored an object."""
    store.write_small(key, data)
    return next(seen for seen in reversed(watching.seen) if seen.method == "PUT" and seen.path.endswith(key))


def carries_sha256(seen: Seen) -> bool:
    return SHA256 in seen.headers and CRC64 not in seen.headers and len(seen.headers[SIGNED]) == 64


def test_an_empty_object_asks_and_what_follows_carries_what_the_store_compares(
    watched: S3Store, watching: WatchingProxy
) -> None:
    assert carries_sha256(put(watched, watching, "before", b"abc"))
    assert CRC64 in put(watched, watching, "mark", b"").headers
    moved = watched.moved(BucketAddress("s3", watched.uri.split("/")[2], "other"))
    for folder in (watched, moved):
        after = put(folder, watching, "after", b"abc")
        assert CRC64 in after.headers
        assert SHA256 not in after.headers
        assert after.headers[SIGNED] == "UNSIGNED-PAYLOAD"
    requests = len(watching.seen)
    assert carries_sha256(put(watched, watching, "mark", b"")) is False
    assert len(watching.seen) == requests + 1


def test_a_store_that_says_nothing_of_it_gets_the_sha256(watched: S3Store, watching: WatchingProxy) -> None:
    watching.leaves_out = frozenset({CRC64})
    put(watched, watching, "mark", b"")
    assert carries_sha256(put(watched, watching, "after", b"abc"))


def test_a_store_that_refuses_it_gets_the_sha256(watched: S3Store, watching: WatchingProxy) -> None:
    watching.refuses = lambda seen: CRC64 in seen.headers
    assert carries_sha256(put(watched, watching, "mark", b""))
    assert carries_sha256(put(watched, watching, "after", b"abc"))
    assert len(watching.refused) == 1
    assert dict(watched.list("")) == {"mark": 0, "after": 3}


def test_a_flipped_bit_is_found_by_the_store(store: S3Store, proxy: FaultyProxy, tmp_path: Path) -> None:
    store.write_small("mark", b"")
    assert store.checks.small is not None
    files = write_files(tmp_path / "source", {f"small/{number}": 10_000 + number for number in range(24)})
    inner, budget, quick = share(50, ("flip",)), Budget(), Patience(first_delay=0.01, longest_delay=0.1)
    proxy.rule = lambda method, path: inner(method, path) if method == "PUT" else None
    stored = upload(store, files, budget=budget, patience=quick)
    assert proxy.faults["flip"] > 0
    assert budget.retries > 0
    proxy.rule = lambda method, path: None
    download(store, incoming(stored, tmp_path / "target"))
    assert same_content(files, tmp_path / "target")
