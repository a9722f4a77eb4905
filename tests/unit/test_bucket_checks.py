"""Trying a bucket within a time limit, and with a source whose credentials have expired: no store is needed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_anystorage.credentials.grant import Grant
from ray_anystorage.diagnosis import bucket
from ray_anystorage.diagnosis.bucket import check_bucket
from ray_anystorage.diagnosis.check import Finding
from ray_anystorage.environment import BucketAddress, Problem
from ray_anystorage.errors import EndpointTimeoutError, ExpiredTokenError
from ray_anystorage.transfer.listing import key_lister
from tests.harness.waiting import wait_until

ADDRESS = BucketAddress("s3", "data", "runs", region="r", endpoint="http://127.0.0.1:1")
FAST = Finding("done")


class Store:
    """A store whose steps take as long as the test says, and that tells what it was asked for."""

    failures = (OSError,)

    def __init__(self, slow: str, until: threading.Event) -> None:
        self.slow, self.until = slow, until
        self.begun: list[str] = []
        self.objects: set[str] = set()

    def _take_time(self, step: str) -> Finding:
        self.begun.append(step)
        if step == self.slow:
            assert self.until.wait(20)
        return FAST

    def open(self) -> Finding:
        return self._take_time("open")

    def list(self) -> Finding:
        return self._take_time("list")

    def put(self, key: str, data: bytes) -> Finding:
        self._take_time("put")
        self.objects.add(key)
        return FAST

    def get(self, key: str, data: bytes) -> Finding:
        return self._take_time("get")

    def delete(self, key: str) -> Finding:
        self._take_time("delete")
        self.objects.discard(key)
        return FAST

    def extras(self, key: str) -> tuple[tuple[str, Callable[[], Finding]], ...]:
        return (("latency", lambda: self._take_time("latency")),)

    def explain(self, error: Exception, operation: str, key: str) -> Problem:
        return Problem(EndpointTimeoutError, str(error), "artifact", key, operation, "wait")


def tried(store: Store, monkeypatch: pytest.MonkeyPatch, *, timeout: float) -> list[bool]:
    monkeypatch.setattr(bucket, "_probe", lambda *_: store)
    return [check.ok for check in check_bucket(ADDRESS, Grant("ambient", "test", "test"), timeout=timeout, full=True)]


def test_a_put_that_is_given_up_leaves_nothing_when_it_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    arrives = threading.Event()
    store = Store("put", arrives)
    assert tried(store, monkeypatch, timeout=0.3) == [True, True, False]
    assert store.begun == ["open", "list", "put", "delete"]
    arrives.set()
    wait_until(lambda: store.begun.count("delete") == 2, 30, "it deletes what it put")
    wait_until(lambda: not store.objects, 30, "nothing is left")


def test_no_step_begins_without_time(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store("", threading.Event())
    assert tried(store, monkeypatch, timeout=0.0) == [False]
    assert store.begun == []
    assert all(tried(store, monkeypatch, timeout=5.0)), "the control"
    assert store.objects == set()


def test_a_source_of_expired_credentials_is_told_from_all_else(tmp_path: Path) -> None:
    answer = '{"Version": 1, "AccessKeyId": "A", "SecretAccessKey": "planted", "Expiration": "2020-01-01T00:00:00Z"}'
    (tmp_path / "answer").write_text(answer)
    script = tmp_path / "process.py"
    script.write_text(f"print(open({str(tmp_path / 'answer')!r}).read())")
    config = tmp_path / "config"
    config.write_text(f"[profile team]\ncredential_process = {sys.executable} {script}\n")
    grant = Grant("reference", "profile 'team'", "test", (("AWS_CONFIG_FILE", str(config)), ("AWS_PROFILE", "team")))
    with pytest.raises(ExpiredTokenError, match=r"has expired(.|\n)*profile 'team'") as caught:
        key_lister(ADDRESS, grant, timeout=10)("runs/")
    (check,) = check_bucket(ADDRESS, grant)
    assert check.problem is not None
    assert check.problem.error_type is ExpiredTokenError
    assert "planted" not in f"{caught.value} {check}"
