"""The benchmark on a real cluster of two nodes: a bucket, a directory that both have, and a tier that is broken."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ray_anystorage.bench.results import BenchReport, read_report
from ray_anystorage.testing.s3_server import S3Server
from tests.harness.chromium import drawn
from tests.harness.faulty_proxy import faulty_proxy
from tests.harness.ray_cluster import clean_environment
from tests.harness.two_nodes import TwoNodes, two_nodes
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.needs_ray

PROGRAM = str(Path(sys.executable).parent / "ray-anystorage")
SHAPES = ("dense-7b", "lightgbm")


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    with two_nodes() as cluster:
        yield cluster


@dataclass(frozen=True, slots=True)
class Site:
    """Where a benchmark runs: its environment, its directories and its bucket."""

    env: dict[str, str]
    folder: Path
    bucket: str

    def start(self, *options: str, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
        command = [PROGRAM, "bench", "--max-bytes=3GB", f"--output={self.folder}/report", *options]
        return subprocess.Popen(
            command,
            env=self.env,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
        )

    def left(self, server: S3Server) -> list[str]:
        """What it left on the directories and in the bucket, but for what was there before."""
        below = [str(path) for tier in ("cluster", "local") for path in (self.folder / tier).rglob("*")]
        return [*below, *(key for key in server.keys(self.bucket) if key != "team/kept")]


class Terminal:
    """A terminal that a command writes to, and what it has shown, without the codes that move and colour."""

    def __init__(self) -> None:
        self._master, self.slave = pty.openpty()
        self._shown = b""
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Terminal:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.slave)  # the last who has it open: reading ends
        self._reader.join()
        os.close(self._master)

    @property
    def shown(self) -> str:
        text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", self._shown).decode(errors="replace")
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # how the end of a terminal is told
            while said := os.read(self._master, 65536):
                self._shown += said


def make_site(folder: Path, server: S3Server, cluster: TwoNodes) -> Site:
    bucket = server.make_bucket()
    server.client().put_object(Bucket=bucket, Key="team/kept", Body=b"another's")
    for tier in ("cluster", "local"):
        (folder / tier).mkdir()
    (folder / "user").write_text("no directory")
    env = clean_environment(server.env()) | {
        "RAY_ADDRESS": cluster.address,
        "HOME": str(folder),
        "RAY_ANYSTORAGE_ARTIFACT_STORAGE": f"s3://{bucket}/team",
        "RAY_ANYSTORAGE_ENDPOINT": server.endpoint,
        "RAY_ANYSTORAGE_REGION": server.region,
        "RAY_ANYSTORAGE_CREDENTIALS": "env",
        "RAY_ANYSTORAGE_PROBE_TIMEOUT": "3",
        **{f"RAY_ANYSTORAGE_{tier.upper()}_STORAGE": str(folder / tier) for tier in ("cluster", "local", "user")},
    }
    return Site(env, folder, bucket)


@dataclass(frozen=True, slots=True)
class Done:
    """A benchmark that ended."""

    site: Site
    code: int
    output: str
    report: BenchReport


@pytest.fixture(scope="module")
def done(cluster: TwoNodes, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Done:
    site = make_site(tmp_path_factory.mktemp("bench"), s3_server, cluster)
    wanted = [f"--shape={name}" for name in SHAPES] + [f"--tier={name}" for name in ("cluster", "user", "artifact")]
    process = site.start(
        "--budget=120s", "--max-bytes=1500MB", "--rounds=3", f"--apply={site.folder}/settings", *wanted
    )
    output = "".join(process.communicate(timeout=170))
    path = site.folder / "report.json"
    assert path.exists(), output
    return Done(site, process.returncode, output, read_report(path.read_text(), what=str(path)))


def test_a_broken_tier_is_named_and_the_others_are_measured(done: Done) -> None:
    problems = {tier.tier: tier.problem for tier in done.report.tiers if tier.problem}
    assert list(problems) == ["user"]
    assert done.code == 1, done.output
    assert "what to do" in (problems["user"] or "")
    assert "user" in done.output
    assert done.report.complete
    skipped = {(tier.tier, what.partition(":")[0]) for tier in done.report.tiers for what in tier.skipped}
    measured = {(cell.tier, cell.shape) for cell in done.report.cells}
    wanted = {(tier, shape) for tier in ("cluster", "artifact") for shape in SHAPES}
    assert wanted <= measured | skipped, done.output
    assert {(tier, "dense-7b") for tier in ("cluster", "artifact")} <= measured


def test_both_paths_are_measured_on_one_node_and_on_all(done: Done) -> None:
    for tier in ("cluster", "artifact"):
        cells = {(cell.operation, cell.path): cell for cell in done.report.cells if cell.tier == tier}
        for path in ("anystorage", "stock"):
            assert {operation for operation, by in cells if by == path} >= {"save", "restore", "save together"}
        assert cells["save together", "anystorage"].nodes == 2
        assert all(len(cell.runs) >= 3 for cell in cells.values())


def test_every_figure_comes_with_its_limit_and_its_noise(done: Done) -> None:
    for cell in done.report.cells:
        assert (cell.share is None) == (cell.operation == "restore warm")
        assert cell.seconds.low is not None
        assert cell.seconds.low <= cell.seconds.mean <= (cell.seconds.high or 0)
        assert cell.memory is not None
        if cell.path == "anystorage":
            assert cell.why
            assert cell.requests_per_gib is not None
    for tier in done.report.tiers:
        if tier.problem is None:
            assert tier.limits
            assert all(limits.write.best.rate > 0 and limits.latency for limits in tier.limits.values())
            assert tier.together is not None


def test_nodes_that_restore_the_same_read_the_store_once_each(done: Done) -> None:
    found = [
        cell
        for cell in done.report.cells
        if (cell.tier, cell.operation, cell.path) == ("artifact", "restore together", "anystorage")
    ]
    assert found
    for cell in found:
        records = 64 << 10  # and a manifest for each node
        assert all(0 <= (run.fetched or 0) - 2 * cell.bytes <= records + 2 * 300 * cell.files for run in cell.runs)


def test_a_warm_restore_fetches_no_data(done: Done) -> None:
    warm = [c for c in done.report.cells if (c.tier, c.operation) == ("artifact", "restore warm")]
    assert warm
    for cell in warm:
        assert all((run.fetched or 0) < (64 << 10) + 300 * cell.files for run in cell.runs)


def test_nothing_is_left_and_no_key_is_shown(done: Done, s3_server: S3Server) -> None:
    assert done.site.left(s3_server) == []
    files = [path.read_text() for path in done.site.folder.glob("report*") if path.is_file()] + [
        (done.site.folder / "settings").read_text()
    ]
    assert len(files) >= 3
    for text in (done.output, *files):
        assert s3_server.secret_key not in text
        assert s3_server.access_key not in text


def test_the_settings_are_lines_that_the_package_reads(done: Done) -> None:
    from ray_anystorage.settings import read_settings

    lines = [line for line in (done.site.folder / "settings").read_text().splitlines() if not line.startswith("#")]
    read_settings(dict(line.split("=", 1) for line in lines if line))
    assert len([line for line in lines if line]) == len(done.report.proposals)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_draws_what_was_measured(done: Done, scheme: str) -> None:
    look = """(() => {
        const bars = [...document.querySelectorAll('svg[aria-label="throughput by shape"] rect')].map(r => ({
            group: r.closest('section').id + ' ' + r.closest('g').dataset.group.split(':')[0], value: +r.dataset.value,
            width: r.getBoundingClientRect().width, kind: r.getAttribute('class')}));
        return {bars, page: getComputedStyle(document.body).backgroundColor,
                needs: document.querySelectorAll('[src],link,script[src]').length,
                wide: document.documentElement.scrollWidth > innerWidth};
    })()"""
    said = drawn(done.site.folder / "report.html", look, scheme)  # type: ignore[arg-type]
    assert said["needs"] == 0
    assert not said["wide"], "it has to be scrolled sideways"
    dark = sum(map(int, said["page"].removeprefix("rgb(").rstrip(")").split(","))) < 3 * 128
    assert dark == (scheme == "dark")
    cells = [cell for cell in done.report.cells if cell.operation != "restore warm"]
    kinds = {"anystorage": "ours", "stock": "stock"}
    measured = sorted((f"{cell.tier} {cell.shape}", kinds[cell.path], f"{cell.rate:.6g}") for cell in cells)
    assert sorted((bar["group"], bar["kind"], f"{bar['value']:.6g}") for bar in said["bars"]) == measured
    for group in {bar["group"] for bar in said["bars"]}:  # within a group all bars have one scale
        bars = [bar for bar in said["bars"] if bar["group"] == group]
        widest = max(bars, key=lambda bar: bar["width"])
        for bar in bars:
            assert bar["width"] == pytest.approx(widest["width"] * bar["value"] / widest["value"], abs=1.5), group


def test_a_report_compared_with_itself_has_not_changed(done: Done) -> None:
    path = str(done.site.folder / "report.json")
    process = subprocess.run(
        [PROGRAM, "bench", "compare", path, path, "--json"], capture_output=True, text=True, timeout=60, check=False
    )
    assert process.returncode == 0, process.stderr
    changes = json.loads(process.stdout)["changes"]
    assert len(changes) == len(done.report.cells)
    assert {change["verdict"] for change in changes} == {"within noise"}


@pytest.mark.soak
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing_but_a_report(
    ending: signal.Signals, cluster: TwoNodes, s3_server: S3Server, tmp_path: Path
) -> None:
    site = make_site(tmp_path, s3_server, cluster)
    site = replace(site, env=site.env | {"TERM": "xterm-256color", "COLUMNS": "120"})
    with Terminal() as terminal:
        options = ("--max-bytes=1GB", "--no-stock", "--tier=artifact", "--shape=lora", "--rounds=50")
        process = site.start(*options, stderr=terminal.slave)
        wait_until(lambda: "artifact: lora, round 2" in terminal.shown, 100, "the second round is shown")
        assert re.search(r"^  .+: artifact: its limits", terminal.shown, re.MULTILINE), "what each node does is shown"
        assert any(key.startswith("team/.anystorage-bench-") for key in s3_server.keys(site.bucket))
        os.kill(process.pid, ending)
        output = process.communicate(timeout=100)[0]
        assert process.returncode == 130, output
        wait_until(lambda: "interrupted" in terminal.shown + output, 30, "the last words have come")
        output += terminal.shown
    assert site.left(s3_server) == []
    report = read_report((tmp_path / "report.json").read_text(), what="the report")
    assert not report.complete
    assert "interrupted" in output
    assert report.cells, "what was measured until then is kept"


@pytest.mark.soak
def test_a_driver_that_is_killed_leaves_nothing_for_long(
    cluster: TwoNodes, s3_server: S3Server, tmp_path: Path
) -> None:
    site = make_site(tmp_path, s3_server, cluster)
    process = site.start("--budget=60s", "--tier=artifact", "--tier=cluster", "--shape=lora", "--rounds=50")
    assert process.stderr is not None
    for line in process.stderr:
        if "round 1" in line:
            break
    assert site.left(s3_server) != []
    process.kill()
    process.communicate()
    wait_until(lambda: site.left(s3_server) == [], 90, "the actor that outlives the driver cleaned")


@pytest.mark.soak
def test_a_tier_that_breaks_on_the_way_is_left_and_the_others_are_measured(
    cluster: TwoNodes, s3_server: S3Server, tmp_path: Path
) -> None:
    site = make_site(tmp_path, s3_server, cluster)
    with faulty_proxy(s3_server.endpoint) as proxy:
        site = replace(site, env=site.env | {"RAY_ANYSTORAGE_ENDPOINT": proxy.endpoint})
        tiers = ("--tier=artifact", "--tier=cluster")
        process = site.start("--budget=60s", "--no-stock", "--shape=lora", "--shape=lightgbm", *tiers)
        assert process.stderr is not None
        for line in process.stderr:
            if "artifact: lora, round 1" in line:
                break
        proxy.rule = lambda method, path: "404"
        output = "".join(process.communicate(timeout=170))
    assert process.returncode == 1, output
    report = read_report((tmp_path / "report.json").read_text(), what="the report")
    problems = {tier.tier: tier.problem for tier in report.tiers if tier.problem}
    assert list(problems) == ["artifact"], output
    assert report.complete
    assert {cell.shape for cell in report.cells if cell.tier == "cluster"} == {"lora", "lightgbm"}
    assert "left something behind" in output, "what a broken store keeps is said"
    assert list((tmp_path / "cluster").iterdir()) == []
