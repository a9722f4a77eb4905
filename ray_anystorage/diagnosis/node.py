"""The doctor: tries every tier from this node, measures the mounts, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import statistics
import time
import uuid
from collections.abc import Callable, Iterator

from ray_anystorage.credentials.grant import Grant
from ray_anystorage.diagnosis.bucket import check_bucket
from ray_anystorage.diagnosis.check import Check, Finding, run_check
from ray_anystorage.diagnosis.report import Report, TierReport
from ray_anystorage.discovery.mounts import problem_of
from ray_anystorage.discovery.probe import PROBE_PREFIX
from ray_anystorage.environment import BucketAddress, Environment, Place, Problem
from ray_anystorage.errors import BucketCredentialsError
from ray_anystorage.units import format_size

_BUCKET_TIMEOUT = 30.0  # seconds; one step has eight at most
_STEP_TIMEOUT = 8.0  # seconds until a mount counts as hung
_STEP_BUDGET = 1.0  # seconds after which a measurement that goes well stops
_SMALL = 4096
_LATENCY_ROUNDS = 20
_FILES = 100
_LARGE = 32 * 2**20
_BLOCK = 2**20


def doctor(environment: Environment, grant: Grant | None) -> Report:
    """Try every tier that discovery found.

    Parameters
    ----------
    grant
        Credentials for the bucket; ``None`` where none were found.

    Returns
    -------
    Report
        Failures are in it; none is raised.
    """
    tiers = tuple(TierReport(place, _examine(place, environment, grant)) for place in environment.places)
    return Report(tiers, environment.credentials, environment.notes)


def measure_mount(place: Place, *, step_timeout: float = _STEP_TIMEOUT) -> tuple[Check, ...]:
    """Measure latency, small files and throughput of a mount; ends at the first step that fails.

    Parameters
    ----------
    step_timeout
        Seconds until a step is given up; a mount that works takes about one per step.
    """
    checks: list[Check] = []
    for name, tried, step in _steps(place.root, _large_size(place)):
        check = run_check(
            name,
            step,
            timeout=step_timeout,
            failures=(OSError,),
            explain=lambda error, tried=tried: _explain(place, error, f"{tried} in {place.root}"),  # type: ignore[misc]
        )
        checks.append(check)
        if not check.ok:
            break
    return tuple(checks)


def _examine(place: Place, environment: Environment, grant: Grant | None) -> tuple[Check, ...]:
    if not place.usable:
        return ()
    if place.bucket is None:
        return measure_mount(place)
    if grant is None:
        problem = environment.no_credentials or _unknown_there(place.bucket)
        return (Check("credentials", False, 0.0, problem.reason, problem),)
    return check_bucket(place.bucket, grant, timeout=_BUCKET_TIMEOUT, full=True)


def _unknown_there(address: BucketAddress) -> Problem:
    """Who asks for the whole cluster hands out the credentials."""
    return Problem(
        BucketCredentialsError,
        "the process that asks knows of no bucket, so there are no credentials for the one that this node knows of",
        "artifact",
        address.uri,
        "nothing: there is no way to begin",
        "set RAY_ANYSTORAGE_ARTIFACT_STORAGE, or say artifact_storage, where you ask",
    )


def _explain(place: Place, error: OSError, tried: str) -> Problem:
    return problem_of(place.location, error, tried=tried, space=place.space, network=place.network)


def _steps(root: str, large: int) -> tuple[tuple[str, str, Callable[[], Finding]], ...]:
    size = format_size(large)
    return (
        ("latency", "create, fsync, read and delete a 4 KiB file", lambda: _latency(root)),
        ("small files", f"write {_FILES} files of 4 KiB", lambda: _small_files(root)),
        ("write", f"write and fsync {size}", lambda: _write(root, large)),
        ("read", f"write and read {size}", lambda: _read(root, large)),
    )


def _latency(root: str) -> Finding:
    seconds: list[float] = []
    payload = os.urandom(_SMALL)
    with _scratch(root) as folder:
        deadline = time.monotonic() + _STEP_BUDGET
        while len(seconds) < _LATENCY_ROUNDS and (not seconds or time.monotonic() < deadline):
            start = time.perf_counter()
            path = os.path.join(folder, "latency")
            _write_file(path, (payload,))
            with open(path, "rb") as file:
                file.read()
            os.unlink(path)
            seconds.append(time.perf_counter() - start)
    milliseconds = statistics.median(seconds) * 1000
    detail = f"{milliseconds:.2f} ms to create, fsync, read and delete 4 KiB (median of {len(seconds)})"
    return Finding(detail, round(milliseconds, 4), "ms")


def _small_files(root: str) -> Finding:
    payload = os.urandom(_SMALL)
    with _scratch(root) as folder:
        start, count = time.monotonic(), 0
        while count < _FILES and (not count or time.monotonic() - start < _STEP_BUDGET):
            with open(os.path.join(folder, str(count)), "wb") as file:
                file.write(payload)
            count += 1
        rate = count / max(time.monotonic() - start, 1e-6)
    return Finding(f"{rate:,.0f} files/s ({count} of 4 KiB, not fsynced)", round(rate, 1), "files/s")


def _write(root: str, size: int) -> Finding:
    with _scratch(root) as folder:
        start = time.perf_counter()
        written = _write_file(os.path.join(folder, "large"), _blocks(size))
        return _throughput("written and fsynced", written, time.perf_counter() - start)


def _read(root: str, size: int) -> Finding:
    with _scratch(root) as folder:
        path = os.path.join(folder, "large")
        written = _write_file(path, _blocks(size))
        with open(path, "rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):  # or memory would be measured
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            start, read = time.perf_counter(), 0
            while block := file.read(_BLOCK):
                read += len(block)
            elapsed = time.perf_counter() - start
    if read != written:
        raise OSError(errno.EBADMSG, f"{written} bytes were written and {read} came back")
    return _throughput("read", read, elapsed)


def _throughput(done: str, size: int, seconds: float) -> Finding:
    rate = size / max(seconds, 1e-6) / 1e6
    return Finding(f"{rate:,.0f} MB/s ({format_size(size)} {done})", round(rate, 2), "MB/s")


def _blocks(size: int) -> Iterator[bytes]:
    """Random blocks up to a size, or for as long as the budget lasts; at least one."""
    block, deadline = os.urandom(min(_BLOCK, size)), time.monotonic() + _STEP_BUDGET
    for _ in range(max(1, size // _BLOCK)):
        yield block
        if time.monotonic() > deadline:
            return


def _write_file(path: str, blocks: Iterator[bytes] | tuple[bytes, ...]) -> int:
    with open(path, "wb", buffering=0) as file:
        written = sum(file.write(block) for block in blocks)
        os.fsync(file.fileno())
    return written


@contextlib.contextmanager
def _scratch(root: str) -> Iterator[str]:
    """A folder that is gone afterwards: the thread that made it removes it, even after it was given up."""
    folder = os.path.join(_nearest_directory(root), f"{PROBE_PREFIX}{uuid.uuid4().hex}")
    os.mkdir(folder, 0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _large_size(place: Place) -> int:
    free = place.space.free_bytes if place.space else None
    return _LARGE if free is None else max(_SMALL, min(_LARGE, free // 20))


def _nearest_directory(path: str) -> str:
    """The root, or above it where it is yet to be made; a mount that is dead is not passed over."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return _nearest_directory(os.path.dirname(path))
    return path
