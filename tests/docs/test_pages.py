"""What pages claim about the package is so: errors, messages, settings, tests, and the public interface."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from ray_anystorage import errors, settings
from tests.docs.blocks import ROOT
from tests.docs.messages import is_said

DOCS = ROOT / "docs"
TROUBLE = DOCS / "troubleshooting.md"
ERRORS = {
    name for name in errors.__all__ if inspect.isclass(one := getattr(errors, name)) and issubclass(one, Exception)
}


ENTRY = re.compile(r"^### `(\w+)`\n\n```text\n(.*?)```", re.MULTILINE | re.DOTALL)
ENTRIES = ENTRY.findall(TROUBLE.read_text())


def test_each_public_error_has_an_entry_and_each_entry_an_error() -> None:
    page = TROUBLE.read_text()
    headed = re.findall(r"^### `(\w+)`$", page, re.MULTILINE)
    listed = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert len(set(headed + listed)) == len(headed + listed)
    assert set(headed + listed) == ERRORS


@pytest.mark.parametrize(("name", "message"), ENTRIES, ids=[name for name, _ in ENTRIES])
def test_the_message_of_an_entry_is_one_that_the_package_makes(name: str, message: str) -> None:
    first, *others = message.splitlines()
    assert is_said(first, by=name), first
    assert [line for line in others if not is_said(line)] == []


def test_the_other_messages_of_the_page_are_ones_that_the_package_makes() -> None:
    others = set(re.findall(r"^```text\n(.*?)```", TROUBLE.read_text(), re.MULTILINE | re.DOTALL)) - {
        m for _, m in ENTRIES
    }
    assert others
    assert [line for message in others for line in message.splitlines() if not is_said(line)] == []


def test_each_entry_has_a_message() -> None:
    assert len(ENTRIES) == TROUBLE.read_text().count("\n### ")


def test_what_no_source_says_is_found() -> None:
    assert not is_said("the secret key is quite wrong; the store answers SignatureDoesNotMatch")
    assert is_said("the secret key is wrong; the store answers SignatureDoesNotMatch", by="WrongSecretError")
    assert not is_said("the secret key is wrong; the store answers SignatureDoesNotMatch", by="MountFullError")


def test_each_setting_is_in_the_table_and_each_row_is_one() -> None:
    rows = [
        re.findall(r"`(\w+)`", row)
        for row in re.findall(r"^\| (`RAY_ANYSTORAGE_.*?) \|", (DOCS / "settings.md").read_text(), re.MULTILINE)
    ]
    known: set[str] = set()
    for first, *rest in rows:
        known |= {first, *(settings.PREFIX + name.removeprefix("_") for name in rest)}
    assert known == set(settings._NAMES)


def test_each_metric_that_is_named_is_counted() -> None:
    counted = set(re.findall(r'"(anystorage_\w+)"', (ROOT / "ray_anystorage" / "train" / "metrics.py").read_text()))
    named = re.findall(r"`ray_(anystorage_\w+?)(?:_total)?`", (DOCS / "operations.md").read_text())
    assert set(named) == counted


def named_tests(page: Path) -> list[str]:
    return re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", page.read_text())


def test_each_guarantee_names_tests_that_exist() -> None:
    page = DOCS / "guarantees.md"
    for part in re.split(r"^## ", page.read_text(), flags=re.MULTILINE)[1:]:
        assert "`tests/" in part, f"no test proves: {part.partition(chr(10))[0]}"
    for name in named_tests(page):
        file, _, function = name.partition("::")
        defined = {n.name for n in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(n, ast.FunctionDef)}
        assert not function or function in defined, name
