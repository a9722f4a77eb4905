"""A headless Chromium that draws a page and tells what it drew."""

from __future__ import annotations

import json
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any, Literal

from tests.harness.mounts import cannot

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update"),
    *("--disable-background-networking", "--disable-sync", "--hide-scrollbars"),
)
_BEGIN, _END = "[[drawn:", ":drawn]]"
_SCHEMES = {"dark": 0, "light": 1}  # as Blink numbers them


def drawn(page: Path, script: str, scheme: Literal["light", "dark"] = "light", width: int = 800) -> Any:
    """What an expression of JavaScript gives once a page is drawn, in a window so wide (pixels); plain values."""
    copy = page.with_name(f"{page.stem}-asked-{scheme}.html")
    asking = f"document.title = {json.dumps(_BEGIN)} + JSON.stringify({script}) + {json.dumps(_END)};"
    copy.write_text(page.read_text().replace("</body>", f"<script>{asking}</script></body>"))
    said = _run(copy, scheme, "--dump-dom", f"--window-size={width},600").stdout
    return json.loads(unescape(said.partition(_BEGIN)[2].partition(_END)[0]))


def screenshot(
    page: Path, target: Path, scheme: Literal["light", "dark"] = "light", height: int = 3000, width: int = 900
) -> None:
    """A picture of a page."""
    _run(page, scheme, f"--screenshot={target}", f"--window-size={width},{height}")


def _run(page: Path, scheme: str, *options: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        cannot("there is no Chromium (apt-get install chromium)")
    profile = page.with_name(f"{page.stem}-{scheme}-profile")  # a page may remember the other scheme
    look = f"--blink-settings=preferredColorScheme={_SCHEMES[scheme]}"
    command = [program, *_FLAGS, look, f"--user-data-dir={profile}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
