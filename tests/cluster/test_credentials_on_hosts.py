"""Credentials over several hosts: where a planted secret is, and a host whose own are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster.runs import SOON, Run, spread
from tests.harness.hosts import Host, Lab

pytestmark = [pytest.mark.needs_ray, pytest.mark.soak]

# A grep that has the secret in no argument: it would find itself.
IN_PROCESSES = "grep -slF -f /tmp/needle /proc/[0-9]*/environ /proc/[0-9]*/cmdline || true"
IN_FILES = "grep -rscF -f /tmp/needle --exclude=needle --exclude-dir=.aws /tmp /mnt /dev/shm | grep -v ':0$' || true"
PROFILE = """
mkdir -p /tmp/.aws
printf '[team]\\naws_access_key_id = %s\\naws_secret_access_key = %s\\n' "$1" "$2" >/tmp/.aws/credentials
chmod 600 /tmp/.aws/credentials
"""


def holders(host: Host, script: str) -> set[str]:
    """Whatever a search for the secret finds in a host."""
    return set(host.shell(script).split())


@pytest.mark.parametrize("mode", ["broker", "reference"])
def test_a_secret_is_with_the_driver_and_nowhere_else(lab: Lab, mode: str) -> None:
    """With a reference it is in a file of the user's on every host, and in no process's environment at all."""
    server = lab.server
    run = Run(lab, f"secret-{mode}", server.make_bucket(), in_bucket=True, credentials=mode)
    for host in lab.hosts.values():
        (host.files / "needle").write_text(server.secret_key)
    env = run.env
    if mode == "reference":
        for host in lab.hosts.values():
            host.shell(PROFILE, server.access_key, server.secret_key)
        env = {name: value for name, value in env.items() if not name.startswith("AWS_")} | {"AWS_PROFILE": "team"}
    # A run that had asked for credentials="env" before would have left it in Ray's log, a line of it for each process.
    before = {number: holders(host, IN_FILES) for number, host in lab.hosts.items()}
    run.open(1)
    driver = run.start(until=2, env=env, **spread(3))
    driver.until(lambda: run.committed("step-1"))
    found = {number: holders(host, IN_PROCESSES) for number, host in lab.hosts.items()}
    assert [number for number, paths in found.items() if number != 1 and paths] == [], found
    drivers = {path.split("/")[2] for path in found[1]}
    assert len(drivers) == (1 if mode == "broker" else 0), "it is with another process than the driver"
    run.open(2)
    assert driver.result()["step"] == 2
    assert {number: holders(host, IN_FILES) for number, host in lab.hosts.items()} == before
    client = server.client()
    stored = {key: client.get_object(Bucket=run.bucket, Key=key)["Body"].read() for key in server.keys(str(run.bucket))}
    assert stored
    assert [key for key, held in stored.items() if server.secret_key.encode() in held] == []
    assert server.secret_key not in driver.output()


def test_a_host_whose_keys_are_wrong_is_named_before_user_code_starts(lab: Lab) -> None:
    server = lab.server
    run = Run(lab, "wrong-keys", server.make_bucket(), in_bucket=True, credentials="reference")
    for number, host in lab.hosts.items():
        host.shell(PROFILE, server.access_key, server.secret_key if number != 2 else "x" * 40)
    env = {name: value for name, value in run.env.items() if not name.startswith("AWS_")} | {"AWS_PROFILE": "team"}
    run.open(1)
    driver = run.start(1, 2, until=1, env=env)
    said = driver.failure()
    run.check_refused(said, lab.hosts[2], "artifact storage s3://", "signature")
    assert driver.seconds < SOON
    assert "x" * 40 not in said


def test_the_doctor_s_table_has_a_row_for_each_kind_of_host(lab: Lab) -> None:
    run = Run(lab, "doctor-table", lab.server.make_bucket(), in_bucket=True)
    driver = lab.hosts[1].driver(Path(__file__).with_name("doctor.py"), "table", env=run.env)
    assert driver.wait() == 0, driver.output()[-4000:]
    assert "3 nodes" in driver.output()


def test_the_doctor_asks_four_hosts_and_names_each_that_differs(lab: Lab) -> None:
    """One has another directory at the mount's path, one does not reach the bucket, and two are equal."""
    lab.ensure(4)
    run = Run(lab, "doctor", lab.server.make_bucket(), in_bucket=True)
    other, cut = lab.hosts[3], lab.hosts[4]
    other.shell("mkdir -p /tmp/another")
    with other.covered("/mnt/cluster_storage", "/tmp/another"), cut.unreachable(lab.gateway):
        driver = lab.hosts[1].driver(Path(__file__).with_name("doctor.py"), "60", env=run.env)
        driver.wait()
    (line,) = [line[7:] for line in driver.output().splitlines() if line.startswith("REPORT ")]
    report = json.loads(line)
    assert driver.seconds < SOON
    assert sorted(len(group["nodes"]) for group in report["groups"]) == [1, 1, 2], report["groups"]
    said = {(problem["tier"], problem["error"]): problem["names"] for problem in report["problems"]}
    (elsewhere,) = said["cluster", "Differs"]
    assert other.address in elsewhere
    (unreached,) = (names for (tier, _), names in said.items() if tier == "artifact")
    assert [cut.address in name for name in unreached] == [True]
    lab.power_off(4)
    lab.until_gone(4)  # Ray would lay the next workers there
