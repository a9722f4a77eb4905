"""What checkpoints of a large job cost, by calculation: pure functions of a site's limits and a job's shape.

Each resource that a transfer needs is given the time that it alone would take; the slowest bounds the transfer (the
roofline argument: Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009). By Little's law a number of connections
moves at most ``connections * part / (round_trip + part / rate)`` bytes a second.

S3's limits per prefix, 3,500 writes and 5,500 reads a second: AWS, "Best practices design patterns: optimizing Amazon
S3 performance".

Where the store takes the processor of its client (on one machine, in a laboratory), its rate of requests was measured
with the processor busy: what the client does beside its requests then comes on top of them, not at the same time.

The best interval between checkpoints: Young, "A first order approximation to the optimum checkpoint interval", CACM
17(9), 1974; Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", FGCS 22(3), 2006,
equation 37.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ray_anystorage.transfer.files import part_bytes

S3_WRITES, S3_READS = 3_500.0, 5_500.0  # requests per second and prefix
# Small requests beside the data. A rank asks, marks and looks at once, and sends its manifest; then the controller
# lists, reads the manifests, lists again and writes the record. Who restores lists, reads record and manifests.
_SAVE_ROUNDS, _SAVE_REQUESTS = 6, 4
_RESTORE_ROUNDS = _RESTORE_REQUESTS = 3
_MOST_PARTS = 10_000


@dataclass(frozen=True, slots=True)
class Site:
    """The limits of a cluster and its store; bytes, seconds, and bytes per second. ``None`` is no limit.

    Attributes
    ----------
    nodes
        That take part.
    link
        Of one node to the store, each direction.
    connections, connection_rate
        What one node opens, and what one of them carries.
    round_trip
        Of a small request.
    store_limit
        Of the store for the whole cluster, each direction.
    prefixes
        Over which the store spreads its limits of requests.
    writes, reads
        Requests per second and prefix.
    disk_read, disk_write
        Of a node's local disk.
    cpu_per_byte, cpu_per_file, cores
        Seconds of the client, beside those of a request, and how many cores it may use.
    shared_cores
        Whether the store's requests took the client's cores when their rate was measured.
    """

    nodes: int = 1
    link: float | None = 25e9 / 8
    connections: int = 64
    connection_rate: float | None = 90e6
    round_trip: float = 0.02
    store_limit: float | None = None
    prefixes: int = 1
    writes: float | None = S3_WRITES
    reads: float | None = S3_READS
    disk_read: float | None = None
    disk_write: float | None = None
    cpu_per_byte: float = 0.0
    cpu_per_file: float = 0.0
    cores: float = 1.0
    shared_cores: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """A job's checkpoints.

    Attributes
    ----------
    checkpoint
        Bytes of one, over all nodes.
    files
        Of one node.
    interval
        Seconds between two.
    staged
        Whether saving copies to the local disk first (``anystorage.report`` across file systems), where a rename would
        not do.
    shared
        Whether every node restores all of the checkpoint rather than its own share.
    mtbf
        Mean seconds between failures of one node; ``None`` where none fails.
    restart
        Seconds from a failure until the restore begins.
    """

    checkpoint: int
    files: int = 8
    interval: float = 1800.0
    staged: bool = False
    shared: bool = False
    mtbf: float | None = None
    restart: float = 120.0


@dataclass(frozen=True, slots=True)
class Transfer:
    """A save or a restore of one checkpoint by all nodes.

    Attributes
    ----------
    seconds
        From its beginning until it is durable, or there.
    bound
        The resource that takes longest.
    shares
        Seconds that each resource alone would take, the longest first.
    requests
        To the store.
    """

    seconds: float
    bound: str
    shares: tuple[tuple[str, float], ...]
    requests: int

    @property
    def least(self) -> float:
        """Seconds that no transfer can be quicker than: those of the resource that takes longest."""
        return self.shares[0][1]

    @property
    def request_rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a job's checkpoints cost it.

    Attributes
    ----------
    save, restore
        Of one checkpoint.
    stall, stall_without_wait
        Seconds that training stands still for one: with ``ray.train.report``, and with ``anystorage.report``.
    lost, lost_without_wait
        Share of the job's time that checkpoints and failures take, at the job's interval; over 1 it makes no progress.
    best_interval, best_interval_without_wait
        Seconds between checkpoints that lose least; ``None`` where nothing fails.
    lost_at_best, lost_at_best_without_wait
        The same share there.
    """

    save: Transfer
    restore: Transfer
    stall: float
    stall_without_wait: float
    lost: float
    lost_without_wait: float
    best_interval: float | None
    best_interval_without_wait: float | None
    lost_at_best: float | None
    lost_at_best_without_wait: float | None


def forecast(site: Site, job: Job) -> Forecast:
    """All of it."""
    saving, restoring = save(site, job), restore(site, job)
    stall = saving.seconds
    staging = _over(job.checkpoint / site.nodes, site.disk_write) if job.staged else 0.0
    # A save that is not done when the next is due holds that one up.
    quick = staging + max(0.0, saving.seconds - job.interval)
    again = restoring.seconds + job.restart
    failures = site.nodes / job.mtbf if job.mtbf else 0.0  # per second
    best = best_interval(stall, 1 / failures) if failures else None
    # What is on its way when a node fails is lost, too; and no save can begin before the last has ended.
    best_quick = max(best_interval(staging, 1 / failures), saving.seconds) if failures else None
    return Forecast(
        save=saving,
        restore=restoring,
        stall=stall,
        stall_without_wait=quick,
        lost=lost_share(job.interval, stall, failures, again),
        lost_without_wait=lost_share(job.interval, quick, failures, again + saving.seconds),
        best_interval=best,
        best_interval_without_wait=best_quick,
        lost_at_best=None if best is None else lost_share(best, stall, failures, again),
        lost_at_best_without_wait=(
            None if best_quick is None else lost_share(best_quick, staging, failures, again + saving.seconds)
        ),
    )


def save(site: Site, job: Job) -> Transfer:
    """One checkpoint, each node its share."""
    size = job.checkpoint / site.nodes
    parts, opened = _parts(size, job)
    # A file of several parts takes two requests more, to open and to complete its upload.
    requests = site.nodes * (parts + 2 * opened + _SAVE_REQUESTS)
    return _transfer(site, size, job.checkpoint, parts, requests, site.writes, site.disk_read, _SAVE_ROUNDS)


def restore(site: Site, job: Job) -> Transfer:
    """One checkpoint by all nodes at once: each its share, or each all of it."""
    size = job.checkpoint / (1 if job.shared else site.nodes)
    parts, _ = _parts(size, job)
    requests = site.nodes * (parts + _RESTORE_REQUESTS)
    return _transfer(site, size, size * site.nodes, parts, requests, site.reads, site.disk_write, _RESTORE_ROUNDS)


def of_files(site: Site, sizes: Sequence[int], *, reading: bool, in_parts: bool, together: int = 1) -> Transfer:
    """Files of each node, saved or restored by ``together`` nodes at once.

    Parameters
    ----------
    sizes
        Bytes of each file of one node.
    in_parts
        Whether a large file is moved by several requests, as in a bucket; else each is one stream, as on a mount.
    """
    parts = [max(1, math.ceil(size / part_bytes(size, _MOST_PARTS))) if in_parts else 1 for size in sizes]
    opened = 0 if reading else 2 * sum(count > 1 for count in parts)
    own = _RESTORE_REQUESTS if reading else _SAVE_REQUESTS
    requests = together * (sum(parts) + opened + own)
    rate, rounds = (site.reads, _RESTORE_ROUNDS) if reading else (site.writes, _SAVE_ROUNDS)
    return _transfer(site, sum(sizes), sum(sizes) * together, sum(parts), requests, rate, None, rounds)


def best_interval(stall: float, mtbf: float) -> float:
    """Seconds of work between checkpoints that lose least (Daly 2006, equation 37); ``mtbf`` is the whole job's."""
    if stall >= 2 * mtbf:
        return mtbf
    ratio = stall / (2 * mtbf)
    return math.sqrt(2 * stall * mtbf) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - stall


def lost_share(interval: float, stall: float, failures: float, again: float) -> float:
    """Share of the time that is no progress (Young 1974): stalls, and for each failure half an interval and a restart.

    Parameters
    ----------
    interval
        Seconds of work between two checkpoints.
    stall
        Seconds that one takes from it.
    failures
        Per second.
    again
        Seconds until a restarted job is where the checkpoint was taken.
    """
    return stall / (interval + stall) + failures * (interval / 2 + again)


def _parts(size: float, job: Job) -> tuple[int, int]:
    """Parts of one node, and how many of its files have several."""
    each = size / job.files
    parts = max(1, math.ceil(each / part_bytes(math.ceil(each), _MOST_PARTS)))
    return job.files * parts, job.files if parts > 1 else 0


def _transfer(
    site: Site,
    size: float,
    total: float,
    parts: int,
    requests: int,
    rate: float | None,
    disk: float | None,
    rounds: int,
) -> Transfer:
    """``size`` and ``parts`` of one node, ``total`` and ``requests`` of all; ``rounds`` come before and after."""
    used = min(site.connections, parts)
    seconds = {
        "the link of a node": _over(size, site.link),
        # Each takes its parts one after the other: a round trip, then the bytes.
        "connections": math.ceil(parts / used) * (site.round_trip + _over(size / parts, site.connection_rate)),
        "the store": _over(total, site.store_limit),
        "requests per prefix": _over(requests, rate and rate * site.prefixes),
        "the local disk": _over(size, disk),
        "CPU": size * site.cpu_per_byte / site.cores,
    }
    ranked = sorted(seconds.items(), key=lambda item: -item[1])
    bound, least = ranked[0]
    files = parts * site.cpu_per_file / site.cores
    # Not in the shares: what this package takes itself is no limit for it to be measured by.
    moved = least + files if site.shared_cores else max(least, seconds["CPU"] + files)
    return Transfer(moved + rounds * site.round_trip, bound, tuple(ranked), requests)


def _over(amount: float, rate: float | None) -> float:
    return amount / rate if rate else 0.0
