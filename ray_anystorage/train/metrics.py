"""Events as Ray's metrics, which every node exports to Prometheus.

Names and units follow Prometheus' conventions (prometheus.io/docs/practices/naming): base units, and Ray puts ``ray_``
before them. Every label has a handful of values.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ray.util.metrics import Counter, Histogram

from ray_anystorage import events

_SECONDS = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000]
_STALLS = [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30]
_active: dict[int, Metrics] = {}  # by process: a fork starts anew


@dataclass(slots=True)
class Metrics:
    """The metrics of this process.

    Attributes
    ----------
    tier
        Of the run that this process belongs to.
    """

    tier: str
    transferred: Any
    transfer_seconds: Any
    failed: Any
    retries: Any
    throttles: Any
    saved: Any
    save_seconds: Any
    stall_seconds: Any
    restored: Any
    restore_seconds: Any

    @classmethod
    def of(cls, tier: str) -> Metrics:
        """Register them."""
        by_way = ("tier", "direction", "store")
        return cls(
            tier,
            transferred=Counter("anystorage_transferred_bytes", "Bytes of files moved.", by_way),
            transfer_seconds=Counter("anystorage_transfer_seconds", "Seconds that transfers took.", by_way),
            failed=Counter("anystorage_failed_transfers", "Transfers that ended with an error.", by_way),
            retries=Counter("anystorage_retries", "Requests to a store that were made again.", by_way),
            throttles=Counter("anystorage_throttles", "Times that a store asked for fewer requests.", by_way),
            saved=Counter("anystorage_saved_bytes", "Bytes of checkpoints made durable.", ("tier", "store", "detour")),
            save_seconds=Histogram(
                "anystorage_save_seconds", "Until a rank's part was durable.", _SECONDS, ("tier", "store", "detour")
            ),
            stall_seconds=Histogram(
                "anystorage_stall_seconds", "That training stood still for a report.", _STALLS, ("tier", "copied")
            ),
            restored=Counter("anystorage_restored_bytes", "Bytes of checkpoints opened.", ("tier", "source")),
            restore_seconds=Histogram(
                "anystorage_restore_seconds", "Until a checkpoint could be read.", _SECONDS, ("tier", "source")
            ),
        )

    def heard(self, event: events.Event) -> None:
        """Count an event."""
        if isinstance(event, events.Transferred):
            self._transfer(event)
        elif isinstance(event, events.Saved):
            tags = {"tier": self.tier, "store": event.store, "detour": str(event.detour).lower()}
            self.saved.inc(event.bytes, tags)
            self.save_seconds.observe(event.seconds, tags)
        elif isinstance(event, events.Staged):
            tags = {"tier": self.tier, "copied": str(event.copied).lower()}
            self.stall_seconds.observe(event.seconds, tags)
        else:
            tags = {"tier": self.tier, "source": event.source}
            self.restored.inc(event.bytes, tags)
            self.restore_seconds.observe(event.seconds, tags)

    def _transfer(self, event: events.Transferred) -> None:
        tags = {"tier": self.tier, "direction": event.direction, "store": event.store}
        for counter, amount in (
            (self.transferred, event.bytes),
            (self.transfer_seconds, event.seconds),
            (self.failed, int(event.failed)),
            (self.retries, event.retries),
            (self.throttles, event.throttles),
        ):
            if amount:
                counter.inc(amount, tags)


def count_events(tier: str) -> None:
    """Have the events of this process counted, for a run in a tier; for the one that said so last."""
    known = _active.get(os.getpid())
    if known is not None:
        known.tier = tier
        return
    made = _active[os.getpid()] = Metrics.of(tier)
    events.listen(made.heard)
