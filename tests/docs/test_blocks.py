"""No block is forgotten: each is of a kind that is run or read; what cannot be run here says so, and is looked at."""

from __future__ import annotations

import json
import re
import shlex

import click
import pytest
import yaml

from ray_anystorage.cli.main import main
from ray_anystorage.settings import read_settings
from tests.docs.blocks import PAGES, ROOT, Block, all_blocks, blocks_of

RUN = {"python", "bash", "console"}
READ = {"yaml", "json", "text"}
ELSEWHERE = {"anyscale", "aws", "git", "kubectl", "make", "pip", "ray", "sbatch"}  # what a test machine may not have
HERE = {"python3", "."}  # that stand beside one of those
SETTING = re.compile(r"\bRAY_ANYSTORAGE_[A-Z_]+\b")
WIDEST = 83  # letters that a page of the site shows without scrolling
BLOCKS = all_blocks()


def marked() -> list[Block]:
    return [block for block in BLOCKS if block.elsewhere]


def commands_of(block: Block) -> list[list[str]]:
    """Each command of a block, as words."""
    joined = block.text.replace("\\\n", " ")
    lines = [part for line in joined.splitlines() for part in line.split("&&")]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_each_fence_is_a_block_of_a_known_kind() -> None:
    for page in PAGES:
        fences = [line for line in page.read_text().splitlines() if line.lstrip().startswith("```")]
        assert len(fences) == 2 * len(blocks_of(page)), f"{page.name} has a block that is indented, or is not closed"
    assert [block.where for block in BLOCKS if block.language not in RUN | READ] == []
    assert {block.language for block in BLOCKS} == RUN | READ


def test_code_is_no_wider_than_its_page() -> None:
    code = [block for block in BLOCKS if block.language in {"python", "yaml", "json"}]
    assert [f"{b.where} {line}" for b in code for line in b.text.splitlines() if len(line) > WIDEST] == []


def test_texts_are_messages_of_errors() -> None:
    """``test_pages.py`` reads those; no output may hide in a block that nobody runs."""
    assert {block.page.name for block in BLOCKS if block.language == "text"} == {"troubleshooting.md"}


@pytest.mark.parametrize("block", marked(), ids=lambda block: block.where)
def test_what_runs_elsewhere_names_the_programs_and_needs_them(block: Block) -> None:
    assert block.language == "bash"
    assert set(block.elsewhere) <= ELSEWHERE
    programs = {words[0] for words in commands_of(block)}
    assert set(block.elsewhere) <= programs
    assert programs <= set(block.elsewhere) | HERE | {"ray-anystorage"}


@pytest.mark.parametrize("block", marked(), ids=lambda block: block.where)
def test_what_runs_elsewhere_is_right_as_far_as_can_be_seen(block: Block) -> None:
    for words in commands_of(block):
        for file in (word for word in words if word.startswith("deploy/") and "." in word):
            assert (ROOT / file).exists(), file
        if words[0] == "make":
            assert set(words[1:]) <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        if "ray-anystorage" in words:
            parse(words[words.index("ray-anystorage") + 1 :])


def parse(words: list[str]) -> None:
    """Have click take a command's words, without running it."""
    command: click.Command = main
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words[0]) if words else None
        if found is None:
            break
        command, words = found, words[1:]
    command.make_context(command.name, list(words), resilient_parsing=False)


def test_a_flag_that_is_not_there_is_found() -> None:
    parse(["doctor", "--cluster"])
    parse(["bench", "simulate", "--nodes", "3", "--checkpoint", "1GB"])
    with pytest.raises(click.NoSuchOption):
        parse(["doctor", "--clutser"])


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "json"], ids=lambda block: block.where)
def test_json_reads(block: Block) -> None:
    assert json.loads(block.text)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=lambda block: block.where)
def test_a_manifest_is_one_of_those_in_deploy(block: Block) -> None:
    shown = yaml.safe_load(block.text)
    kept = list(yaml.safe_load_all((ROOT / "deploy/kuberay/raycluster.yaml").read_text()))
    assert shown in kept


def test_every_setting_that_a_page_names_is_one() -> None:
    misspelt = {"RAY_ANYSTORAGE_TRESHOLD"}  # what the page about errors shows
    for page in PAGES:
        for name in set(SETTING.findall(page.read_text())) - misspelt:
            value = {"RAY_ANYSTORAGE_ARTIFACT_STORAGE": "s3://b/f", "RAY_ANYSTORAGE_ENCRYPTION": "AES256"}.get(name)
            value = value or {"THRESHOLD": "10GB", "ADDRESSING": "path", "REQUESTER_PAYS": "true"}.get(
                name.removeprefix("RAY_ANYSTORAGE_"), "1" if name.endswith(("TIMEOUT", "SHARE")) else "/x"
            )
            if not name.endswith("_"):
                read_settings({name: value})
