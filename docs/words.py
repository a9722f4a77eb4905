"""What mkdocs leaves as it is in a page: roles in docstrings, and names too long for their line."""

from __future__ import annotations

import re
from typing import Any

_ROLE = re.compile(r":(?:func|class|meth|mod):<code>~?([\w.]+)</code>")
_TEST = re.compile(r"<code>(tests/[^<]+)</code>")
_PACKAGE = "ray_anystorage."


def on_page_content(html: str, **_: Any) -> str:
    """What mkdocs calls for each page, once that is HTML."""
    html = _ROLE.sub(lambda found: _linked(found[1], html), html)
    return _TEST.sub(lambda found: f"<code>{_breakable(found[1])}</code>", html)


def _breakable(name: str) -> str:
    return re.sub("(_|/|::)", r"\1<wbr>", name)


def _linked(name: str, html: str) -> str:
    """A name as code, which leads to where this page has it."""
    anchor = _PACKAGE + name.removeprefix(_PACKAGE)
    shown = f"<code>{name.removeprefix(_PACKAGE)}</code>"
    return f'<a href="#{anchor}">{shown}</a>' if f'id="{anchor}"' in html else shown
