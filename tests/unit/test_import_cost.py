"""What `import ray_anystorage` costs a process that may never need the rest."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

MAX_CPU_SECONDS = 0.1
HEAVY = {"ray", "pyarrow", "obstore", "botocore", "fsspec", "s3fs", "numpy", "torch", "rich", "click"}
CHILD = """
import json, resource, sys
def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
before, known = cpu(), set(sys.modules)
import ray_anystorage
spent = cpu() - before
print(json.dumps({"seconds": spent, "modules": sorted(set(sys.modules) - known)}))
"""


def import_in_a_fresh_interpreter() -> tuple[float, set[str]]:
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    report = json.loads(child.stdout)
    return report["seconds"], {name.split(".")[0] for name in report["modules"]}


@pytest.fixture(scope="module")
def imports() -> list[tuple[float, set[str]]]:
    return [import_in_a_fresh_interpreter() for _ in range(3)]


def test_it_loads_nothing_heavy(imports: list[tuple[float, set[str]]]) -> None:
    _, modules = imports[0]
    assert "ray_anystorage" in modules
    assert modules & HEAVY == set()


def test_it_takes_less_than_a_tenth_of_a_second_of_cpu(imports: list[tuple[float, set[str]]]) -> None:
    assert min(seconds for seconds, _ in imports) < MAX_CPU_SECONDS
