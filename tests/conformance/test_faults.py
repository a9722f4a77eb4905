"""A real S3 store behind a proxy that fails requests: transfers end right, or with the right error and nothing left."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_anystorage import errors
from ray_anystorage.credentials.grant import Grant
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.environment import BucketAddress
from ray_anystorage.testing.s3_server import S3Server
from ray_anystorage.testing.store_files import incoming, leftovers, same_content, transfer_threads, write_files
from ray_anystorage.transfer.budget import Budget, Cancel
from ray_anystorage.transfer.digest import CHUNK_BYTES
from ray_anystorage.transfer.engine import download, upload
from ray_anystorage.transfer.retry import Patience
from ray_anystorage.transfer.s3_store import S3Store
from tests.harness.faulty_proxy import Fault, FaultyProxy, faulty_proxy, share

STALL_LIMIT = 1.0  # seconds
QUICK = Patience(first_delay=0.01, longest_delay=0.1)
IMPATIENT = Patience(first_delay=0.001, longest_delay=0.01, attempts=4)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3_server.endpoint) as running:
        yield running


def store_at(
    endpoint: str, server: S3Server, bucket: str, *, access_key: str | None = None, secret_key: str | None = None
) -> S3Store:
    keys = {
        "AWS_ACCESS_KEY_ID": access_key or server.access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key or server.secret_key,
    }
    address = BucketAddress("s3", bucket, "run", server.region, endpoint)
    grant = Grant("env", "the test's keys", "test", (), Secrets(keys))
    return S3Store(address, grant, read_timeout=STALL_LIMIT)


@pytest.fixture
def store(s3_server: S3Server, bucket: str, proxy: FaultyProxy) -> Iterator[S3Store]:
    s3_server.client().put_object(Bucket=bucket, Key="first", Body=b"x")  # so that its volume is there
    opened = store_at(proxy.endpoint, s3_server, bucket)
    yield opened
    opened.close()


SIZES = {f"small/{i}": 10_000 + i for i in range(24)} | {"large.bin": 5 * CHUNK_BYTES + 17}


@pytest.mark.parametrize("percent", [10, 50])
@pytest.mark.parametrize("fault", ["503", "500", "429", "reset", "truncate", "flip", "stall"])
def test_transfers_survive(store: S3Store, proxy: FaultyProxy, tmp_path: Path, fault: Fault, percent: int) -> None:
    if fault == "stall" and percent == 50:
        sizes = {"small": 5000, "large.bin": 2 * CHUNK_BYTES + 17}  # each stall lasts until the time limit
    elif fault == "flip" and percent == 50:
        percent, sizes = 25, SIZES  # three wrong chunks in a row are taken for damage
    else:
        sizes = SIZES
    files = write_files(tmp_path / "source", sizes)
    # A flipped bit in the answer to a POST is another answer; a lost answer to the opening leaves an upload to prune.
    # What answers a PUT has no body that could be cut.
    inner = share(percent, (fault,))
    spared = {"flip": ("POST",), "truncate": ("PUT", "POST")}.get(fault, ())
    proxy.rule = lambda method, path: None if method in spared else inner(method, path)
    budget = Budget()
    stored = upload(store, files, budget=budget, patience=QUICK)
    download(store, incoming(stored, tmp_path / "target"), budget=budget, patience=Patience(first_delay=0.01))
    proxy.rule = lambda method, path: None
    assert proxy.faults[fault] > 0
    assert budget.retries > 0
    assert same_content(files, tmp_path / "target")
    assert list(store.unfinished("")) == []
    assert leftovers(tmp_path / "target") == []


def test_all_faults_together(store: S3Store, proxy: FaultyProxy, tmp_path: Path) -> None:
    files = write_files(tmp_path / "source", SIZES)
    proxy.rule = share(30, ("503", "500", "429", "reset", "truncate"), seed=7)
    stored = upload(store, files, patience=QUICK)
    download(store, incoming(stored, tmp_path / "target"), patience=QUICK)
    assert len(proxy.faults) == 5
    assert same_content(files, tmp_path / "target")


def test_requests_and_bytes_without_faults(store: S3Store, proxy: FaultyProxy, tmp_path: Path) -> None:
    files = write_files(tmp_path / "source", SIZES)
    total = sum(SIZES.values())
    stored = upload(store, files)
    parts = 6
    assert proxy.requests == {"PUT": 24 + parts, "POST": 2}  # small objects and parts; open and complete
    assert proxy.body_bytes["PUT"] == total
    assert (store.counters.requests, store.counters.bytes_sent) == (24 + parts + 2, total)
    download(store, incoming(stored, tmp_path / "target"))
    assert proxy.requests["GET"] == 24 + parts
    assert store.counters.bytes_fetched == total


def test_concurrency_shrinks_under_503_and_grows_back(store: S3Store, proxy: FaultyProxy, tmp_path: Path) -> None:
    files = write_files(tmp_path / "source", {f"{i}": 1000 for i in range(300)})
    numbers = itertools.count()
    proxy.rule = lambda method, path: "503" if 40 <= next(numbers) < 80 else None
    budget = Budget()
    upload(store, files, budget=budget, patience=QUICK)
    assert proxy.faults["503"] == 40
    assert budget.cuts >= 2
    assert budget.lowest_limit <= 8
    assert budget.limit > budget.lowest_limit + 2


def test_a_store_that_never_recovers(store: S3Store, proxy: FaultyProxy, tmp_path: Path) -> None:
    files = write_files(tmp_path / "source", {"small": 1000})
    proxy.rule = lambda method, path: "503"
    with pytest.raises(errors.StoreUnavailableError, match=r"SlowDown(.|\n)*given up after 4 attempts"):
        upload(store, files, patience=IMPATIENT)
    assert proxy.requests["PUT"] == 4
    large = write_files(tmp_path / "source", {"large": 2 * CHUNK_BYTES})
    with pytest.raises(errors.StoreUnavailableError, match="given up after 4 attempts"):
        upload(store, large, patience=IMPATIENT)
    assert transfer_threads() == []


def test_a_lost_answer_to_the_completion(store: S3Store, proxy: FaultyProxy, tmp_path: Path) -> None:
    files = write_files(tmp_path / "source", {"large.bin": 2 * CHUNK_BYTES})
    lost: list[str] = []

    def lose_first(method: str, path: str) -> Fault | None:
        if method == "POST" and "uploadId" in path and not lost:
            lost.append(path)
            return "truncate"
        return None

    proxy.rule = lose_first
    stored = upload(store, files, patience=QUICK)
    assert lost
    download(store, incoming(stored, tmp_path / "target"))
    assert same_content(files, tmp_path / "target")


@pytest.mark.parametrize("size", [1000, 3 * CHUNK_BYTES])
def test_refused_writes_stop_at_once(
    s3_server: S3Server, bucket: str, proxy: FaultyProxy, tmp_path: Path, size: int
) -> None:
    keys = {"access_key": s3_server.readonly_access_key, "secret_key": s3_server.readonly_secret_key}
    store = store_at(proxy.endpoint, s3_server, bucket, **keys)
    files = write_files(tmp_path / "source", {"f": size})
    with pytest.raises(errors.BucketPermissionError) as caught:
        upload(store, files)
    assert sum(proxy.requests.values()) == 1
    assert s3_server.readonly_secret_key not in str(caught.value)
    store.close()


@pytest.mark.parametrize("size", [1000, 3 * CHUNK_BYTES])
@pytest.mark.parametrize(
    ("wrong", "expected"),
    [("secret_key", errors.WrongSecretError), ("access_key", errors.UnknownKeyError), ("bucket", FileNotFoundError)],
)
def test_wrong_credentials_or_bucket_stop_at_once(
    s3_server: S3Server,
    bucket: str,
    proxy: FaultyProxy,
    tmp_path: Path,
    wrong: str,
    expected: type[Exception],
    size: int,
) -> None:
    keys = {wrong: "AKIAWRONGWRONGWRONG"} if wrong != "bucket" else {}
    store = store_at(proxy.endpoint, s3_server, "no-such-bucket" if wrong == "bucket" else bucket, **keys)
    with pytest.raises(expected):
        upload(store, write_files(tmp_path / "source", {"f": size}))
    assert sum(proxy.requests.values()) == 1
    store.close()


def test_a_missing_object_is_asked_for_once(store: S3Store, proxy: FaultyProxy) -> None:
    for size in (1000, 2 * CHUNK_BYTES):
        before = sum(proxy.requests.values())
        with pytest.raises(errors.ObjectMissingError):
            store.read_range("nothing", 0, memoryview(bytearray(size)))
        assert sum(proxy.requests.values()) == before + 1


def test_cancelling_a_stalled_store(store: S3Store, proxy: FaultyProxy, tmp_path: Path) -> None:
    files = write_files(tmp_path / "source", {"large.bin": 4 * CHUNK_BYTES})
    cancel, stalled = Cancel(), threading.Event()

    def rule(method: str, path: str) -> Fault | None:
        if method == "PUT" and "partNumber" in path:
            stalled.set()
            return "stall"
        return None

    proxy.rule = rule
    helper = threading.Thread(target=lambda: (stalled.wait(), cancel.set()))
    helper.start()
    began = time.monotonic()
    with pytest.raises(errors.TransferCancelledError):
        upload(store, files, cancel=cancel)
    assert time.monotonic() - began < 10 * STALL_LIMIT
    helper.join()
    proxy.rule = lambda method, path: None
    assert transfer_threads() == []
    assert list(store.unfinished("")) == []
