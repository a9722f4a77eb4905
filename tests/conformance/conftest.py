"""Servers that only these tests need."""

from __future__ import annotations

from tests.harness.azurite import azurite

__all__ = ["azurite"]
