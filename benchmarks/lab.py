"""``ray-anystorage bench`` on several hosts with shaped links: ``python -m benchmarks.lab``. It needs root, ip and tc.

Each host is a set of namespaces of this machine (``tests/harness/hosts.py``) with a Ray node. Its link lets so many
bytes a second through, each way; the store lies behind ``far_store.py``, which adds a round trip and a rate per
connection, and may answer some requests with 503. The report is that of the command; the bytes that passed the proxy
are added.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import click

from benchmarks import far_store, machine
from benchmarks.shapes import FAR
from ray_anystorage.bench.results import read_report
from ray_anystorage.cli.bench_table import show_bench
from ray_anystorage.units import parse_size
from tests.harness import hosts
from tests.harness.faulty_proxy import faulty_proxy, share
from tests.harness.ray_cluster import clean_environment

_RESULTS = Path(__file__).parent / "results"
_PROGRAM = "import sys; from ray_anystorage.cli.main import main; main(sys.argv[1:])"


@click.command(help=__doc__)
@click.option("--hosts", "count", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--link", metavar="RATE", default="25MB", show_default=True, help="Of each host, in bytes per second.")
@click.option("--throttle", type=click.IntRange(0, 90), default=0, show_default=True, help="Of 100, so many get 503.")
@click.option("--budget", default="6m", show_default=True)
@click.option("--disk", metavar="SIZE", default="2g", show_default=True, help="Of each host, in memory, as mount(8).")
@click.option("--shape", "shapes", multiple=True, default=("dense-7b", "small-files"), show_default=True)
@click.option("--rounds", type=click.IntRange(min=3), default=3, show_default=True)
@click.option("--stock/--no-stock", default=True, show_default=True)
@click.option("--results", type=click.Path(file_okay=False, path_type=Path), default=_RESULTS, show_default=True)
def main(
    count: int,
    link: str,
    throttle: int,
    budget: str,
    disk: str,
    shapes: tuple[str, ...],
    rounds: int,
    stock: bool,
    results: Path,
) -> None:
    name = f"{time.strftime('%Y-%m-%d-%H%M%S')}-lab{'-throttled' if throttle else ''}"
    options = [f"--budget={budget}", f"--rounds={rounds}", *(f"--shape={shape}" for shape in shapes)]
    options += [] if stock else ["--no-stock"]
    with hosts.lab(0) as lab, contextlib.ExitStack() as stack:
        target = lab.server.endpoint
        if throttle:
            proxy = stack.enter_context(faulty_proxy(target))
            proxy.rule, target = share(throttle, ("503",)), proxy.endpoint
        store = stack.enter_context(
            far_store.running(target, round_trip=FAR.round_trip, rate=FAR.rate, host=lab.gateway)
        )
        lab.start(*range(1, count + 1), disk=disk)
        for host in lab.hosts.values():
            host.shape(parse_size(link))
        before = store.counts()
        _bench(lab, store, options)
        passed = asdict(store.counts().since(before))
        made = {suffix: lab.hosts[1].files / f"report.{suffix}" for suffix in ("json", "html")}
        said = json.loads(made["json"].read_text())
        said["lab"] = {"machine": machine.describe(None), "hosts": count, "link": link, "throttle": throttle}
        said["lab"] |= {"round_trip": FAR.round_trip, "rate_per_connection": FAR.rate, "passed": passed}
        results.mkdir(parents=True, exist_ok=True)
        (results / f"{name}.json").write_text(json.dumps(said, indent=1))
        shutil.copyfile(made["html"], results / f"{name}.html")
    show_bench(read_report((results / f"{name}.json").read_text(), what=name))
    click.echo(f"figures: {results / name}.json, .html")


def _bench(lab: hosts.Lab, store: far_store.FarStore, options: list[str]) -> None:
    bucket = lab.server.make_bucket()
    env = clean_environment(lab.server.env()) | {
        "RAY_ADDRESS": lab.hosts[1].ray_address,
        "HOME": "/tmp",  # noqa: S108 - the host's own
        "RAY_ANYSTORAGE_ARTIFACT_STORAGE": f"s3://{bucket}/lab",
        "RAY_ANYSTORAGE_ENDPOINT": store.endpoint,
        "RAY_ANYSTORAGE_REGION": lab.server.region,
        "RAY_ANYSTORAGE_CREDENTIALS": "env",
    }
    command = lab.hosts[1].command(
        *(sys.executable, "-c", _PROGRAM, "bench", "--tier=artifact", "--output=/tmp/report"), *options
    )
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
