"""The built site: complete, whole without a network, and readable in light and dark, on wide screens and narrow."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

import pytest

import ray_anystorage
from ray_anystorage import errors
from tests.docs.blocks import ROOT
from tests.harness.chromium import drawn, screenshot

PAGES = sorted((ROOT / "docs").glob("*.md"))
_LOADS = {"src", "srcset", "data", "poster"}
_LOADING_LINKS = {"stylesheet", "icon", "preload", "preconnect", "dns-prefetch", "modulepreload", "manifest"}
_LOOK = """{
  background: getComputedStyle(document.body).backgroundColor,
  overflow: document.documentElement.scrollWidth - window.innerWidth,
  picture: [...document.querySelectorAll("svg.decision")].map(s => s.getBoundingClientRect().height),
  images: [...document.querySelectorAll(".md-content img")].filter(i => i.checkVisibility()).map(i => i.naturalWidth),
  clipped: [...document.querySelectorAll("svg.decision text")].filter(
    t => t.getBBox().width > 372 || t.getBBox().x < 0).map(t => t.textContent),
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make docs` builds it."""
    target = tmp_path_factory.mktemp("site")
    command = [str(Path(sys.executable).parent / "mkdocs"), "build", "--strict", "--site-dir", str(target)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


class Loaded(HTMLParser):
    """What a browser fetches by itself for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        self.found += [value for name, value in said.items() if name in _LOADS]
        if tag == "link" and set(said.get("rel", "").split()) & _LOADING_LINKS:
            self.found.append(said["href"])


def is_elsewhere(address: str) -> bool:
    return re.match(r"\s*([a-z+]+:)?//", address) is not None


def test_each_page_is_built_and_in_the_menu(site: Path) -> None:
    menu = (site / "index.html").read_text()
    for page in PAGES:
        assert (site / f"{page.stem}.html").exists()
        assert f'href="{page.stem}.html"' in menu
    assert not list(site.rglob("*.py"))
    assert "WrongSecretError" in (site / "search" / "search_index.json").read_text()


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    loaded = 0
    for page in site.rglob("*.html"):
        parser = Loaded()
        parser.feed(page.read_text())
        loaded += len(parser.found)
        assert [address for address in parser.found if is_elsewhere(address)] == [], page.name
    assert loaded > len(PAGES)
    for sheet in site.rglob("*.css"):
        text = sheet.read_text()
        addresses = [*re.findall(r"url\(\s*[\"']?([^\"')]+)", text), *re.findall(r"@import\s+[\"']([^\"']+)", text)]
        assert [address for address in addresses if is_elsewhere(address)] == [], sheet.name


def test_the_whole_public_interface_is_in_the_reference(site: Path) -> None:
    page = (site / "reference.html").read_text()
    anchors = set(re.findall(r'id="ray_anystorage\.([\w.]+)"', page))
    documented = set(ray_anystorage.__all__) - {"__version__", "errors"}
    assert documented <= anchors
    assert 'id="ray_anystorageerrors"' in page
    assert "ray_anystorage.__version__" in re.sub(r"<[^>]+>", "", page)


def test_each_error_can_be_linked_to(site: Path) -> None:
    page = (site / "troubleshooting.html").read_text()
    raised = [name for name in errors.__all__ if f'<h3 id="{name.lower()}">' in page]
    assert len(raised) > 60


@pytest.mark.parametrize("name", ["places", "benchmark"])
def test_a_page_reads_in_light_and_dark_wide_and_narrow(site: Path, name: str) -> None:
    look_at(site, name)


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted({page.stem for page in PAGES} - {"places", "benchmark"}))
def test_each_other_page_does_so_too(site: Path, name: str) -> None:
    look_at(site, name)


def look_at(site: Path, name: str) -> None:
    schemes: tuple[tuple[Literal["light", "dark"], int], ...] = (("light", 1280), ("dark", 500))
    brightness = {}
    for scheme, width in schemes:
        look = drawn(site / f"{name}.html", _LOOK, scheme, width)
        brightness[scheme] = sum(map(int, re.findall(r"\d+", look["background"])[:3]))
        assert look["overflow"] <= 0, f"{name} is {look['overflow']} pixels too wide for {width}"
        assert all(look["images"])
        assert look["clipped"] == []
        assert bool(look["picture"]) == (name == "places")
        assert len(look["images"]) == (name == "benchmark")
    assert brightness["dark"] < 200 < 600 < brightness["light"]


@pytest.mark.soak
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_picture_of_each_page_can_be_taken(site: Path, page: Path) -> None:
    kept = Path(os.environ.get("PICTURES_OF_DOCS", site))
    kept.mkdir(exist_ok=True)
    for scheme in ("light", "dark"):
        target = kept / f"{page.stem}-{scheme}.png"
        screenshot(site / f"{page.stem}.html", target, scheme, 1600, 1280)
        assert target.stat().st_size > 20_000
