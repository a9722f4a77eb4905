"""Settings for a cluster, from what was measured on it: pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ray_anystorage.bench.results import Cell, Proposal, TierFound
from ray_anystorage.environment import NFS_TIERS
from ray_anystorage.settings import DEFAULT_THRESHOLD, PREFIX, Settings
from ray_anystorage.units import format_seconds, format_size

_LEAST_THRESHOLD = 64 * 10**6  # what is smaller costs a mount little, and is read there with no copy
_QUICKER = 1.2  # times as fast, so that it is worth a second place
_TIMES = 10.0  # as long as the slowest in a hundred operations took
_TEN_MB = 10**7


def proposals(tiers: Sequence[TierFound], cells: Sequence[Cell], now: Settings) -> tuple[Proposal, ...]:
    """Settings that differ from what is set.

    Parameters
    ----------
    now
        What is set.
    """
    return (*_threshold(tiers, cells, now.threshold), *_timeouts(tiers, now))


def _threshold(tiers: Sequence[TierFound], cells: Sequence[Cell], now: int) -> Iterator[Proposal]:
    """The size from which on the bucket takes a checkpoint sooner than the mount.

    Each takes some time for the first byte and then goes at its rate; there the two lines cross.
    """
    lines = {tier.tier: line for tier in tiers if (line := _line(tier, cells)) is not None}
    mount = next((tier for tier in NFS_TIERS if tier in lines), None)
    if mount is None or "artifact" not in lines:
        return
    (late_there, there), (late, rate) = lines["artifact"], lines[mount]
    if there < rate * _QUICKER:
        return
    crossing = (late_there - late) / (1 / rate - 1 / there)
    size = round(min(DEFAULT_THRESHOLD, max(_LEAST_THRESHOLD, crossing)) / _TEN_MB) * _TEN_MB
    if size != now:
        yield Proposal(
            f"{PREFIX}THRESHOLD",
            format_size(size).replace(" ", ""),
            f"the bucket takes {format_size(int(there))}/s and {mount} storage {format_size(int(rate))}/s: "
            "what is larger is sooner done there",
        )


def _line(tier: TierFound, cells: Sequence[Cell]) -> tuple[float, float] | None:
    """Seconds before and after the data, and bytes per second of all nodes: the rate is what the tier takes at most."""
    saves = [
        c for c in cells if c.tier == tier.tier and c.path == "anystorage" and c.operation == "save" and c.files <= _FEW
    ]
    if not saves or not tier.limits:
        return None
    rate = next(iter(tier.limits.values())).write.best.rate
    late = min(max(0.0, cell.seconds.mean - cell.bytes / rate) for cell in saves)
    return late, tier.together.write if tier.together is not None else rate


_FEW = 100  # files, whose number is not what takes the time


def _timeouts(tiers: Sequence[TierFound], now: Settings) -> Iterator[Proposal]:
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
    for name, limit in (("PROBE_TIMEOUT", now.probe_timeout), ("CALL_TIMEOUT", now.call_timeout)):
        if slowest * _TIMES > limit:
            why = f"one operation in a hundred takes {format_seconds(slowest)} on a mount"
            yield Proposal(f"{PREFIX}{name}", f"{slowest * _TIMES:.0f}", why)


def env_file(made: Sequence[Proposal]) -> str:
    """The settings as lines that a shell and Docker read, each with its reason above it."""
    lines = [f"# {proposal.why}\n{proposal.name}={proposal.value}" for proposal in made]
    return "\n".join(("# Proposed by ray-anystorage bench", *(lines or ["# nothing: what is set fits"]), ""))
