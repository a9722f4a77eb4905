"""Fixtures: three hosts with a Ray cluster over them, for all tests of this package."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness import hosts
from tests.harness.hosts import Lab


@pytest.fixture(scope="package")
def running_lab() -> Iterator[Lab]:
    """The start takes some 15 s, so it serves all tests; a host that one of them powers off is started again."""
    with hosts.lab(3) as lab:
        yield lab


@pytest.fixture
def lab(running_lab: Lab) -> Iterator[Lab]:
    """Three hosts that are up."""
    running_lab.ensure(3)
    yield running_lab
    for host in running_lab.hosts.values():
        host.end_drivers()
