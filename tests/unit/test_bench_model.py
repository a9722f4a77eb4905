"""The model of scale: its formulas against published figures and against each other, and the command that shows it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ray_anystorage.bench.model import (
    S3_READS,
    S3_WRITES,
    Job,
    Site,
    best_interval,
    forecast,
    lost_share,
    restore,
    save,
)
from ray_anystorage.cli.main import main

GiB = 1 << 30
DAY = 86400.0
SITES = st.builds(
    Site,
    nodes=st.integers(1, 5000),
    link=st.none() | st.floats(1e8, 5e10),
    connections=st.integers(1, 512),
    connection_rate=st.none() | st.floats(1e6, 1e9),
    round_trip=st.floats(1e-4, 0.5),
    store_limit=st.none() | st.floats(1e8, 1e13),
    prefixes=st.integers(1, 100),
    disk_read=st.none() | st.floats(1e8, 2e10),
    disk_write=st.none() | st.floats(1e8, 2e10),
    cpu_per_byte=st.floats(0, 2e-9),
    cores=st.floats(0.5, 64),
)
JOBS = st.builds(
    Job,
    checkpoint=st.integers(1, 1 << 45),
    files=st.integers(1, 10_000),
    interval=st.floats(1, 1e5),
    staged=st.booleans(),
    shared=st.booleans(),
    mtbf=st.none() | st.floats(1e5, 1e9),
)


@pytest.mark.parametrize(
    ("site", "job", "bound", "seconds"),
    [
        (Site(nodes=10, link=1e9), Job(100 * 10**9), "the link of a node", 10.0),
        (Site(nodes=1000, store_limit=1e11, prefixes=9), Job(2 << 40, files=64), "the store", (2 << 40) / 1e11),
        (Site(disk_read=1e9), Job(10**10, files=128), "the local disk", 10.0),
        (Site(cpu_per_byte=2e-9, cores=2), Job(10**10, files=128), "CPU", 10.0),
        (
            Site(link=None, connections=8, connection_rate=1e7, round_trip=0.1),
            Job(8 << 20, files=1),
            "connections",
            None,
        ),
    ],
)
def test_the_slowest_resource_bounds_a_save(site: Site, job: Job, bound: str, seconds: float | None) -> None:
    made = save(site, job)
    assert made.bound == bound == made.shares[0][0]
    expected = 0.1 + (8 << 20) / 1e7 if seconds is None else seconds
    assert made.seconds == pytest.approx(expected + 6 * site.round_trip)


def test_small_files_wait_for_round_trips() -> None:
    """5,000 files over 50 connections are 100 rounds of 25 ms, whatever the link is."""
    made = restore(
        Site(link=1e12, connections=50, connection_rate=None, round_trip=0.025), Job(5000 * 4096, files=5000)
    )
    assert made.seconds == pytest.approx(100 * 0.025 + 3 * 0.025)
    assert made.requests == 5000 + 3


def test_the_requests_of_a_prefix_are_limited() -> None:
    site, job = Site(nodes=1000, link=None, connection_rate=None, round_trip=1e-3), Job(1000 * 7000, files=7000)
    assert save(site, job).bound == restore(site, job).bound == "requests per prefix"
    assert save(site, job).request_rate == pytest.approx(S3_WRITES, rel=0.01)
    assert restore(site, job).request_rate == pytest.approx(S3_READS, rel=0.01)
    assert save(replace(site, prefixes=10), job).seconds == pytest.approx(save(site, job).seconds / 10, rel=0.01)


def test_all_nodes_that_restore_the_same_share_the_store() -> None:
    site = Site(nodes=100, link=1e10, store_limit=1e11, prefixes=9)
    assert restore(site, Job(10**10, shared=True)).shares[0] == ("the store", 10.0)
    assert restore(site, Job(10**10)).seconds < 0.5


def test_a_save_without_a_wait_stalls_only_where_it_is_not_done_when_the_next_is_due() -> None:
    site, job = Site(link=1e9), Job(100 * 10**9, files=1000, interval=1000)
    quick = forecast(site, job)
    assert (quick.stall_without_wait, quick.lost_without_wait) == (0.0, 0.0)
    assert quick.stall == quick.save.seconds == pytest.approx(100, rel=0.01)
    late = forecast(site, replace(job, interval=60))
    assert late.stall_without_wait == pytest.approx(late.save.seconds - 60)
    staged = forecast(replace(site, disk_write=2e9), replace(job, staged=True))
    assert staged.stall_without_wait == pytest.approx(50)


@pytest.mark.parametrize(("stall", "mtbf"), [(5, 3600), (60, DAY), (300, 5 * DAY), (600, 6 * 3600)])
def test_the_best_interval_is_young_s_with_daly_s_correction(stall: float, mtbf: float) -> None:
    young = math.sqrt(2 * stall * mtbf)
    assert best_interval(stall, mtbf) == pytest.approx(young, rel=0.2)
    # By Daly's own measure of the whole time (his equation 20), no other interval is better by a thousandth.
    best = _daly_time(best_interval(stall, mtbf), stall, mtbf)
    assert best <= min(_daly_time(young * factor / 50, stall, mtbf) for factor in range(10, 200)) * 1.001


def _daly_time(work: float, stall: float, mtbf: float, restart: float = 60) -> float:
    """Time that one second of progress takes: Daly 2006, equation 20, per second of solution time."""
    return mtbf * math.exp(restart / mtbf) * (math.exp((work + stall) / mtbf) - 1) / work


def test_a_stall_as_long_as_the_time_between_failures_has_daly_s_limit() -> None:
    assert best_interval(7200, 3600) == 3600
    assert best_interval(0.0, 3600) == 0.0


@given(SITES, JOBS)
def test_a_forecast_keeps_its_promises(site: Site, job: Job) -> None:
    made = forecast(site, job)
    for transfer in (made.save, made.restore):
        assert transfer.seconds >= transfer.shares[0][1] > 0
        assert [seconds for _, seconds in transfer.shares] == sorted((s for _, s in transfer.shares), reverse=True)
    assert made.lost >= made.save.seconds / (job.interval + made.save.seconds)
    if not job.staged and made.save.seconds <= job.interval:
        assert made.stall_without_wait == 0
    assert (made.best_interval is None) == (job.mtbf is None)
    if made.best_interval_without_wait is not None:
        assert made.best_interval_without_wait >= made.save.seconds


@given(SITES, JOBS)
def test_more_of_a_resource_is_never_slower(site: Site, job: Job) -> None:
    faster = replace(
        site,
        link=site.link and site.link * 2,
        round_trip=site.round_trip / 2,
        store_limit=site.store_limit and site.store_limit * 2,
        prefixes=site.prefixes * 2,
        disk_read=site.disk_read and site.disk_read * 2,
        cores=site.cores * 2,
    )
    assert save(faster, job).seconds <= save(site, job).seconds
    assert restore(faster, job).seconds <= restore(site, job).seconds


@given(st.floats(1, 1e5), st.floats(0, 1e4), st.floats(0, 1e-3), st.floats(0, 1e4))
def test_what_is_lost_grows_with_stalls_and_failures(
    interval: float, stall: float, failures: float, again: float
) -> None:
    lost = lost_share(interval, stall, failures, again)
    assert lost >= 0
    assert lost_share(interval, stall + 1, failures, again) > lost
    assert lost_share(interval, stall, failures + 1e-6, again) > lost


# --- the command --------------------------------------------------------------------------------------


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["bench", "simulate", *arguments])
    return done.exit_code, done.output


def test_a_thousand_nodes_in_words() -> None:
    code, said = run("--nodes", "1000", "--checkpoint", "2TiB", "--mtbf", "5y", "--store-limit", "40GB/s")
    assert code == 0
    for part in ("A checkpoint of 2.2 TB by 1,000 nodes, every 30 min", "bound by the store", "with anystorage.report"):
        assert part in " ".join(said.split()), said


def test_it_says_what_it_was_not_told() -> None:
    code, said = run("--nodes", "2", "--checkpoint", "20GB")
    assert code == 0
    assert "failures are not counted: say --mtbf" in said


def test_json_holds_what_was_said_and_what_follows() -> None:
    code, said = run("--nodes", "4", "--checkpoint", "1GiB", "--mtbf", "30d", "--cpu-per-gib", "0.7s", "--json")
    told = json.loads(said)
    assert code == 0
    assert (told["version"], told["site"]["nodes"], told["job"]["checkpoint"]) == (1, 4, GiB)
    assert told["site"]["cpu_per_byte"] == pytest.approx(0.7 / GiB)
    assert told["forecast"]["save"]["shares"][told["forecast"]["save"]["bound"]] > 0
    assert told["forecast"]["best_interval"] > 0


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--checkpoint", "two", "a number with a unit"),
        ("--checkpoint", "0", "more than nothing"),
        ("--interval", "soon", "1h30m"),
        ("--interval", "-5", "above 0"),
        ("--mtbf", "5x", "5y"),
        ("--link", "0GB", "more than nothing"),
        ("--store-limit", "fast", "a number with a unit"),
    ],
)
def test_what_cannot_be_meant_is_named(option: str, value: str, expected: str) -> None:
    arguments = {"--nodes": "2", "--checkpoint": "1GB"} | {option: value}
    code, said = run(*(part for pair in arguments.items() for part in pair))
    assert code == 2
    assert option in said
    assert value in said
    assert expected in said
