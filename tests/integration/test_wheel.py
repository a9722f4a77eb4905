"""The package as users get it: a wheel in a virtual environment of its own, and a driver far from the repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.harness.ray_cluster import clean_environment

ROOT = Path(__file__).parents[2]
SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")
DRIVER = """
import os, sys, tempfile
from pathlib import Path

import ray, ray.train
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

import ray_anystorage as anystorage


def train():
    import ray_anystorage

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "found").write_text(ray_anystorage.__file__)
        ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(folder))


ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 << 20)
run_config = anystorage.run_config("from-wheel", checkpoint_size="1kB")
scaling_config = ray.train.ScalingConfig(num_workers=1)
checkpoint = DataParallelTrainer(train, scaling_config=scaling_config, run_config=run_config).fit().checkpoint
print("driver", anystorage.__file__)
print("worker", Path(checkpoint.path, "found").read_text())
print("checkpoint", checkpoint.path)
"""


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    done = subprocess.run(command, cwd=cwd, env=clean_environment(env), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the repository stays as it is."""
    copy = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copy(ROOT / name, copy / name)
    shutil.copytree(ROOT / "ray_anystorage", copy / "ray_anystorage", ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--wheel", "--outdir", copy / "dist", copy, cwd=copy)
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new virtual environment with the wheel.

    The dependencies come from this environment by a path entry. Python does not read the ``.pth`` files of a folder
    that was added so, and with them not the editable installation that leads to the repository.
    """
    home = tmp_path_factory.mktemp("user") / "venv"
    run(sys.executable, "-m", "venv", home, cwd=home.parent)
    python = home / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, cwd=home.parent)
    site = sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)})
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_the_wheel_is_complete_and_holds_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {name for name in names if name.startswith("ray_anystorage/")}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "ray_anystorage").rglob("*.py")}
    assert package == sources | {"ray_anystorage/py.typed"}
    rest = {name.split("/")[0] for name in names - package}
    assert all(name.endswith(".dist-info") for name in rest)
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_it_is_imported_from_where_it_was_installed(python: Path, tmp_path: Path) -> None:
    file = run(python, "-c", "import ray_anystorage; print(ray_anystorage.__file__)", cwd=tmp_path)
    assert Path(file.strip()).is_relative_to(python.parents[1])


def test_the_console_script_works(python: Path, tmp_path: Path) -> None:
    said = run(python.parent / "ray-anystorage", "--help", cwd=tmp_path)
    assert "Usage: ray-anystorage" in said


@pytest.mark.soak
@pytest.mark.needs_ray
def test_a_run_finds_the_package_in_driver_and_worker(python: Path, tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "driver.py").write_text(DRIVER)
    said = run(python, "driver.py", cwd=tmp_path, RAY_ANYSTORAGE_CLUSTER_STORAGE=str(tmp_path / "cluster"))
    found = dict(
        line.split(" ", 1) for line in said.splitlines() if line.startswith(("driver", "worker", "checkpoint"))
    )
    installed = python.parents[1]
    assert Path(found["driver"]).is_relative_to(installed)
    assert Path(found["worker"]).is_relative_to(installed)
    assert Path(found["checkpoint"]).is_relative_to(tmp_path / "cluster" / "from-wheel")
