"""``ray-anystorage bench simulate``: what checkpoints would cost on a cluster that is not here."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ray_anystorage.cli.failure import failures_shown, write_json

if TYPE_CHECKING:
    from ray_anystorage.bench.model import Forecast, Job, Site


@click.command(short_help="Calculate it for a cluster that is not here.")
@click.option("--nodes", type=click.IntRange(min=1), required=True, help="That save and restore together.")
@click.option("--checkpoint", metavar="SIZE", required=True, help="Of one checkpoint over all nodes: 2TiB.")
@click.option("--interval", metavar="TIME", default="30m", show_default=True, help="Between two checkpoints.")
@click.option("--files", type=click.IntRange(min=1), default=8, show_default=True, help="Of one node's share.")
@click.option("--link", metavar="RATE", default="3.125GB", show_default=True, help="Of a node, in bytes per second.")
@click.option("--connections", type=click.IntRange(min=1), default=64, show_default=True, help="Of a node.")
@click.option("--connection-rate", metavar="RATE", default="90MB", show_default=True, help="Of one connection.")
@click.option("--round-trip", metavar="TIME", default="20ms", show_default=True, help="Of a small request.")
@click.option("--store-limit", metavar="RATE", help="Of the store for all nodes; none unless said.")
@click.option("--prefixes", type=click.IntRange(min=1), default=1, show_default=True, help="That share the requests.")
@click.option("--disk-read", metavar="RATE", help="Of a node's local disk; no limit unless said.")
@click.option("--disk-write", metavar="RATE", help="Of a node's local disk; no limit unless said.")
@click.option("--cpu-per-gib", metavar="TIME", help="Of the client for each GiB; none unless said.")
@click.option("--cpu-per-file", metavar="TIME", help="Of the client for each small file or part; none unless said.")
@click.option("--cores", type=click.FloatRange(min=0.1), default=4.0, show_default=True, help="For the client.")
@click.option("--mtbf", metavar="TIME", help="Mean time between failures of one node: 5y. None fails unless said.")
@click.option("--restart", metavar="TIME", default="2m", show_default=True, help="From a failure to the restore.")
@click.option("--staged", is_flag=True, help="Saving copies to the local disk first.")
@click.option("--shared", is_flag=True, help="Every node restores all of it, not its own share.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON, errors included.")
def simulate(as_json: bool, **said: Any) -> None:
    """Calculate what checkpoints would cost a job: the wait for a save, the restore, the requests, the time that is
    lost to both and to failures, and the interval that loses least.

    It is a calculation, with no cluster and no store. Rates are bytes per second ("3.125GB" is a link of 25 Gbit/s).
    Give it what `doctor` or a benchmark measured on a few nodes.

    \b
    Exit codes:
      0  here it is
      2  an argument cannot be meant
    """
    from ray_anystorage.bench.model import forecast

    with failures_shown(as_json=as_json):
        site, job = _site(said), _job(said)
        made = forecast(site, job)
    if as_json:
        write_json({"version": 1, "site": asdict(site), "job": asdict(job), "forecast": _plain(made)})
    else:
        _show(site, job, made)


def _plain(made: Forecast) -> dict[str, Any]:
    values = asdict(made)
    for name, transfer in (("save", made.save), ("restore", made.restore)):
        values[name] |= {"shares": dict(transfer.shares), "request_rate": transfer.request_rate}
    return values


def _site(said: dict[str, Any]) -> Site:
    from ray_anystorage.bench.model import Site
    from ray_anystorage.units import parse_seconds

    cpu = parse_seconds(said["cpu_per_gib"], what="--cpu-per-gib") if said["cpu_per_gib"] else 0.0
    per_file = parse_seconds(said["cpu_per_file"], what="--cpu-per-file") if said["cpu_per_file"] else 0.0
    return Site(
        nodes=said["nodes"],
        link=_rate(said, "link"),
        connections=said["connections"],
        connection_rate=_rate(said, "connection_rate"),
        round_trip=parse_seconds(said["round_trip"], what="--round-trip"),
        store_limit=_rate(said, "store_limit"),
        prefixes=said["prefixes"],
        disk_read=_rate(said, "disk_read"),
        disk_write=_rate(said, "disk_write"),
        cpu_per_byte=cpu / (1 << 30),
        cpu_per_file=per_file,
        cores=said["cores"],
    )


def _job(said: dict[str, Any]) -> Job:
    from ray_anystorage.bench.model import Job
    from ray_anystorage.units import parse_seconds

    return Job(
        checkpoint=_positive(said["checkpoint"], "--checkpoint"),
        files=said["files"],
        interval=parse_seconds(said["interval"], what="--interval"),
        staged=said["staged"],
        shared=said["shared"],
        mtbf=parse_seconds(said["mtbf"], what="--mtbf") if said["mtbf"] else None,
        restart=parse_seconds(said["restart"], what="--restart"),
    )


def _rate(said: dict[str, Any], name: str) -> float | None:
    option = f"--{name.replace('_', '-')}"
    return float(_positive(said[name].removesuffix("/s"), option)) if said[name] else None


def _positive(text: str, option: str) -> int:
    from ray_anystorage.errors import InvalidSizeError
    from ray_anystorage.units import parse_size

    size = parse_size(text, what=option)
    if size == 0:
        raise InvalidSizeError(f"{option}={text!r}: expected more than nothing")
    return size


def _show(site: Site, job: Job, made: Forecast) -> None:
    from ray_anystorage.cli.simulated import forecast_text
    from ray_anystorage.cli.text import console, prose

    console().print(prose(forecast_text(site, job, made)))
