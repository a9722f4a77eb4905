"""Events as structured log records: one for each operation that ended, its fields in ``record.anystorage``.

At level DEBUG of a logger below ``ray.train``: Ray Train files those of its controller and workers, as JSON with all
fields, in the session's ``logs/train``, and shows none of them in a terminal.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from ray_anystorage.events import Ended, Event

logger = logging.getLogger("ray.train.anystorage.events")


def heard(event: Event) -> None:
    """Log what ended."""
    if isinstance(event, Ended) and logger.isEnabledFor(logging.DEBUG):
        fields = fields_of(event)
        whose = f" of checkpoint {event.began.checkpoint}" if event.began.checkpoint else ""
        how = f"failed with {event.error}" if event.error else "ended"
        line = f"{event.began.what}{whose} {how} after {event.seconds:.3f} s"
        logger.debug(line, extra={"anystorage": fields})


def fields_of(event: Ended) -> dict[str, Any]:
    """Plain values for JSON: bytes, seconds, names. What an operation was a part of has its ``operation`` as number."""
    began = event.began
    outcome = {} if event.outcome is None else dataclasses.asdict(event.outcome)
    if began.bytes is not None:
        outcome.setdefault("bytes", began.bytes)
    return {
        "event": began.what,
        "operation": began.number,
        "within": began.within,
        "checkpoint": began.checkpoint,
        "seconds": round(event.seconds, 6),
        "error": event.error,
        **outcome,
    }
