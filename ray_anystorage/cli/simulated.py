"""A forecast in words."""

from __future__ import annotations

from collections.abc import Iterator

from ray_anystorage.bench.model import Forecast, Job, Site, Transfer
from ray_anystorage.units import format_seconds, format_size

_SHOWN = 3  # resources, the slowest first


def forecast_text(site: Site, job: Job, made: Forecast) -> str:
    """What it says, for a person."""
    nodes = "1 node" if site.nodes == 1 else f"{site.nodes:,} nodes"
    return "\n".join(
        (
            f"A checkpoint of {format_size(job.checkpoint)} by {nodes}, every {format_seconds(job.interval)}",
            *_transfer("Save", made.save, job.checkpoint),
            *_transfer("Restore", made.restore, job.checkpoint * (site.nodes if job.shared else 1)),
            "Training stands still for each:",
            f"  - {format_seconds(made.stall)} with ray.train.report",
            f"  - {_wait(made.stall_without_wait)} with anystorage.report",
            "Of the job's time is lost:",
            f"  - {_share(made.lost)} with ray.train.report{_best(made.best_interval, made.lost_at_best)}",
            f"  - {_share(made.lost_without_wait)} with anystorage.report"
            f"{_best(made.best_interval_without_wait, made.lost_at_best_without_wait)}",
            *(() if job.mtbf else ("  - failures are not counted: say --mtbf",)),
        )
    )


def _transfer(name: str, transfer: Transfer, total: int) -> Iterator[str]:
    rate = format_size(round(total / transfer.seconds))
    yield f"{name}: {format_seconds(transfer.seconds)}, {rate}/s over all nodes, bound by {transfer.bound}:"
    for resource, seconds in transfer.shares[:_SHOWN]:
        if seconds:
            yield f"  - {resource} alone: {format_seconds(seconds)}"
    yield f"  - {transfer.requests:,} requests, {transfer.request_rate:,.0f} a second"


def _wait(seconds: float) -> str:
    return format_seconds(seconds) if seconds else "nothing to speak of"


def _share(share: float) -> str:
    return "all: it never gets ahead" if share >= 1 else f"{share:.2%}"


def _best(interval: float | None, lost: float | None) -> str:
    if interval is None or lost is None:
        return ""
    return f"; least, {_share(lost)}, with one every {format_seconds(interval)}"
