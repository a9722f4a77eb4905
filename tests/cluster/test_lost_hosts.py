"""Hosts that end or come while a run is going on, and in how many seconds it does again."""

from __future__ import annotations

import time

import pytest

from tests.cluster.runs import SOON, Run, spread
from tests.harness.hosts import Lab

pytestmark = [pytest.mark.needs_ray, pytest.mark.soak]


@pytest.mark.parametrize("workers", [3, 6])
def test_a_host_that_loses_power_in_the_middle_of_a_save_leaves_a_run_that_goes_on(lab: Lab, workers: int) -> None:
    run = Run(lab, f"power-lost-{workers}", lab.server.make_bucket(), in_bucket=True)
    run.open(1)
    driver = run.start(until=3, failures=1, **spread(workers))
    driver.until(lambda: run.committed("step-1"))
    assert len({found["host"] for found in run.begun("step-1")}) == 3
    with lab.hosts[3].unreachable(lab.gateway):  # its ranks are in the middle of the save then, for sure
        run.open(2, 3)
        driver.until(lambda: sum("manifest-" in path for path in run.paths("step-2")) == workers * 2 // 3)
        lab.power_off(3)
    lost = time.monotonic()
    assert driver.result()["step"] == 3
    took = time.monotonic() - lost
    begun = run.begun("step-3")
    assert [found["from"] for found in begun] == [1] * workers
    assert all(found["held"] == run.held(1, ranks=workers) for found in begun)
    assert len({found["host"] for found in begun}) == 2
    for name in ("step-1", "step-2", "step-3"):
        run.check(name, ranks=workers)
    assert took < SOON  # three seconds of it until Ray takes the host for dead


PROCESSES = """
for process in /proc/[0-9]*; do
  if tr '\\0' ' ' <$process/cmdline 2>/dev/null | grep -q "^ray::$1"; then echo ${process#/proc/}; fi
done
"""
ELASTIC = {"num_workers": (4, 6), "resources_per_worker": {"seat": 1}, "elastic_resize_monitor_interval_s": 1.0}


def test_a_host_that_joins_later_gets_workers_that_go_on_with_the_others(lab: Lab) -> None:
    lab.power_off(3)
    lab.until_gone(3)  # Ray would lay workers there, and wait for that host's answer before it places any others
    run = Run(lab, "joined-later")
    run.open(1)
    driver = run.start(until=2, **ELASTIC)
    driver.until(lambda: run.committed("step-1"))
    run.check("step-1", ranks=4)
    lab.start(3)
    joined = time.monotonic()
    driver.until(lambda: "Started training worker group of size 6" in driver.output())
    assert time.monotonic() - joined < SOON
    run.open(2)
    assert driver.result()["step"] == 2
    begun = run.begun("step-2")
    assert [found["from"] for found in begun] == [1] * 6
    assert all(found["held"] == run.held(1, ranks=4) for found in begun)
    assert len({found["host"] for found in begun}) == 3
    run.check("step-2", ranks=6)


def test_a_host_that_was_cut_off_and_comes_back_spoils_nothing(lab: Lab) -> None:
    """Its workers go on for a while, and see the mount, which is not reached over the link that was cut."""
    run, host = Run(lab, "cut-off-host"), lab.hosts[3]
    run.open(1)
    driver = run.start(until=3, failures=1, **spread(3))
    driver.until(lambda: run.committed("step-1"))
    host.cut()
    cut = time.monotonic()
    run.open(2)
    driver.until(lambda: run.committed("step-2"))
    took = time.monotonic() - cut
    assert len({found["host"] for found in run.begun("step-2")}) == 2
    host.heal()
    run.open(3)
    assert driver.result()["step"] == 3
    for step in (1, 2, 3):
        run.check(f"step-{step}", ranks=3)
    assert [found["from"] for found in run.begun("step-3")] == [1] * 3
    assert took < SOON  # three seconds of it until Ray takes the host for dead
    lab.power_off(3)  # Ray took it for dead, and its node ends itself


def test_a_host_whose_agent_is_killed_has_another_for_the_workers_that_start_next(lab: Lab) -> None:
    """The keys are in the driver's environment alone; a worker that is killed as well makes the run start anew."""
    run, host = Run(lab, "agent-killed", lab.server.make_bucket(), in_bucket=True, credentials="broker"), lab.hosts[2]
    run.open(1)
    driver = run.start(2, 3, until=2, failures=1)
    driver.until(lambda: run.committed("step-1"))
    for other in (host, lab.hosts[3]):
        assert other.shell('grep -sl "$1" /proc/[0-9]*/environ || true', lab.server.secret_key) == ""
    (agent,), (worker,) = (host.shell(PROCESSES, name).split() for name in ("NodeAgent", "RayTrainWorker"))
    host.shell('kill -9 "$1" "$2"', agent, worker)
    run.open(2)
    killed = time.monotonic()
    assert driver.result()["step"] == 2
    assert time.monotonic() - killed < SOON
    begun = run.begun("step-2")
    assert [found["from"] for found in begun] == [1, 1]
    assert all(found["held"] == run.held(1, ranks=2) for found in begun)
    run.check("step-2", ranks=2)
