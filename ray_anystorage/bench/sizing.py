"""How large a benchmark's checkpoints can be, within the time, bytes and room that there are: pure functions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ray_anystorage.bench.judge import Limits
from ray_anystorage.bench.shapes import Shape, scaled

_SOURCE_RATE = 4e8  # bytes per second at which a checkpoint's content is made
_LOCAL_RATE = 1e9  # at which what is in memory or in the cache is read
_COPIES_ON_DISK = 3  # of a checkpoint on a node's own disk: the source, the cache, what Ray's own path fetched
_COPIES_THERE = 2  # in the tier: by both paths
_STOCK_THREADS = 8  # files at once that pyarrow fetches
_MUCH_SMALLER = 10
_STEPS = 28  # down to a hundred-thousandth
_FILE = 1e-3  # seconds that Python takes for a file that is made, saved, linked, verified and removed
_CALLS = 0.01  # seconds of one call on a node
_CALLS_OF_A_ROUND = 16


@dataclass(frozen=True, slots=True)
class Means:
    """What there is for one shape in one tier.

    Attributes
    ----------
    seconds
        Until it should be done.
    bytes
        That may be written to the tier.
    room
        Bytes that the tier, where it is a disk, takes before it is fuller than it may be; ``None`` for a bucket.
    local_room
        The same of the node's own disk that has least.
    same_disk
        Whether both are one disk.
    rounds
        That are to be made.
    nodes
        That take part.
    stock
        Whether Ray's own path is measured beside ours.
    """

    seconds: float
    bytes: int
    room: int | None
    local_room: int
    same_disk: bool
    rounds: int
    nodes: int
    stock: bool


@dataclass(frozen=True, slots=True)
class Sized:
    """A shape that fits, and whether Ray's own path fits with it.

    Attributes
    ----------
    seconds
        That all rounds should take.
    stock_seconds
        That Ray's own path should take for one save.
    """

    shape: Shape
    seconds: float
    stock: bool
    stock_seconds: float


def fit(shape: Shape, limits: Limits, means: Means, *, exactly: int | None = None) -> Sized | None:
    """The largest form of a shape that fits; ``None`` where none does.

    Parameters
    ----------
    exactly
        Bytes that it is to have, whatever time it takes; ``None`` where there is no room for them.
    """
    if exactly is not None:
        sized = _sized(scaled(shape, exactly), limits, means, stock=means.stock)
        return sized if _has_room(sized.shape, replace(means, bytes=1 << 62), stock=means.stock) else None
    alone = _largest(shape, limits, means, stock=False)
    both = _largest(shape, limits, means, stock=True) if means.stock else None
    if both is None or alone is None:
        return both or alone
    # Ray's own path may take so long that hardly anything would be left of the shape.
    return both if both.shape.bytes >= alone.shape.bytes / _MUCH_SMALLER else alone


def _largest(shape: Shape, limits: Limits, means: Means, *, stock: bool) -> Sized | None:
    most = shape.bytes
    for _ in range(_STEPS):
        sized = _sized(scaled(shape, most), limits, means, stock=stock)
        if _has_room(sized.shape, means, stock=stock) and sized.seconds <= means.seconds:
            return sized
        most = most * 2 // 3
    return None


def part_of(shape: Shape, nodes: int) -> Shape:
    """One node's share of a checkpoint that all nodes save together."""
    return scaled(shape, max(1, shape.bytes // nodes))


def round_bytes(shape: Shape, nodes: int, *, stock: bool) -> int:
    """Bytes that one round writes to a tier: by one node, and by all of them where there are several."""
    together = part_of(shape, nodes).bytes * nodes if nodes > 1 else 0
    return (shape.bytes + together) * (2 if stock else 1)


def _has_room(shape: Shape, means: Means, *, stock: bool) -> bool:
    written = (means.rounds + 1) * round_bytes(shape, means.nodes, stock=stock)
    whole = max(shape.bytes, part_of(shape, means.nodes).bytes * means.nodes)
    there, own = whole * (_COPIES_THERE if stock else 1), whole * _COPIES_ON_DISK
    if means.same_disk:
        there = own = there + own
    return written <= means.bytes and own <= means.local_room and (means.room is None or there <= means.room)


def _sized(shape: Shape, limits: Limits, means: Means, *, stock: bool) -> Sized:
    sizes = [size for _, size in shape.files]
    save = limits.transfer(sizes, reading=False).seconds
    restore = limits.transfer(sizes, reading=True).seconds
    stock_save = _stock_save(sizes, limits)
    ours = shape.bytes / _SOURCE_RATE + save + restore + 2 * shape.bytes / _LOCAL_RATE
    ours += _FILE * len(sizes) * (2 if means.nodes > 1 else 1)
    if means.nodes > 1:
        ours += save + limits.transfer(sizes, reading=True, nodes=means.nodes).seconds + shape.bytes / _SOURCE_RATE
    theirs = (stock_save + _stock_restore(sizes, limits)) * (2 if means.nodes > 1 else 1) if stock else 0.0
    warm_up = 2 * limits.transfer([1 << 20], reading=False).seconds * (2 if means.nodes > 1 else 1)
    seconds = warm_up + means.rounds * (ours + theirs + _CALLS * _CALLS_OF_A_ROUND)
    return Sized(shape, seconds, stock, stock_save)


def _stock_restore(sizes: list[int], limits: Limits) -> float:
    """pyarrow fetches some files at once, each over one connection."""
    if not limits.is_bucket:
        return limits.transfer(sizes, reading=True).seconds
    trip, at_once = limits.tier.latency["get 4 KiB"]["p50"], min(len(sizes), _STOCK_THREADS)
    return (3 * trip * len(sizes) + sum(sizes) / limits.tier.read.one) / at_once


def _stock_save(sizes: list[int], limits: Limits) -> float:
    """pyarrow sends one file after the other to S3, three requests for each."""
    if not limits.is_bucket:
        return limits.transfer(sizes, reading=False).seconds
    trip = limits.tier.latency["put 4 KiB"]["p50"]
    return 3 * trip * len(sizes) + sum(sizes) / limits.tier.write.one / 2
