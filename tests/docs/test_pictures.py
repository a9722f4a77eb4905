"""The screenshots in the documentation: taken here, and those that are kept still look like what is there today.

``make pictures`` keeps new ones.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image, ImageChops, ImageStat

from tests.docs.blocks import ROOT
from tests.harness.chromium import screenshot

KEPT = ROOT / "docs" / "pictures"
REPORT = ROOT / "benchmarks" / "results" / "2026-11-28-050318-lab.html"
_HEIGHT = 960  # pixels; the report's first figures
_FAR = 12.0  # of 255; measured: a monospaced font 2, a larger one 8, the page without its charts 14, dark for light 205


def distance(one: Path, other: Path) -> float:
    """How far two pictures are apart, seen from afar: 0 to 255."""
    small = [Image.open(path).convert("L").resize((90, 96)) for path in (one, other)]
    return float(ImageStat.Stat(ImageChops.difference(*small)).mean[0])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_looks_as_the_documentation_shows_it(scheme: Literal["light", "dark"], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    shutil.copy(REPORT, page)
    taken = tmp_path / f"report-{scheme}.png"
    screenshot(page, taken, scheme, _HEIGHT)
    if os.environ.get("TAKE_PICTURES"):
        shutil.copy(taken, KEPT / taken.name)
    assert Image.open(KEPT / taken.name).size == Image.open(taken).size
    assert distance(KEPT / taken.name, taken) < _FAR
    other = KEPT / f"report-{'light' if scheme == 'dark' else 'dark'}.png"
    assert distance(other, taken) > _FAR
