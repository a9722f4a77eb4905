"""``ray-anystorage bench``: measures storage as training uses it, on the cluster where it is started."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
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
      1    one failed, or no cluster can be reached
      2    an argument or a setting cannot be meant
      130  it was interrupted; the report has what was measured
    """
    if context.invoked_subcommand is not None:
        return
    from ray_anystorage.cli.bench_table import show_outlook

    with failures_shown(), _terminated_like_interrupted():
        wanted = _wanted(said)
        show_outlook(wanted)
        if said["dry_run"]:
            return
        report, interrupted = _run(wanted, said)
        _write(report, said)
    if interrupted:
        raise SystemExit(_INTERRUPTED)
    raise SystemExit(FAILED if any(tier.problem for tier in report.tiers) else 0)


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
        threshold=read_settings().threshold,
    )


def _run(wanted: Wanted, said: dict[str, Any]) -> tuple[BenchReport, bool]:
    from ray_anystorage.bench.driver.run import cluster, run
    from ray_anystorage.cli.bench_progress import progress

    with progress() as watcher, cluster(watcher.tell):
        return run(wanted, watcher, credentials=said["credentials"], artifact_storage=said["artifact_storage"])


def _write(report: BenchReport, said: dict[str, Any]) -> None:
    """Show the report and keep it."""
    from ray_anystorage.bench.advise import env_file
    from ray_anystorage.bench.report.page import page
    from ray_anystorage.cli.bench_table import show_bench

    show_bench(report)
    begin = said["output"] or f"anystorage-bench-{report.started[:19].replace(':', '')}"
    files = {f"{begin}.json": report.to_json(), f"{begin}.html": page(report)}
    if said["settings"]:
        files[said["settings"]] = env_file(report.proposals)
    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        click.echo(f"written: {path}")


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Have SIGTERM, which ends a job of Ray's, do what Ctrl-C does: what was written is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
