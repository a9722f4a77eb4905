"""Runs over several hosts: what they go on from when a host or a driver ends or differs, and in how many seconds."""

from __future__ import annotations

import pytest

from tests.cluster.runs import SOON, Run, spread
from tests.harness.hosts import CLUSTER, LOCAL, Lab

pytestmark = [pytest.mark.needs_ray, pytest.mark.soak]

WORKERS = pytest.mark.parametrize("workers", [3, pytest.param(6, marks=pytest.mark.soak)])
DAMAGE = """
cp -a "$1" "$2"
printf XXXX | dd of="$2/rank-2" bs=1 seek=33 conv=notrunc status=none
"""


@WORKERS
def test_a_run_whose_driver_was_killed_goes_on_from_what_is_good_on_all_hosts(lab: Lab, workers: int) -> None:
    """The newest checkpoint is damaged as one of the hosts sees it."""
    run = Run(lab, f"driver-killed-{workers}")
    run.open(1, 2)
    first = run.start(until=3, **spread(workers))
    first.until(lambda: run.committed("step-2"))
    first.kill()
    run.check("step-2", ranks=workers)
    host, newest = lab.hosts[2], f"{CLUSTER}/{run.name}/step-2"
    host.shell(DAMAGE, newest, f"{LOCAL}/damaged")
    with host.covered(newest, f"{LOCAL}/damaged"):
        second = run.start(until=2, names="again", **spread(workers))
        assert second.result()["step"] == 2
    said = second.output()
    assert (
        f"not resuming from step-2: checkpoint step-2 is damaged: rank-2 (other content) (on node {host.address})"
        in said
    )
    assert "resuming from step-1 instead" in said
    begun = run.begun("again-2")
    assert [found["from"] for found in begun] == [1] * workers
    assert all(found["held"] == run.held(1, ranks=workers) for found in begun)
    assert len({found["host"] for found in begun}) == 3
    run.check("again-2", ranks=workers)
    assert second.seconds < SOON


def test_hosts_that_cannot_serve_are_named_before_user_code_starts(lab: Lab) -> None:
    run, missing, read_only = Run(lab, "bad-hosts"), lab.hosts[2], lab.hosts[3]
    run.open(1)
    with missing.unmounted(), read_only.read_only():
        driver = run.start(1, 2, 3, until=1)
        said = driver.failure()
    assert "run 'bad-hosts' was not started: 2 of 3 nodes cannot do what it needs" in said
    run.check_refused(
        said, missing, f"cluster storage {CLUSTER}: the directory does not exist", "mount the storage there"
    )
    run.check_refused(said, read_only, f"cluster storage {CLUSTER}: it is mounted read-only", "mount it read-write")
    assert f"without a fault: {lab.hosts[1].address} (" in said
    assert driver.seconds < SOON
