"""Trying a bucket: list, put, get and delete for real, in a few seconds, leaving nothing behind."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable
from typing import Protocol

from ray_anystorage.credentials.grant import Grant
from ray_anystorage.diagnosis.check import Check, Finding, first_problem, run_check
from ray_anystorage.discovery.probe import bounded
from ray_anystorage.environment import BucketAddress, Problem
from ray_anystorage.errors import RequestError

__all__ = ["Check", "check_bucket", "first_problem"]

PROBE_FOLDER = ".anystorage-probe"
_STEP_TIMEOUT = 8.0  # seconds
_CLEAN_UP_TIMEOUT = 1.5


class Probe(Protocol):
    """A store, as far as it is tried: steps that raise one of ``failures``, which ``explain`` understands."""

    failures: tuple[type[Exception], ...]

    def open(self) -> Finding:
        """Get the credentials."""

    def list(self) -> Finding:
        """List the folder."""

    def put(self, key: str, data: bytes) -> Finding:
        """Write an object."""

    def get(self, key: str, data: bytes) -> Finding:
        """Read it and compare."""

    def delete(self, key: str) -> Finding:
        """Delete it."""

    def extras(self, key: str) -> tuple[tuple[str, Callable[[], Finding]], ...]:
        """What the doctor tries beyond that; each cleans up after itself."""

    def explain(self, error: Exception, operation: str, key: str) -> Problem:
        """The problem behind an error."""


def check_bucket(
    address: BucketAddress, grant: Grant, *, timeout: float = 8.0, step: float = _STEP_TIMEOUT, full: bool = False
) -> tuple[Check, ...]:
    """Try the bucket with exactly the credentials that the workers would get.

    What a run needs comes first (credentials, list, put, get, delete, with an object under
    ``<prefix>/.anystorage-probe/``) and ends at the first failure; ``full`` adds what the doctor wants to know.

    Parameters
    ----------
    timeout
        Seconds for all of it. Deleting what a failure left takes at most 1.5 s more.
    step
        Seconds that one step may take, however long the whole.

    Raises
    ------
    RequestError
        The scheme is none of ``s3``, ``gs`` and ``abfss``.
    """
    probe = _probe(address, grant, min(timeout, step))
    key = "/".join(part for part in (address.prefix, PROBE_FOLDER, uuid.uuid4().hex) if part)
    data = os.urandom(1024)
    deadline = time.monotonic() + timeout
    checks: list[Check] = []
    given_up = threading.Event()

    def passes(name: str, attempt: Callable[[], Finding]) -> bool:
        left = min(step, deadline - time.monotonic())
        failures = probe.failures
        check = run_check(
            name, attempt, timeout=left, failures=failures, explain=lambda error: probe.explain(error, name, key)
        )
        checks.append(check)
        return check.ok

    if not (passes("credentials", probe.open) and passes("list", probe.list)):
        return tuple(checks)
    deleted = False
    try:
        deleted = (
            passes("put", lambda: _put(probe, key, data, given_up))
            and passes("get", lambda: probe.get(key, data))
            and passes("delete", lambda: probe.delete(key))
        )
    finally:
        if not deleted:
            given_up.set()
            with contextlib.suppress(*probe.failures):  # the check that failed says what is wrong
                bounded(lambda: probe.delete(key), _CLEAN_UP_TIMEOUT, what="clean up")
    if full and deleted:
        for name, attempt in probe.extras(key):
            passes(name, attempt)
    return tuple(checks)


def _put(probe: Probe, key: str, data: bytes, given_up: threading.Event) -> Finding:
    finding = probe.put(key, data)
    if given_up.is_set():  # it took so long that the clean-up came first
        probe.delete(key)
    return finding


def _probe(address: BucketAddress, grant: Grant, timeout: float) -> Probe:
    if address.scheme == "s3":
        from ray_anystorage.diagnosis.s3_probe import S3Probe

        return S3Probe(address, grant, timeout)
    if address.scheme == "gs":
        from ray_anystorage.diagnosis.gcs_probe import GcsProbe

        return GcsProbe(address, grant, timeout)
    if address.scheme == "abfss":
        from ray_anystorage.diagnosis.obstore_probe import AzureProbe

        return AzureProbe(address, grant, timeout)
    raise RequestError(f"{address.uri}: buckets of this scheme cannot be tried, only s3, gs and abfss")
