"""Runs on hosts of which one does not have the storage that the others have: what the user sees, and how soon."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.cluster.runs import SOON, Run
from tests.harness.hosts import CLUSTER, LOCAL, Host, Lab

pytestmark = [pytest.mark.needs_ray, pytest.mark.soak]


Fault = Callable[[Host], AbstractContextManager[object]]


def elsewhere(host: Host) -> AbstractContextManager[None]:
    """Another directory under the path of cluster storage."""
    host.shell("mkdir -p /tmp/other")
    return host.covered(CLUSTER, "/tmp/other")


FAULTS: dict[Fault, tuple[str, str]] = {
    Host.unmounted: ("the directory does not exist", "mount the storage there (on every node)"),
    elsewhere: ("does not see the run home that the controller made", f"mount the same storage at {CLUSTER}"),
    Host.read_only: ("it is mounted read-only", "mount it read-write"),
    Host.full: ("no space is left", "delete what is not needed"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_host_without_the_same_mount_is_named_before_user_code_starts(lab: Lab, fault: Fault) -> None:
    run, host = Run(lab, f"fault-{fault.__name__}"), lab.hosts[2]
    run.open(1)
    with fault(host):
        driver = run.start(1, 2, until=1)
        said = driver.failure()
    run.check_refused(said, host, f"cluster storage {CLUSTER}", *FAULTS[fault])
    assert f"without a fault: {lab.hosts[1].address} (" in said
    assert driver.seconds < SOON
    assert run.start(1, 2, until=1).result()["step"] == 1, "it does not start when the host is in order again"


def test_a_host_that_finds_no_room_for_a_byte_is_warned_of_and_then_named_by_the_first_save(lab: Lab) -> None:
    """The bucket takes data, not the manifest that says where it is."""
    run, host = Run(lab, "no-room", lab.server.make_bucket()), lab.hosts[2]
    with host.full() as renew:
        driver = run.start(1, 2, until=1)
        driver.until(lambda: "Started training worker group" in driver.output())
        run.open(1)
        renew()
        said = driver.failure()
    assert f"run 'no-room' goes on although on {host.address} (" in said
    assert "checkpoint step-1 could not be saved: cluster storage /mnt/cluster_storage: has no space left" in said
    assert not run.committed("step-1")
    assert driver.seconds < SOON


def test_a_host_whose_own_disk_is_full_takes_part(lab: Lab) -> None:
    run, host = Run(lab, "own-disk-full"), lab.hosts[2]
    run.open(1)
    host.shell(f"dd if=/dev/zero of={LOCAL}/filled bs=1M 2>/dev/null || true")
    driver = run.start(1, 2, until=1)
    assert driver.result()["step"] == 1
    host.shell(f"rm {LOCAL}/filled")
    run.check("step-1", ranks=2)
    assert (
        f"ip={host.address})" in driver.output().partition(f"{LOCAL} cannot hold temporary files")[0].splitlines()[-1]
    )


def test_a_host_that_does_not_reach_the_bucket_is_named_before_user_code_starts(lab: Lab) -> None:
    run, host = Run(lab, "no-bucket", lab.server.make_bucket(), in_bucket=True), lab.hosts[2]
    run.open(1)
    with host.unreachable(lab.gateway):
        driver = run.start(1, 2, until=1)
        said = driver.failure()
    run.check_refused(said, host, "artifact storage s3://", "does not answer within 10 s", "check that a firewall")
    assert driver.seconds < SOON


def test_a_host_that_does_not_reach_the_bucket_for_a_while_saves_late(lab: Lab) -> None:
    run, host = Run(lab, "late", lab.server.make_bucket(), in_bucket=True), lab.hosts[2]
    run.open(1)
    driver = run.start(1, 2, until=2)
    driver.until(lambda: run.committed("step-1"))
    with host.unreachable(lab.gateway):
        run.open(2)
        driver.until(lambda: any("manifest-" in path for path in run.paths("step-2")))
        with pytest.raises(subprocess.TimeoutExpired):
            driver.process.wait(10)
        assert not run.committed("step-2")
    healed = time.monotonic()
    assert driver.result()["step"] == 2
    assert time.monotonic() - healed < SOON
    run.check("step-2", ranks=2)
