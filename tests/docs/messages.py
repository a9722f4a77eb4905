"""The messages that the package's source can make, as patterns: a page's example has to be one of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import ray_anystorage

_PACKAGE = Path(ray_anystorage.__file__).parent
_FILLED_IN = re.compile(r"\{\w+\}")  # what str.format fills in
_LETTERS = 7  # that a pattern has of its own at the least, so that it is not a match for anything
_LETTERS_TRIED = 6  # of "… at … with … (…)"
_LEADS = ("tried: ", "looked for: ", "what to do: ", "What to do: ")
# What StorageError and its like put before a reason, and what the system says after it.
_BEFORE = re.compile(r"^(- \w+ \(.*?\): |node \S+ \(\S+\): )?(\w+ storage \S+: )?")
_AFTER = re.compile(r" \(E[A-Z]+: [\w/ -]+\)$")


def is_said(line: str, by: str | None = None) -> bool:
    """Whether the source has a text that makes this line of a message.

    Parameters
    ----------
    line
        As a page shows it; ``…`` stands for anything that is filled in.
    by
        The name of an error class that the text's module has to name, too.
    """
    words, letters = line.strip(), _LETTERS_TRIED if "tried: " in line else _LETTERS
    words = _AFTER.sub("", _BEFORE.sub("", _bare(words)))
    parts = (words, words.partition(": ")[2])  # what comes after a value that is named
    return any(
        pattern.fullmatch(part)
        for part in parts
        for module, patterns in _patterns().items()
        if by is None or re.search(rf"\b{by}\b", module.read_text())
        for pattern, own in patterns
        if own >= letters
    )


@cache
def _patterns() -> dict[Path, list[tuple[re.Pattern[str], int]]]:
    """By module: what each line of each of its texts matches, and how many letters of its own that has."""
    found = {}
    for module in set(_PACKAGE.rglob("*.py")) - set(_PACKAGE.glob("errors/*.py")):  # whose texts fit any reason
        lines = {_bare(line.strip()) for text in _texts(ast.parse(module.read_text())) for line in text.split("\n")}
        found[module] = [(re.compile(_pattern(line)), len(re.sub(r"[^a-z]", "", line.lower()))) for line in lines]
    return found


def _bare(line: str) -> str:
    for lead in _LEADS:
        line = line.removeprefix(lead)
    return line


def _texts(tree: ast.Module) -> Iterator[str]:
    """Every text of a module, its own constants filled in, and NUL where something else is."""
    own = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(_piece(value, own) for value in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield _FILLED_IN.sub("\0", node.value)


def _piece(value: ast.expr, own: Mapping[str, object]) -> str:
    if isinstance(value, ast.Constant):
        return str(value.value)
    assert isinstance(value, ast.FormattedValue)
    known = isinstance(value.value, ast.Name) and isinstance(own.get(value.value.id), str)
    return str(own[value.value.id]) if known else "\0"  # type: ignore[attr-defined]


def _pattern(text: str) -> str:
    return ".*".join(re.escape(piece) for piece in text.split("\0"))
