"""What a transfer could have been, by the limits that were measured beside it: pure functions.

The limit of a transfer is the time that its slowest resource takes alone (:mod:`.model`); its share of the limit is
that time by the measured one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ray_anystorage.bench.limits import Direction, NodeLimits, TierLimits, Together
from ray_anystorage.bench.model import Site, Transfer, of_files

_BUSY = 0.8  # share of the cores from which on the processor counts as what bounds it
_NEAR = 0.7  # share of the limit from which on its resource does
BUCKET_CONNECTIONS, MOUNT_FILES = 64, 4  # that the engine uses at most on one node
_LARGEST_PART = 8 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Everything that was measured of one tier.

    Attributes
    ----------
    node, tier
        Of one node that has it to itself.
    sharing
        Nodes that are on the same machine, and share its cores when all do the same at once.
    is_bucket
        Or else a mount.
    together
        What all nodes get at once; ``None`` where there is one.
    """

    node: NodeLimits
    tier: TierLimits
    is_bucket: bool
    together: Together | None = None
    sharing: int = 1

    def cores(self, nodes: int) -> float:
        """Of a node, where so many are at work."""
        return self.node.cores / min(nodes, self.sharing)

    def transfer(self, sizes: Sequence[int], *, reading: bool, nodes: int = 1) -> Transfer:
        """What a node's files would take, saved or restored by so many nodes at once."""
        direction = self.tier.read if reading else self.tier.write
        together = self.together if nodes > 1 else None
        return of_files(
            self._site(direction, together, nodes, reading=reading),
            sizes,
            reading=reading,
            in_parts=self.is_bucket,
            together=nodes,
        )

    def _site(self, direction: Direction, together: Together | None, nodes: int, *, reading: bool) -> Site:
        round_trip, store, objects = self._round_trip(reading=reading), None, direction.objects * nodes
        if together is not None:
            store = together.read if reading else together.write
            objects = together.small_reads if reading else together.small_writes
        return Site(
            nodes=nodes,
            link=direction.best.rate,
            connections=BUCKET_CONNECTIONS if self.is_bucket else MOUNT_FILES,
            connection_rate=self._connection_rate(direction, round_trip),
            round_trip=round_trip,
            store_limit=store,
            writes=objects,
            reads=objects,
            cpu_per_byte=1 / self.node.hashing,
            cpu_per_file=self.node.file_restore if reading else self.node.file_save,
            cores=self.cores(nodes),
            shared_cores=direction.objects_busy >= _BUSY,
        )

    def _round_trip(self, *, reading: bool) -> float:
        names = ("get 4 KiB", "read 4 KiB") if reading else ("put 4 KiB", "create and sync 4 KiB")
        return next(self.tier.latency[name]["p50"] for name in names if name in self.tier.latency)

    def _connection_rate(self, direction: Direction, round_trip: float) -> float | None:
        """Bytes per second of one connection while they flow: the time of a large object less that of a small one."""
        if not self.is_bucket:
            return direction.one
        flowing = self.tier.object_bytes / direction.one - round_trip
        return self.tier.object_bytes / flowing if flowing > 0 else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """How good a measured time is, and why it is not less.

    Attributes
    ----------
    share
        Of the limit, 1 where it is reached; noise may lift it above.
    bound
        The resource that takes longest by the limits; ``"CPU"`` where the cores were busy.
    why
        In a phrase.
    advice
        What would change it; empty where nothing does.
    """

    share: float
    bound: str
    why: str
    advice: str


def judge(transfer: Transfer, seconds: float, cpu: float, cores: float) -> Verdict:
    """Weigh a measured time.

    Parameters
    ----------
    transfer
        What the limits allow.
    seconds
        That it took.
    cpu
        Seconds of CPU that one node spent.
    cores
        Of one node.
    """
    share, busy = transfer.least / seconds, cpu / (seconds * cores)
    if share >= _NEAR:
        return Verdict(
            share, transfer.bound, f"{share:.0%} of what {_NAMES[transfer.bound]} allows", _ADVICE[transfer.bound]
        )
    if busy >= _BUSY:
        return Verdict(share, "CPU", f"{busy:.0%} of {cores:g} cores were busy", _ADVICE["CPU"])
    fixed = (transfer.seconds - transfer.least) / seconds
    if fixed >= 1 - _NEAR:
        why = f"{fixed:.0%} of the time are the round trips before and after the data"
        return Verdict(share, "round trips", why, _ADVICE["round trips"])
    why = f"{share:.0%} of what {_NAMES[transfer.bound]} allows, with {busy:.0%} of {cores:g} cores busy"
    return Verdict(share, transfer.bound, why, "")


_NAMES = {
    "the link of a node": "the link of a node to this tier",
    "connections": "a connection",
    "the store": "this tier, for all nodes at once,",
    "requests per prefix": "the rate of small objects",
    "the local disk": "the local disk",
    "CPU": "hashing",
}
_ADVICE = {
    "the link of a node": "a tier with a wider link, or nodes with one; smaller checkpoints, less often",
    "connections": "fewer, larger files, so that more of them are on their way at once; a store that is nearer",
    "the store": "a tier that takes more from all nodes at once; or let fewer nodes save at the same time",
    "requests per prefix": "fewer, larger files: pack small ones into an archive",
    "the local disk": "a faster local disk for RAY_ANYSTORAGE_LOCAL_STORAGE",
    "CPU": "more cores for the workers' nodes, or fewer bytes",
    "round trips": "nothing for so little data: a larger checkpoint makes better use of this tier",
}
