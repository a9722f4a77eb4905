"""What ``discover()`` makes of arguments and errors; the mounts themselves are in the integration tests."""

from __future__ import annotations

import errno
import os
import pickle
import threading
import time
from pathlib import Path

import pytest

from ray_anystorage.discovery.discover import discover
from ray_anystorage.discovery.mounts import problem_of
from ray_anystorage.discovery.probe import bounded
from ray_anystorage.environment import TIERS, Location, Space
from ray_anystorage.errors import (
    MountBrokenError,
    MountDeadError,
    MountFullError,
    MountTimeoutError,
    NoInodesError,
    RequestError,
    StorageError,
)


def test_discover_has_a_place_for_every_tier_and_pickles(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "RAY_ANYSTORAGE_THRESHOLD": "2GB", "RAY_ANYSTORAGE_USER_STORAGE": str(tmp_path)}
    for tier in ("LOCAL", "CLUSTER", "SHARED"):
        environ[f"RAY_ANYSTORAGE_{tier}_STORAGE"] = str(tmp_path / "missing")
    found = discover(nodes=3, environ=environ)
    assert tuple(place.tier for place in found.places) == TIERS
    assert [place.state for place in found.places] == ["failed", "failed", "usable", "failed", "absent"]
    assert (found.nodes, found.threshold) == (3, 2 * 10**9)
    assert found.places[-1].root == ""
    assert pickle.loads(pickle.dumps(found)) == found
    assert os.listdir(tmp_path) == []


def test_discover_refuses_a_bad_timeout() -> None:
    for timeout in (0, -1, float("inf"), float("nan")):
        with pytest.raises(RequestError, match="timeout="):
            discover(timeout=timeout, environ={})


@pytest.mark.parametrize(
    ("code", "error_type"),
    [
        (errno.EDQUOT, MountFullError),
        (errno.ESTALE, MountDeadError),
        (errno.EIO, MountDeadError),
        (errno.EHOSTDOWN, MountDeadError),
        (errno.ETIMEDOUT, MountTimeoutError),
        (errno.EBADMSG, MountBrokenError),
        (errno.ELOOP, MountBrokenError),
    ],
)
def test_errors_that_no_mount_here_can_give(code: int, error_type: type[StorageError]) -> None:
    """A quota, a stale NFS handle and the like take servers that a test machine does not have."""
    location = Location("user", "/mnt/u", "default mount", False)
    problem = problem_of(location, OSError(code, os.strerror(code)), tried="wrote in /mnt/u")
    assert problem.error_type is error_type
    assert f"({errno.errorcode[code]}: {os.strerror(code)})" in problem.reason
    assert pickle.loads(pickle.dumps(problem)) == problem
    assert "{" not in problem.reason + problem.remedy


def test_failing_disk_is_told_from_a_server_that_is_gone() -> None:
    location, error = Location("local", "/l", "default mount", False), OSError(errno.EIO, "Input/output error")
    assert problem_of(location, error, tried="x", network=False).error_type is MountBrokenError
    assert problem_of(location, error, tried="x", network=True).error_type is MountDeadError


def test_full_is_told_from_out_of_inodes() -> None:
    location, full = Location("user", "/u", "default mount", False), OSError(errno.ENOSPC, "No space left on device")

    def kind(space: Space | None) -> type[StorageError]:
        return problem_of(location, full, tried="x", space=space).error_type

    assert kind(Space(5, 10, 0, 4)) is NoInodesError
    assert kind(Space(0, 10, 0, 4)) is MountFullError
    assert kind(Space(5, 10, None, None)) is MountFullError
    assert kind(None) is MountFullError


def test_bounded_returns_raises_and_gives_up() -> None:
    assert bounded(lambda: 7, 5, what="seven") == 7
    with pytest.raises(ZeroDivisionError):
        bounded(lambda: 1 // 0, 5, what="divide")
    release = threading.Event()
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"wait: no answer within 0\.1 s"):
        bounded(release.wait, 0.1, what="wait")
    assert time.monotonic() - started < 30
    release.set()


def test_timeout_of_the_system_is_passed_on_as_it_is() -> None:
    def soft_mount() -> None:
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out", "/mnt/x")

    with pytest.raises(TimeoutError) as caught:
        bounded(soft_mount, 5, what="read")
    assert caught.value.filename == "/mnt/x"
