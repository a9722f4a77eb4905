"""Brokers that a test started end with it: a thread that goes on would fail to renew, and say so in another's log."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ray_anystorage.credentials.agent import Agent
from ray_anystorage.credentials.broker import Broker
from ray_anystorage.credentials.lease import Lease


@pytest.fixture(autouse=True)
def no_broker_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close what began to serve meanwhile; those of fixtures with a wider scope go on."""
    started: list[Broker] = []
    start = Broker._started

    def remembered(broker: Broker, lease: Lease) -> Agent:
        started.append(broker)
        return start(broker, lease)

    monkeypatch.setattr(Broker, "_started", remembered)
    yield
    for broker in started:
        broker.close()
