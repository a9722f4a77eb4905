"""What every part of one transfer shares: the store, the budget, the flag that ends it, and who hears of progress."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeVar

from ray_anystorage.transfer.budget import Budget, Cancel
from ray_anystorage.transfer.digest import CHUNK_BYTES
from ray_anystorage.transfer.partial import Partial
from ray_anystorage.transfer.retry import Patience, persist
from ray_anystorage.transfer.store import Store

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Session:
    """One call of the engine."""

    store: Store
    budget: Budget
    cancel: Cancel
    patience: Patience
    on_progress: Callable[[int], None] | None = None
    partial: Partial | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def persist(self, request: Callable[[], Result]) -> Result:
        """Make a request until it succeeds."""
        return persist(request, self.budget, self.cancel, self.patience)

    def buffer(self, size: int) -> AbstractContextManager[bytearray]:
        """Borrow a buffer from the budget."""
        return self.budget.buffer(size, self.cancel)

    def threads(self, tasks: int, largest: int = CHUNK_BYTES) -> int:
        """As many as there are tasks for files of at most ``largest`` bytes, within what budget and store allow."""
        return min(tasks, self.budget.requests, self.store.limits.at_once(largest))

    def advance(self, size: int) -> None:
        """Tell that so many more bytes are where they should be; never two threads at once."""
        if self.on_progress is not None:
            with self._lock:
                self.on_progress(size)
