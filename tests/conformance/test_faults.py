"""A real S3 store behind a proxy that fails requests: transfers end right, or with the right error and nothing left."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from ray_anystorage import errors
from ray_anystorage.credentials.grant import Grant
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.environment import BucketAddress
from ray_anystorage.testing.s3_server import S3Server
from ray_anystorage.testing.store_files import (
    flip_bit,
    incoming,
    leftovers,
    same_content,
    transfer_threads,
    write_files,
)
from ray_anystorage.transfer import s3_store, s3_upload
from ray_anystorage.transfer.budget import Budget, Cancel
from ray_anystorage.transfer.digest import CHUNK_BYTES
from ray_anystorage.transfer.engine import download, upload
from ray_anystorage.transfer.files import Incoming, Outgoing
from ray_anystorage.transfer.retry import Patience
from ray_anystorage.transfer.s3_store import S3Store
from ray_anystorage.transfer.verify import verify
from tests.harness.faulty_proxy import Fault, FaultyProxy, share
from tests.harness.faulty_store import STALL_LIMIT, proxy, store, store_at, whole_objects

__all__ = ["proxy", "store"]


QUICK = Patience(first_delay=0.01, longest_delay=0.1)
IMPATIENT = Patience(first_delay=0.001, longest_delay=0.01, attempts=4)


SIZES = {f"small/{i}": 10_000 + i for i in range(24)} | {"large.bin": 5 * CHUNK_BYTES + 17}


@pytest.mark.parametrize("fault", ["503", "500", "429", "reset", "truncate", "flip", "stall"])
def test_transfers_survive(store: S3Store, proxy: FaultyProxy, tmp_path: Path, fault: Fault) -> None:
    few = {"small": 5000, "large.bin": 2 * CHUNK_BYTES + 17}  # each stall lasts until the time limit
    files = write_files(tmp_path / "source", few if fault == "stall" else SIZES)
    # A flipped bit in the answer to a POST is another answer; a lost answer to the opening leaves an upload to prune.
    # What answers a PUT has no body that could be cut.
    inner = share(50, (fault,))
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


def test_a_part_of_a_copy_that_fails_is_tried_again_by_itself(
    store: S3Store, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (s3_store, s3_upload):
        monkeypatch.setattr(module, "COPY_PART_BYTES", CHUNK_BYTES)
    (large,) = upload(store, write_files(tmp_path / "source", {"large": 5 * CHUNK_BYTES + 17}))
    proxy.requests.clear()
    seen: Counter[str] = Counter()

    def first_of_each(method: str, path: str) -> Fault | None:
        seen[f"{method} {path}"] += 1
        if seen[f"{method} {path}"] > 1:
            return None
        if "partNumber=3&" in path:
            return "stall"
        return "503" if "partNumber" in path or method == "POST" else None

    proxy.rule = first_of_each
    etag = store.copy("large", "copy", large.etag, large.size)
    assert [count for path, count in seen.items() if "uploads" in path] == [2]
    assert [count for path, count in seen.items() if "partNumber" in path] == [2] * 6
    proxy.rule = lambda method, path: None
    assert (store.size("copy"), store.etag("copy")) == (large.size, etag)
    download(store, [replace(one, key="copy") for one in incoming([large], tmp_path / "target")])
    assert same_content([Outgoing(str(tmp_path / "source" / "large"), "large", large.size)], tmp_path / "target")
    assert list(store.unfinished("")) == []


def test_bits_that_flip_on_the_way_are_no_damage_and_damage_is_found_at_once(
    store: S3Store, s3_server: S3Server, bucket: str, proxy: FaultyProxy, tmp_path: Path
) -> None:
    files = write_files(tmp_path / "source", {"f": CHUNK_BYTES + 17})
    wanted = incoming(upload(store, files), tmp_path / "target")
    proxy.rule = lambda method, path: "flip"
    for read in (download, verify):
        with pytest.raises(errors.StoreUnavailableError, match="altered on its way"):
            read(store, wanted, patience=IMPATIENT)
    proxy.rule = lambda method, path: None
    flip_bit(Path(files[0].path), 5)
    s3_server.client().put_object(Bucket=bucket, Key="run/f", Body=Path(files[0].path).read_bytes())
    for read in (download, verify):
        before = proxy.requests["GET"]
        with pytest.raises(errors.DigestMismatchError, match="chunk 0"):
            read(store, wanted)
        assert proxy.requests["GET"] - before <= 4  # three times the chunk, and the other one
    assert not (tmp_path / "target" / "f").exists()


def test_requests_and_bytes_without_faults(
    s3_server: S3Server, bucket: str, proxy: FaultyProxy, tmp_path: Path
) -> None:
    store = store_at(proxy.endpoint, s3_server, bucket, stall_limit=60)  # a slow machine is no fault
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
    store.close()


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


@pytest.mark.parametrize("fault", ["503", "stall"])
def test_parts_that_are_throttled_or_late_slow_it_down(
    store: S3Store, proxy: FaultyProxy, tmp_path: Path, fault: Fault
) -> None:
    files, numbers = write_files(tmp_path / "source", {"large": 2 * CHUNK_BYTES}), itertools.count()
    budget = Budget(first_requests=8)
    proxy.rule = lambda method, path: fault if method == "PUT" and next(numbers) == 0 else None
    upload(store, files, budget=budget, patience=QUICK)
    assert budget.cuts >= 1
    assert budget.lowest_limit <= 4


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
    completions, looks = itertools.count(), itertools.count()

    def lose_first(method: str, path: str) -> Fault | None:
        if method == "POST" and "uploadId" in path:  # the server itself would complete it twice
            return "truncate" if next(completions) == 0 else "404"
        return "503" if method == "HEAD" and next(looks) < 3 else None

    proxy.rule = lose_first
    stored = upload(store, files, patience=QUICK)
    assert proxy.faults == {"truncate": 1, "404": 1, "503": 3}, "what is left is to look, until there is an answer"
    download(store, incoming(stored, tmp_path / "target"))
    assert same_content(files, tmp_path / "target")


def test_a_completion_that_is_altered_on_its_way_is_sent_again(
    store: S3Store, proxy: FaultyProxy, tmp_path: Path
) -> None:
    numbers = itertools.count()
    proxy.rule = lambda method, path: "flip" if "uploadId" in path and method == "POST" and next(numbers) < 2 else None
    proxy.bits.seed(4)  # hits what the store looks at
    files = write_files(tmp_path / "source", {"large.bin": 2 * CHUNK_BYTES})
    upload(store, files, patience=QUICK)
    assert proxy.faults["flip"] == 2
    assert whole_objects(store, files) == {"large.bin"}


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


@pytest.mark.parametrize("size", [1000, CHUNK_BYTES])
@pytest.mark.parametrize(
    ("wrong", "expected"), [(None, errors.ObjectMissingError), ("secret_key", errors.WrongSecretError)]
)
def test_refused_and_missing_reads_stop_at_once(
    s3_server: S3Server,
    bucket: str,
    proxy: FaultyProxy,
    tmp_path: Path,
    wrong: str | None,
    expected: type[Exception],
    size: int,
) -> None:
    store = store_at(proxy.endpoint, s3_server, bucket, **({wrong: "not-the-secret"} if wrong else {}))
    target = tmp_path / "target"
    with pytest.raises(expected):
        download(store, [Incoming("nothing", str(target), size, "0" * 32, ("0" * 32,))])
    assert proxy.requests == {"GET": 1}
    assert not target.exists()
    store.close()


def test_an_endpoint_in_the_environment_is_not_taken_for_the_stores(
    s3_server: S3Server, bucket: str, proxy: FaultyProxy, refused_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        monkeypatch.setenv(name, refused_endpoint)
    store = store_at(proxy.endpoint, s3_server, bucket)
    store.write_small("small", b"x")
    assert store.size("small") == 1
    assert list(store.unfinished("")) == []
    assert sum(proxy.requests.values()) == 3
    store.close()
    grant = Grant(
        "env", "the test's keys", "test", (), Secrets({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s"})
    )
    at_amazon = S3Store(BucketAddress("s3", "some-bucket", "", "eu-west-1", None), grant)
    assert at_amazon._client.config["endpoint_url_s3"] == "https://some-bucket.s3.eu-west-1.amazonaws.com"
    at_amazon.close()


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
