"""The pure parts of the benchmark: noise, shapes, limits, sizes, advice, reports; and a disk that is nearly full."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ray_anystorage.bench.advise import env_file, proposals
from ray_anystorage.bench.compare import changes
from ray_anystorage.bench.judge import Limits, judge
from ray_anystorage.bench.limits import Direction, NodeLimits, Rung, TierLimits, Together
from ray_anystorage.bench.noise import apart, centre, percentiles, quantile
from ray_anystorage.bench.on_node.climb import Counts, climb
from ray_anystorage.bench.on_node.place import room
from ray_anystorage.bench.outlook import most_dollars, outlook
from ray_anystorage.bench.report.page import page
from ray_anystorage.bench.results import BenchReport, Cell, Measured, NodeFound, TierFound, read_report
from ray_anystorage.bench.shapes import SHAPES, scaled, shapes_of, write
from ray_anystorage.bench.sizing import Means, fit
from ray_anystorage.bench.wanted import Wanted
from ray_anystorage.cli.main import main
from ray_anystorage.errors import RequestError
from ray_anystorage.settings import Settings
from tests.harness.mounts import tmpfs

MiB, GB = 1 << 20, 10**9
SHAPE = {shape.name: shape for shape in SHAPES}
NODE = NodeLimits(cores=4.0, memory_copy=8e9, hashing=20e9)
LATENCY = {"p50": 0.025, "p95": 0.03, "p99": 0.04}
# Over one connection an object of 8 MiB takes a round trip and then 20 MB/s.
ONE = 8 * MiB / (0.025 + 8 * MiB / 20e6)
FAR = TierLimits(
    write=Direction((Rung(1, ONE), Rung(32, 500e6)), objects=1000.0),
    read=Direction((Rung(1, ONE), Rung(32, 600e6)), objects=1200.0),
    object_bytes=8 * MiB,
    latency={"put 4 KiB": LATENCY, "get 4 KiB": LATENCY},
)
DISK_LATENCY = {"p50": 0.001, "p95": 0.002, "p99": 0.003}
DISK = TierLimits(
    write=Direction((Rung(1, 100e6), Rung(4, 200e6)), objects=2000.0),
    read=Direction((Rung(1, 150e6), Rung(4, 300e6)), objects=5000.0),
    object_bytes=64 * MiB,
    latency={"create and sync 4 KiB": DISK_LATENCY, "read 4 KiB": DISK_LATENCY},
    direct=True,
)
BUCKET, MOUNT = Limits(NODE, FAR, is_bucket=True), Limits(NODE, DISK, is_bucket=False)
TOGETHER = Together(800e6, 900e6, 1500.0, 1600.0)
SETTINGS = Settings(locations=())
RUNS = (Measured(2.0, 1.0), Measured(2.1, 1.0), Measured(1.9, 1.0))
CELL = Cell("artifact", "dense-7b", "save", "anystorage", 1, 8, GB, RUNS, 1.8, 1.9, 0.9, "the store", "why", "advice")


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=20), st.floats(0.1, 10))
def test_values_that_all_grow_alike_differ_by_that_factor(values: list[float], factor: float) -> None:
    found = apart([value * factor for value in values], values)
    assert found.mean == pytest.approx(factor)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.mean * (1 + 1e-9)
    assert found.mean <= found.high * (1 + 1e-9)


def test_the_interval_of_two_like_samples_holds_one_as_often_as_it_says() -> None:
    chance = random.Random(5)
    held = 0
    for _ in range(400):
        first, second = ([math.exp(chance.gauss(0, 0.1)) for _ in range(count)] for count in (5, 4))
        found = apart(first, second)
        held += (found.low or 0) <= 1 <= (found.high or 0)
    assert 0.91 <= held / 400 <= 1.0


STUDENTS_95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045),
)  # by degrees of freedom, from 1 on


def test_students_quantiles_are_those_of_printed_tables() -> None:
    """95 %, 99 % and 99.9 %, two-sided."""
    tables = {
        0.95: dict(enumerate(STUDENTS_95, 1)) | {60: 2.000},
        0.99: {4: 4.604, 10: 3.169},
        0.999: {4: 8.610, 20: 3.850},
    }
    for level, table in tables.items():
        for freedom, known in table.items():
            assert quantile(level, freedom) == pytest.approx(known, rel=1e-3)


def test_one_run_says_nothing_of_noise() -> None:
    assert (apart([2.0], [1.0, 1.1]).low, centre([3.0]).high) == (None, None)


def test_percentiles_are_of_the_values() -> None:
    assert percentiles(list(range(101))) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}
    assert set(percentiles([3.0]).values()) == {3.0}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@given(most=st.integers(1, 10**12))
def test_a_smaller_form_keeps_what_makes_the_shape(shape, most: int) -> None:  # type: ignore[no-untyped-def]
    smaller = scaled(shape, most)
    assert smaller.bytes <= max(shape.bytes if most >= shape.bytes else most, 12 * MiB)
    assert {path for path, _ in smaller.files} <= {path for path, _ in shape.files}
    if not shape.small:
        assert len(smaller.files) == len(shape.files)


def test_each_writing_has_other_bytes_in_every_part(tmp_path: Path) -> None:
    shape = scaled(SHAPE["dense-7b"], 40 * MiB)
    contents = []
    for name in ("first", "second"):
        write(shape, str(tmp_path / name))
        files = {path: (tmp_path / name / path).read_bytes() for path, _ in shape.files}
        assert {path: len(content) for path, content in files.items()} == dict(shape.files)
        contents += [content[at : at + 4096] for content in files.values() for at in range(0, len(content), 4 * MiB)]
    assert len(set(contents)) == len(contents)


def test_an_unknown_shape_is_named_with_those_that_are_known() -> None:
    with pytest.raises(RequestError, match=r"'dense'.*dense-7b"):
        shapes_of(("dense",))


@pytest.mark.parametrize("reading", [False, True])
def test_what_the_package_does_for_each_file_is_expected_but_no_limit(reading: bool) -> None:
    own = replace(BUCKET, node=replace(NODE, file_save=0.004, file_restore=0.002))
    before, after = (limits.transfer([4096] * 1000, reading=reading) for limits in (BUCKET, own))
    assert after.seconds == before.seconds, "the store is slower, and both go on at the same time"
    assert after.shares == before.shares
    much = replace(BUCKET, node=replace(NODE, file_save=0.04, file_restore=0.02))
    each = 0.02 if reading else 0.04
    rounds = before.seconds - before.least
    found = much.transfer([4096] * 1000, reading=reading)
    hashing = 1000 * 4096 / NODE.hashing
    assert found.seconds == pytest.approx((1000 * each + hashing / 1) / NODE.cores + rounds, rel=1e-3)
    assert found.least == before.least


@pytest.mark.parametrize("nodes", [1, 2])
def test_where_the_store_takes_the_same_cores_it_comes_on_top(nodes: int) -> None:
    write = replace(BUCKET.tier.write, objects_busy=0.95)
    node = replace(NODE, file_save=0.001)
    busy = replace(BUCKET, tier=replace(BUCKET.tier, write=write), node=node, together=TOGETHER, sharing=2)
    idle = replace(BUCKET, node=node, together=TOGETHER, sharing=2)
    found, before = (limits.transfer([4096] * 1000, reading=False, nodes=nodes) for limits in (busy, idle))
    assert found.least == before.least
    own = 1000 * 0.001 / (NODE.cores / nodes)  # both nodes are on one machine
    assert found.seconds == pytest.approx(before.seconds + own)


@pytest.mark.parametrize(
    ("limits", "sizes", "seconds", "bound"),
    [
        (BUCKET, [10 * GB], 10 * GB / 500e6, "the link of a node"),
        (BUCKET, [8 * MiB], 0.025 + 8 * MiB / 20e6, "connections"),
        (BUCKET, [4096] * 10_000, (10_000 + 4) / 1000, "requests per prefix"),
        (MOUNT, [10 * GB], 10 * GB / 100e6, "connections"),
        (MOUNT, [10 * GB] * 4, 40 * GB / 200e6, "the link of a node"),
        (replace(BUCKET, together=TOGETHER), [10 * GB], 10 * GB / 500e6, "the link of a node"),
    ],
)
def test_the_slowest_resource_is_the_limit(limits: Limits, sizes: list[int], seconds: float, bound: str) -> None:
    found = limits.transfer(sizes, reading=False)
    assert (found.bound, found.least) == (bound, pytest.approx(seconds, rel=0.02))


def test_what_all_nodes_get_together_bounds_them() -> None:
    found = replace(BUCKET, together=TOGETHER).transfer([10 * GB], reading=False, nodes=4)
    assert (found.bound, found.least) == ("the store", pytest.approx(40 * GB / 800e6))
    small = replace(BUCKET, together=TOGETHER).transfer([4096] * 1000, reading=True, nodes=4)
    assert (small.bound, small.least) == ("requests per prefix", pytest.approx(4 * 1003 / 1600))


def test_the_verdict_says_what_bounds_a_time() -> None:
    large = BUCKET.transfer([10 * GB], reading=False)
    assert judge(large, 21.0, 5.0, 4.0).bound == "the link of a node"
    busy = judge(large, 40.0, 150.0, 4.0)
    assert (busy.bound, "94% of 4 cores" in busy.why) == ("CPU", True)
    tiny = BUCKET.transfer([4096], reading=False)
    assert judge(tiny, tiny.seconds, 0.01, 4.0).bound == "round trips"
    idle = judge(large, 60.0, 5.0, 4.0)
    assert (idle.share, idle.advice) == (pytest.approx(20 / 60), "")


def means(**other: object) -> Means:
    given = {
        "seconds": 60.0,
        "bytes": 10 * GB,
        "room": None,
        "local_room": 100 * GB,
        "rounds": 3,
        "nodes": 1,
        "same_disk": False,
    }
    return Means(**{**given, "stock": True, **other})  # type: ignore[arg-type]


def test_a_shape_is_made_to_fit_time_bytes_and_room() -> None:
    large = fit(SHAPE["dense-7b"], BUCKET, means())
    assert large is not None
    assert large.stock
    assert large.seconds <= 60
    for smaller in (means(seconds=20.0), means(bytes=200_000_000), means(local_room=300 * MiB)):
        found = fit(SHAPE["dense-7b"], BUCKET, smaller)
        assert found is not None
        assert found.shape.bytes < large.shape.bytes
        assert found.shape.bytes * 3 <= smaller.local_room
        assert found.shape.bytes * 2 * 4 <= smaller.bytes
    mount = fit(SHAPE["dense-7b"], MOUNT, means(room=100 * MiB))
    assert mount is not None
    assert mount.shape.bytes * 2 <= 100 * MiB
    shared = fit(SHAPE["dense-7b"], MOUNT, means(room=100 * MiB, local_room=100 * MiB, same_disk=True))
    assert shared is not None
    assert shared.shape.bytes * 5 <= 100 * MiB, "all copies lie on it"


def test_what_fits_nowhere_is_left_out() -> None:
    assert fit(SHAPE["dense-7b"], MOUNT, means(room=0)) is None
    assert fit(SHAPE["dense-7b"], BUCKET, means(seconds=0.1)) is None


def test_a_disk_that_is_nine_tenths_full_takes_nothing_more(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", size="40m") as disk:
        assert 35 * MiB <= room(str(disk)) <= 36 * MiB
        (disk / "most").write_bytes(bytes(37 * MiB))
        assert room(str(disk)) == 0


def test_a_ladder_ends_where_more_does_not_help_or_is_not_allowed() -> None:
    assert [rung.connections for rung in climb(lambda _: 1, Counts.up_to(2).write)] == [1, 2]
    assert [rung.connections for rung in climb(lambda _: 1, (1, 2, 4), may=lambda _: False)] == [1]
    assert Counts.up_to(6).read == (1, 2, 4, 6)


def test_a_bucket_that_takes_more_than_the_mount_is_proposed_sooner() -> None:
    tiers = [
        TierFound("cluster", "/mnt", "", is_bucket=False, limits={"n": DISK}),
        TierFound("artifact", "s3://b", "", is_bucket=True, limits={"n": FAR}),
    ]
    slow = replace(CELL, tier="cluster", runs=(Measured(5.1, 1.0),) * 3)
    fast = replace(CELL, runs=(Measured(2.5, 1.0),) * 3)
    (made,) = proposals(tiers, [slow, fast], SETTINGS)
    # 0.1 s + s / 200 MB/s = 0.5 s + s / 500 MB/s
    assert (made.name, made.value) == ("RAY_ANYSTORAGE_THRESHOLD", "130MB")
    assert "RAY_ANYSTORAGE_THRESHOLD=130MB" in env_file([made]).splitlines()
    assert proposals(tiers, [slow, fast], replace(SETTINGS, threshold=130 * 10**6)) == ()
    assert proposals([tiers[0]], [slow], SETTINGS) == ()


def test_a_mount_that_stalls_gets_longer_limits() -> None:
    slow = replace(DISK, latency={"list": {"p50": 0.1, "p95": 0.9, "p99": 2.0}})
    made = proposals([TierFound("user", "/mnt", "", is_bucket=False, limits={"n": slow})], [], SETTINGS)
    assert [(one.name, one.value) for one in made] == [("RAY_ANYSTORAGE_PROBE_TIMEOUT", "20")]


REPORT = BenchReport(
    "2026-11-28T10:00:00+0000", 60.0, True, {"ray": "2.60"}, {"seconds": 60.0}, (NodeFound("a", limits=NODE),),
    (TierFound("artifact", "s3://b/<i>", "a bucket", is_bucket=True, limits={"a": FAR}, together=TOGETHER),), (CELL,),
)  # fmt: skip


def test_a_report_comes_back_from_its_json() -> None:
    assert read_report(REPORT.to_json(), what="it") == REPORT
    said = json.loads(REPORT.to_json())
    assert said["version"] == 1
    assert said["cells"][0]["figures"]["bytes_per_second"] == pytest.approx(GB / 1.998, rel=0.01)


@pytest.mark.parametrize(
    ("text", "words"),
    [("[]", "is not the JSON"), ("{", "is not the JSON"), ('{"version": 9}', "version 9"), ('{"version": 1}', "lacks")],
)
def test_what_is_no_report_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=words):
        read_report(text, what="it")
    (tmp_path / "one").write_text(text)
    done = CliRunner().invoke(main, ["bench", "compare", str(tmp_path / "one"), str(tmp_path / "one")])
    assert done.exit_code == 2
    assert words in " ".join(done.output.split())


def test_a_change_counts_where_all_of_its_interval_says_so() -> None:
    def report(*seconds: float) -> BenchReport:
        return replace(REPORT, cells=(replace(CELL, runs=tuple(Measured(one, 1.0) for one in seconds)),))

    base = report(2.0, 2.1, 1.9)
    assert [change.verdict for change in changes(base, report(1.0, 1.05, 0.95)).changes] == ["faster"]
    assert [change.verdict for change in changes(base, report(4.0, 4.2, 3.8)).changes] == ["slower"]
    assert [change.verdict for change in changes(base, report(1.9, 2.15, 1.95)).changes] == ["within noise"]
    assert [change.verdict for change in changes(base, report(1.0)).changes] == ["within noise"]
    other = replace(REPORT, cells=(replace(CELL, tier="cluster"),))
    assert changes(base, other).only == {
        "before": ["artifact dense-7b save anystorage 1"],
        "after": ["cluster dense-7b save anystorage 1"],
    }


def test_the_page_shows_names_as_they_are() -> None:
    drawn = page(REPORT)
    assert "s3://b/&lt;i&gt;" in drawn
    assert "<i>" not in drawn
    assert "<script" not in drawn


def test_it_says_what_it_would_write_and_cost_before_it_starts() -> None:
    wanted = Wanted(300.0, 20 << 30, 5, (), SHAPES, True, {}, SETTINGS)
    assert "21.5 GB at most" in outlook(wanted)
    assert 0.1 < most_dollars(wanted) < 2
    done = CliRunner().invoke(main, ["bench", "--dry-run", "--budget", "5m"])
    assert (done.exit_code, "5 min" in done.output) == (0, True)
    refused = CliRunner().invoke(main, ["bench", "--dry-run", "--budget", "soon"])
    assert (refused.exit_code, "--budget='soon'" in refused.output) == (2, True)
