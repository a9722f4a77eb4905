"""Events as OpenTelemetry spans: ``anystorage.save``, ``.upload``, ``.commit``, ``.restore``, ``.download`` and others.

A process without OpenTelemetry's API loaded has nobody who takes spans, and pays nothing; with it and without a tracer
provider, the API itself makes none. A span is a child of the user's own that is current where the operation begins.
"""

from __future__ import annotations

import sys
from typing import Any

from ray_anystorage.events import Began, Ended, Event
from ray_anystorage.telemetry.logs import fields_of

_NOT_SHOWN = ("event", "operation", "within", "seconds", "error")  # spans have names, parents, times and a status
_open: dict[int, tuple[Any, Any]] = {}  # span and token by number of the operation


def heard(event: Event) -> None:
    """Begin or end a span."""
    if isinstance(event, Began):
        if "opentelemetry.trace" in sys.modules:
            _begin(event)
    elif isinstance(event, Ended) and event.began.number in _open:
        _end(event)


def _begin(event: Began) -> None:
    from opentelemetry import context, trace

    span = trace.get_tracer("ray_anystorage").start_span(f"anystorage.{event.what}")
    _open[event.number] = span, context.attach(trace.set_span_in_context(span))


def _end(event: Ended) -> None:
    from opentelemetry import context, trace

    span, token = _open.pop(event.began.number)
    context.detach(token)
    shown = {name: value for name, value in fields_of(event).items() if name not in _NOT_SHOWN and value is not None}
    span.set_attributes({f"anystorage.{name}": value for name, value in shown.items()})
    if event.error is not None:
        span.set_attribute("error.type", event.error)
        span.set_status(trace.StatusCode.ERROR)
    span.end()
