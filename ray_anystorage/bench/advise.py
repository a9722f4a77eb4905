"""Settings for a cluster, from what was measured on it: pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ray_anystorage.bench.results import Cell, Proposal, TierFound
from ray_anystorage.environment import NFS_TIERS
from ray_anystorage.settings import DEFAULT_CALL_TIMEOUT, DEFAULT_PROBE_TIMEOUT, DEFAULT_THRESHOLD, PREFIX
from ray_anystorage.units import format_seconds, format_size

_LEAST_THRESHOLD = 64 * 10**6  # what is smaller costs a mount little, and is read there with no copy
_QUICKER = 1.2  # times as fast, so that it is worth a second place
_TIMES = 10.0  # as long as the slowest in a hundred operations took
_TEN_MB = 10**7


def proposals(tiers: Sequence[TierFound], cells: Sequence[Cell], threshold: int) -> tuple[Proposal, ...]:
    """Settings that differ from what is set.

    Parameters
    ----------
    threshold
        Bytes, as it is set now.
    """
    return (*_threshold(cells, threshold), *_timeouts(tiers))


def _threshold(cells: Sequence[Cell], now: int) -> Iterator[Proposal]:
    """The size from which on the bucket takes a checkpoint sooner than the mount, by the largest that both saved.

    With a time for the first byte and a rate for the others, from two sizes of each, the lines cross there.
    """
    bucket = _line([cell for cell in _saves(cells) if cell.tier == "artifact"])
    mounts = {tier: line for tier in NFS_TIERS if (line := _line([c for c in _saves(cells) if c.tier == tier]))}
    if bucket is None or not mounts:
        return
    tier, mount = next(iter(mounts.items()))
    if bucket[1] < mount[1] * _QUICKER:
        return
    crossing = (bucket[0] - mount[0]) / (1 / mount[1] - 1 / bucket[1])
    size = int(min(DEFAULT_THRESHOLD, max(_LEAST_THRESHOLD, crossing)))
    size = max(_TEN_MB, round(size / _TEN_MB) * _TEN_MB)
    if size != now:
        yield Proposal(
            f"{PREFIX}THRESHOLD",
            format_size(size).replace(" ", ""),
            f"the bucket took {format_size(int(bucket[1]))}/s and {tier} storage {format_size(int(mount[1]))}/s: from "
            "there on the bucket is sooner done",
        )


def _saves(cells: Sequence[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell.path == "anystorage" and cell.operation == "save"]


def _line(cells: Sequence[Cell]) -> tuple[float, float] | None:
    """Seconds for nothing, and bytes per second, by the smallest and the largest checkpoint of a few files."""
    few = sorted((cell for cell in cells if cell.files <= _FEW), key=lambda cell: cell.bytes)
    if not few:
        return None
    small, large = few[0], few[-1]
    if large.bytes < 2 * small.bytes:
        return 0.0, large.rate
    rate = (large.bytes - small.bytes) / max(1e-9, large.seconds.mean - small.seconds.mean)
    return (max(0.0, small.seconds.mean - small.bytes / rate), rate) if rate > 0 else (0.0, large.rate)


_FEW = 100


def _timeouts(tiers: Sequence[TierFound]) -> Iterator[Proposal]:
    """Time limits for a mount whose slow operations come near those that there are."""
    slowest = max(
        (
            latency["p99"]
            for tier in tiers
            if not tier.is_bucket
            for limits in tier.limits.values()
            for latency in limits.latency.values()
        ),
        default=0.0,
    )
    for name, default in (("PROBE_TIMEOUT", DEFAULT_PROBE_TIMEOUT), ("CALL_TIMEOUT", DEFAULT_CALL_TIMEOUT)):
        if slowest * _TIMES > default:
            why = f"one operation in a hundred takes {format_seconds(slowest)} on a mount"
            yield Proposal(f"{PREFIX}{name}", f"{slowest * _TIMES:.0f}", why)


def env_file(made: Sequence[Proposal]) -> str:
    """The settings as lines that a shell and Docker read, each with its reason above it."""
    lines = [f"# {proposal.why}\n{proposal.name}={proposal.value}" for proposal in made]
    return "\n".join(("# Proposed by ray-anystorage bench", *(lines or ["# nothing: what is set fits"]), ""))
