"""Events as Ray's metrics, which every node exports to Prometheus.

Names and units follow Prometheus' conventions (prometheus.io/docs/practices/naming): base units, and Ray puts ``ray_``
before them. Every label has a handful of values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray.util.metrics import Counter, Histogram

from ray_anystorage.events import Committed, Ended, Event, Restored, Saved, Staged, Transferred

_SECONDS = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000]
_STALLS = [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30]


@dataclass(slots=True)
class Metrics:
    """The metrics of a process.

    Attributes
    ----------
    tier
        Of the run that this process belongs to.
    """

    tier: str
    transferred: Any
    transfer_seconds: Any
    retries: Any
    throttles: Any
    saved: Any
    save_seconds: Any
    stall_seconds: Any
    committed: Any
    restored: Any
    restore_seconds: Any
    failures: Any

    @classmethod
    def of(cls, tier: str) -> Metrics:
        """Register them."""
        by_way = ("tier", "direction", "store")
        by_place = ("tier", "store", "detour")
        return cls(
            tier,
            transferred=Counter("anystorage_transferred_bytes", "Bytes of files moved.", by_way),
            transfer_seconds=Counter("anystorage_transfer_seconds", "Seconds that transfers took.", by_way),
            retries=Counter("anystorage_retries", "Requests to a store that were made again.", by_way),
            throttles=Counter("anystorage_throttles", "Times that a store asked for fewer requests.", by_way),
            saved=Counter("anystorage_saved_bytes", "Bytes of checkpoints made durable.", by_place),
            save_seconds=Histogram("anystorage_save_seconds", "Until a rank's part was durable.", _SECONDS, by_place),
            stall_seconds=Histogram(
                "anystorage_stall_seconds", "That training stood still for a checkpoint.", _STALLS, ("tier", "how")
            ),
            committed=Counter(
                "anystorage_committed_checkpoints", "Checkpoints, by where their data went.", ("tier", "placed")
            ),
            restored=Counter("anystorage_restored_bytes", "Bytes of checkpoints opened.", ("tier", "source")),
            restore_seconds=Histogram(
                "anystorage_restore_seconds", "Until a checkpoint could be read.", _SECONDS, ("tier", "source")
            ),
            failures=Counter("anystorage_failures", "Operations that ended with an error.", ("tier", "operation")),
        )

    def heard(self, event: Event) -> None:
        """Count what ended."""
        if not isinstance(event, Ended):
            return
        if event.error is not None:
            self.failures.inc(1, {"tier": self.tier, "operation": event.began.what})
        outcome, seconds = event.outcome, event.seconds
        if isinstance(outcome, Transferred):
            self._transferred(outcome, seconds)
        elif isinstance(outcome, Saved):
            self._saved(outcome, seconds)
        elif isinstance(outcome, Staged):
            self._stalled("copied" if outcome.copied else "moved", seconds)
        elif isinstance(outcome, Committed):
            self.committed.inc(1, {"tier": self.tier, "placed": outcome.placed})
        elif isinstance(outcome, Restored):
            tags = {"tier": self.tier, "source": outcome.source}
            _add(self.restored, outcome.bytes, tags)
            self.restore_seconds.observe(seconds, tags)

    def _transferred(self, outcome: Transferred, seconds: float) -> None:
        tags = {"tier": self.tier, "direction": outcome.direction, "store": outcome.store}
        _add(self.transferred, outcome.bytes, tags)
        _add(self.transfer_seconds, seconds, tags)
        _add(self.retries, outcome.retries, tags)
        _add(self.throttles, outcome.throttles, tags)

    def _saved(self, outcome: Saved, seconds: float) -> None:
        tags = {"tier": self.tier, "store": outcome.store, "detour": str(outcome.detour).lower()}
        _add(self.saved, outcome.bytes, tags)
        self.save_seconds.observe(seconds, tags)
        if not outcome.behind:
            self._stalled("waited", seconds)

    def _stalled(self, how: str, seconds: float) -> None:
        self.stall_seconds.observe(seconds, {"tier": self.tier, "how": how})


def _add(counter: Any, amount: float, tags: dict[str, str]) -> None:
    """Ray's counters refuse a zero."""
    if amount:
        counter.inc(amount, tags)
