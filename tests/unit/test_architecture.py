"""The rules that keep the package readable: who may import whom, who may do I/O, how long things may get."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ray_anystorage"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 40

# From the bottom up. A unit (a subpackage or a module beside it) imports from lower layers; units of the same layer may
# use each other as long as no circle comes of it. A new unit has to be given its place here.
LAYERS = (
    {"errors", "_version"},
    {"units", "environment", "events"},
    {"settings", "estimate", "telemetry"},
    {"policy", "credentials", "transfer", "discovery", "diagnosis", "home", "cluster", "testing"},
    {"checkpoint"},
    {"resolve", "recipe", "named_bucket", "origin", "runs", "run_list"},
    {"train", "tune"},
    {"catalog", "promotion", "timeline"},
    {"api", "checkup", "experiments", "files", "job", "stored"},
    {"tier_filesystem", "dcp"},
    {"__init__"},
    {"bench", "demo"},
    {"cli"},
)
RANK = {unit: rank for rank, layer in enumerate(LAYERS) for unit in layer}
MAY_IMPORT_RAY = {"train", "tune", "cluster", "demo", "bench"}

# What a pure function can need: nothing here reads a clock, a file, the network or chance.
PURE = {
    *("__future__", "abc", "collections", "dataclasses", "difflib", "enum", "fractions", "functools", "itertools"),
    *("json", "math", "operator", "posixpath", "re", "string", "textwrap", "typing"),
}
PURE_VOCABULARY = {"policy", "errors", "units", "environment"}
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "__import__", "globals"}
PROCESS_ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def unit_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def nodes_run(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under ``if TYPE_CHECKING:``."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            yield node
            yield from nodes_run(node)


def imported(path: Path, *, at_run_time: bool = False) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a file imports, also inside functions."""
    for node in nodes_run(tree_of(path)) if at_run_time else ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise AssertionError(f"{path}:{node.lineno}: write imports with the package's full name")
            # `from ray_anystorage import errors` names a module as well as a name would be
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def imported_units(path: Path) -> Iterator[tuple[int, str]]:
    for line, name in imported(path):
        parts = name.split(".")
        if parts[0] == PACKAGE.name:
            unit = parts[1] if len(parts) > 1 else "__init__"
            yield line, unit if unit in RANK or (PACKAGE / unit).is_dir() else "__init__"


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_there_is_something_to_check() -> None:
    assert {unit_of(path) for path in FILES} >= {"errors", "units", "settings", "policy"}


def test_every_unit_has_its_layer() -> None:
    assert {unit_of(path) for path in FILES} - RANK.keys() == set()


def test_imports_point_down() -> None:
    wrong = [
        f"{where(path, line)}: {unit_of(path)} imports {unit}"
        for path in FILES
        for line, unit in imported_units(path)
        if unit != unit_of(path) and RANK[unit] > RANK[unit_of(path)]
    ]
    assert wrong == []


def test_no_circle_among_units() -> None:
    uses: dict[str, set[str]] = {unit: set() for unit in RANK}
    for path in FILES:
        uses[unit_of(path)] |= {unit for _, unit in imported_units(path)} - {unit_of(path)}
    while leaves := [unit for unit, used in uses.items() if not used & uses.keys()]:
        for unit in leaves:
            del uses[unit]
    assert uses == {}


def test_only_the_adapters_and_the_cluster_probes_import_ray() -> None:
    wrong = [
        f"{where(path, line)} imports {name}"
        for path in FILES
        if unit_of(path) not in MAY_IMPORT_RAY
        for line, name in imported(path, at_run_time=True)
        if name.split(".")[0] == "ray"
    ]
    assert wrong == []


def test_only_settings_touches_the_process_environment() -> None:
    wrong = []
    for path in FILES:
        if unit_of(path) == "settings":
            continue
        wrong += [
            f"{where(path, node.lineno)}: os.{node.attr}"
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.Attribute) and node.attr in PROCESS_ENVIRONMENT
            if isinstance(node.value, ast.Name) and node.value.id == "os"
        ]
        wrong += [
            f"{where(path, line)}: {name}"
            for line, name in imported(path)
            if name in {f"os.{what}" for what in PROCESS_ENVIRONMENT}
        ]
    assert wrong == []


def test_the_policy_is_pure() -> None:
    wrong = []
    for path in FILES:
        if unit_of(path) != "policy":
            continue
        wrong += [
            f"{where(path, line)} imports {name}"
            for line, name in imported(path)
            if name.split(".")[0] not in PURE | {PACKAGE.name}
        ]
        wrong += [
            f"{where(path, line)} imports {unit}" for line, unit in imported_units(path) if unit not in PURE_VOCABULARY
        ]
        wrong += [
            f"{where(path, node.lineno)} calls {node.func.id}"
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS
        ]
    assert wrong == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_file_says_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(tree_of(path))
    assert docstring
    assert docstring.splitlines()[0].endswith((".", ":")), "the first line is not a sentence"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES
    functions = [n for n in ast.walk(tree_of(path)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert [f"{f.name}: {n} lines" for f in functions if (n := body_lines(f)) > MAX_FUNCTION_LINES] == []


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from ``def`` to the end, the docstring not counted: documentation is not length."""
    total = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is None:
        return total
    docstring = function.body[0]
    return total - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1)
