"""The fenced blocks of the documentation, and what stands before each: whether, and how, it is run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

_ELSEWHERE = re.compile(r"<!-- elsewhere: (.*) -->\s*")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page.

    Attributes
    ----------
    elsewhere
        The programs that it needs and a test machine has not (``<!-- elsewhere: kubectl, aws -->`` before it).
    file
        The name under which a reader saves it (``title="train.py"``).
    """

    page: Path
    line: int
    language: str
    text: str
    elsewhere: tuple[str, ...] = ()
    file: str | None = None

    @property
    def where(self) -> str:
        """Page and line, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def trains(self) -> bool:
        """Whether it starts a script, which wants a Ray cluster and takes seconds."""
        return self.language == "console" and any(command.startswith("python ") for command, _ in self.commands())

    def commands(self) -> list[tuple[str, str]]:
        """Each command of a console block, and what the page shows of its output."""
        found: list[tuple[str, str]] = []
        goes_on = False
        for line in self.text.splitlines():
            if goes_on:
                command, shown = found[-1]
                found[-1] = (f"{command}\n{line}", shown)
            elif line.startswith("$ "):
                found.append((line[2:], ""))
            else:
                command, shown = found[-1]
                found[-1] = (command, f"{shown}{line}\n")
            goes_on = line.endswith("\\") and (goes_on or line.startswith("$ "))
        return found


@cache
def blocks_of(page: Path) -> tuple[Block, ...]:
    """Every fenced block of a page, in its order."""
    tokens = MarkdownIt().parse(page.read_text())
    return tuple(
        _block(page, token, _mark(tokens[number - 1] if number else None))
        for number, token in enumerate(tokens)
        if token.type == "fence"
    )


def all_blocks() -> list[Block]:
    """Those of all pages."""
    return [block for page in PAGES for block in blocks_of(page)]


def _mark(before: Token | None) -> tuple[str, ...]:
    found = _ELSEWHERE.fullmatch(before.content) if before and before.type == "html_block" else None
    return tuple(word.strip() for word in found[1].split(",")) if found else ()


def _block(page: Path, token: Token, elsewhere: tuple[str, ...]) -> Block:
    language, _, rest = token.info.partition(" ")
    title = re.search(r'title="([^"]+)"', rest)
    line = token.map[0] + 1 if token.map else 0
    return Block(page, line, language, token.content, elsewhere, title[1] if title else None)
