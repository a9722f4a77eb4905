"""``ray-anystorage bench``: measures storage as training uses it, on the cluster where it is started."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ray_anystorage.cli.bench_compare import compare
from ray_anystorage.cli.bench_simulate import simulate
from ray_anystorage.cli.failure import FAILED, failures_shown
from ray_anystorage.environment import TIERS

if TYPE_CHECKING:
    from ray_anystorage.bench.results import BenchReport
    from ray_anystorage.bench.wanted import Wanted

_INTERRUPTED = 130  # as a shell has it


@click.group(invoke_without_command=True, short_help="What storage can do for a job's checkpoints.")
@click.option("--budget", metavar="TIME", default="5m", show_default=True, help="That it may take, about.")
@click.option("--max-bytes", metavar="SIZE", default="20GiB", show_default=True, help="That it may write to the tiers.")
@click.option("--tier", "tiers", type=click.Choice(TIERS), multiple=True, help="Only this one; may be repeated.")
@click.option("--shape", "shapes", metavar="NAME", multiple=True, help="Only this one; may be repeated.")
@click.option("--rounds", type=click.IntRange(min=3), default=5, show_default=True, help="Of each, if there is time.")
@click.option("--like", type=click.Path(exists=True, dir_okay=False), help="Checkpoints of the sizes of this report.")
@click.option("--stock/--no-stock", default=True, show_default=True, help="Measure Ray's own path beside ours.")
@click.option("--output", metavar="PATH", help="Begins the names of the report's files.  [default: anystorage-bench-…]")
@click.option("--apply", "settings", metavar="FILE", help="Write the proposed settings there, as lines NAME=VALUE.")
@click.option("--artifact-storage", metavar="URI", help="The bucket folder, where the environment names another.")
@click.option("--credentials", metavar="MODE", help="For the bucket: auto, ambient, reference, broker or env.")
@click.option("--dry-run", is_flag=True, help="Say what it would write and cost, and end.")
@click.pass_context
def bench(context: click.Context, /, **said: Any) -> None:
    """Measure storage as training uses it: what each tier gives each node at most, then saves and restores of
    checkpoints like those of real jobs, by this package and by Ray's own path, on one node and on all of them.

    Run it where the cluster is: ray job submit -- ray-anystorage bench, on any node of it, or on one machine. It writes
    to a folder of its own in each tier, never fills a disk over 90 %, and removes what it wrote, also on Ctrl-C. The
    report is a table, a JSON file and a page that opens in any browser.

    Shapes: dense-7b, fsdp-7b, lora, lightgbm, small-files; made smaller until they fit the time, bytes and room.

    \b
    Exit codes:
      0    every tier that is there was measured
      1    one failed, something could not be removed, or no cluster can be reached
      2    an argument or a setting cannot be meant
      130  it was interrupted; the report has what was measured
    """
    if context.invoked_subcommand is not None:
        return
    from ray_anystorage.cli.bench_table import show_outlook

    with failures_shown():
        wanted = _wanted(said)
        show_outlook(wanted)
        if said["dry_run"]:
            return
        _check_writable(said)
        report, interrupted = _run(wanted, said)
        _write(report, said)
    if interrupted:
        raise SystemExit(_INTERRUPTED)
    raise SystemExit(FAILED if report.left or any(tier.problem for tier in report.tiers) else 0)


bench.add_command(simulate)
bench.add_command(compare)


def _wanted(said: dict[str, Any]) -> Wanted:
    from ray_anystorage.bench.shapes import shapes_of
    from ray_anystorage.bench.wanted import Wanted
    from ray_anystorage.settings import read_settings
    from ray_anystorage.units import parse_seconds, parse_size

    return Wanted(
        seconds=parse_seconds(said["budget"], what="--budget"),
        bytes=parse_size(said["max_bytes"], what="--max-bytes"),
        rounds=said["rounds"],
        tiers=said["tiers"],
        shapes=shapes_of(said["shapes"]),
        stock=said["stock"],
        like=_sizes_of(said["like"]) if said["like"] else {},
        settings=read_settings(),
    )


def _sizes_of(path: str) -> dict[tuple[str, str], int]:
    """Bytes of a report's checkpoints, by tier and shape."""
    from ray_anystorage.bench.results import read_report

    report = read_report(Path(path).read_text(encoding="utf-8"), what=path)
    return {(cell.tier, cell.shape): cell.bytes for cell in report.cells if cell.operation == "save"}


def _run(wanted: Wanted, said: dict[str, Any]) -> tuple[BenchReport, bool]:
    from ray_anystorage.bench.driver.run import cluster, interruptible, run
    from ray_anystorage.cli.bench_progress import progress

    with progress() as watcher, cluster(watcher.tell), interruptible():
        return run(wanted, watcher, credentials=said["credentials"], artifact_storage=said["artifact_storage"])


def _files(report_started: str, said: dict[str, Any]) -> dict[str, Path]:
    """Where the report goes."""
    begin = said["output"] or f"anystorage-bench-{report_started[:19].replace(':', '')}"
    files = {"json": Path(f"{begin}.json"), "html": Path(f"{begin}.html")}
    return files | ({"settings": Path(said["settings"])} if said["settings"] else {})


def _check_writable(said: dict[str, Any]) -> None:
    """Raise before anything is measured where the report could not be kept."""
    from ray_anystorage.errors import RequestError

    for path in _files("", said).values():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise RequestError(f"the report cannot be written to {path.parent or '.'}: {error}") from error


def _write(report: BenchReport, said: dict[str, Any]) -> None:
    """Keep the report, then show it."""
    from ray_anystorage.bench.advise import env_file
    from ray_anystorage.bench.driver.run import undisturbed
    from ray_anystorage.bench.report.page import page
    from ray_anystorage.cli.bench_table import show_bench

    made = {"json": report.to_json(), "html": page(report), "settings": env_file(report.proposals)}
    files = _files(report.started, said)
    with undisturbed():
        for kind, path in files.items():
            path.write_text(made[kind], encoding="utf-8")
    show_bench(report)
    for path in files.values():
        click.echo(f"written: {path}")
