"""Every example, run as a user would: a script of its own, on a cluster that knows nothing of the driver."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.ray_cluster import RayCluster, clean_environment

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.needs_ray


@pytest.fixture
def site(tmp_path: Path) -> dict[str, str]:
    """The variables of a site whose cluster storage is a directory of this test's own."""
    (tmp_path / "cluster").mkdir()
    return {"RAY_ANYSTORAGE_CLUSTER_STORAGE": str(tmp_path / "cluster")}


def needs(*libraries: str) -> None:
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed (optional; .ci/run installs it beside a CPU build of torch)")


def run_example(cluster: RayCluster, name: str, site: dict[str, str], *arguments: str) -> tuple[float, Path]:
    """The accuracy and the checkpoint that the example prints."""
    done = cluster.run_driver(EXAMPLES / name, *arguments, env=site)
    assert done.returncode == 0, done.stdout + done.stderr
    said = re.search(r"^accuracy (\S+), checkpoint (\S+)$", done.stdout, re.MULTILINE)
    assert said, done.stdout + done.stderr
    return float(said[1]), Path(said[2])


def checkpoints_of(run: str, file: str, site: dict[str, str]) -> list[Path]:
    home = Path(site["RAY_ANYSTORAGE_CLUSTER_STORAGE"], run)
    return sorted(path.parent for path in home.glob(f"checkpoint_*/{file}"))


@pytest.mark.soak
def test_the_plain_loop_trains_and_a_second_start_goes_on(ray_cluster: RayCluster, site: dict[str, str]) -> None:
    accuracy, last = run_example(ray_cluster, "plain_loop.py", site)
    assert accuracy > 0.85
    saved = checkpoints_of("digits-plain", "weights.npz", site)
    assert len(saved) == 3
    assert last == saved[-1]
    assert run_example(ray_cluster, "plain_loop.py", site) == (accuracy, last), "a finished run was trained again"
    assert checkpoints_of("digits-plain", "weights.npz", site) == saved


@pytest.mark.soak
def test_lightgbm_trains(ray_cluster: RayCluster, site: dict[str, str]) -> None:
    accuracy, last = run_example(ray_cluster, "lightgbm_digits.py", site)
    assert accuracy > 0.85
    saved = checkpoints_of("digits-lightgbm", "model.txt", site)
    assert len(saved) == 2
    assert last == saved[-1]


@pytest.mark.soak
def test_torch_trains(ray_cluster: RayCluster, site: dict[str, str]) -> None:
    needs("torch")
    accuracy, last = run_example(ray_cluster, "torch_digits.py", site)
    assert accuracy > 0.85
    saved = checkpoints_of("digits-torch", "state.pt", site)
    assert len(saved) == 4
    assert last == saved[-1]


@pytest.mark.soak
def test_two_workers_save_a_sharded_model_and_three_go_on(ray_cluster: RayCluster, site: dict[str, str]) -> None:
    needs("torch")
    accuracy, last = run_example(ray_cluster, "torch_sharded.py", site, "2", "10")
    assert accuracy > 0.8
    saved = checkpoints_of("digits-sharded", ".metadata", site)
    assert last == saved[-1]
    assert len(list(last.glob("__*_0.distcp"))) == 2
    better, last = run_example(ray_cluster, "torch_sharded.py", site, "3", "15")
    assert better > 0.85
    saved = checkpoints_of("digits-sharded", ".metadata", site)
    assert len(saved) == 3, "epochs that were trained already were trained again"
    assert last == saved[-1]
    assert len(list(last.glob("__*_0.distcp"))) == 3


@pytest.mark.soak
def test_lightning_trains_and_a_second_start_trains_nothing_again(
    ray_cluster: RayCluster, site: dict[str, str]
) -> None:
    needs("torch", "lightning")
    accuracy, last = run_example(ray_cluster, "lightning_digits.py", site)
    assert accuracy > 0.85
    saved = checkpoints_of("digits-lightning", "checkpoint.ckpt", site)
    assert len(saved) == 4
    assert last == saved[-1]
    assert run_example(ray_cluster, "lightning_digits.py", site) == (accuracy, last)
    assert checkpoints_of("digits-lightning", "checkpoint.ckpt", site) == saved


@pytest.mark.soak
def test_the_trainer_of_hugging_face_trains_and_a_second_start_trains_nothing_again(
    ray_cluster: RayCluster, site: dict[str, str]
) -> None:
    needs("torch", "transformers", "accelerate")
    accuracy, last = run_example(ray_cluster, "hf_trainer_digits.py", site)
    assert accuracy > 0.8
    saved = checkpoints_of("numbers-hf", "checkpoint/model.safetensors", site)
    assert len(saved) == 3
    assert last == saved[-1].parent
    assert run_example(ray_cluster, "hf_trainer_digits.py", site) == (accuracy, last)
    assert checkpoints_of("numbers-hf", "checkpoint/model.safetensors", site) == saved


@pytest.mark.soak
def test_a_search_finds_a_rate_and_a_second_start_tries_nothing_again(
    ray_cluster: RayCluster, site: dict[str, str]
) -> None:
    accuracy, best = run_example(ray_cluster, "tune_function.py", site)
    assert accuracy > 0.85
    home = Path(site["RAY_ANYSTORAGE_CLUSTER_STORAGE"], "digits-search")
    assert (best / "weights.npz").exists()
    saved = sorted(home.glob("*/checkpoint_*/weights.npz"))
    assert run_example(ray_cluster, "tune_function.py", site) == (accuracy, best)
    assert sorted(home.glob("*/checkpoint_*/weights.npz")) == saved


@pytest.mark.soak
def test_a_class_is_searched_over(ray_cluster: RayCluster, site: dict[str, str]) -> None:
    accuracy, best = run_example(ray_cluster, "tune_class.py", site)
    assert accuracy > 0.85
    assert best.name == "checkpoint_000001"
    assert len(list(best.parent.glob("checkpoint_*"))) == 1


@pytest.mark.soak
def test_optuna_searches_over_boosted_trees_and_a_second_start_tries_nothing_again(
    ray_cluster: RayCluster, site: dict[str, str]
) -> None:
    accuracy, best = run_example(ray_cluster, "tune_lightgbm.py", site)
    assert accuracy > 0.85
    home = Path(site["RAY_ANYSTORAGE_CLUSTER_STORAGE"], "digits-optuna")
    assert len(list(home.glob("*/result.json"))) == 4
    saved = sorted(home.glob("*/checkpoint_*/.anystorage/commit.json"))
    assert run_example(ray_cluster, "tune_lightgbm.py", site) == (accuracy, best)
    assert sorted(home.glob("*/checkpoint_*/.anystorage/commit.json")) == saved


@pytest.mark.soak
def test_torch_trains_inside_of_trials(ray_cluster: RayCluster, site: dict[str, str]) -> None:
    needs("torch")
    accuracy, best = run_example(ray_cluster, "tune_torch.py", site)
    assert accuracy > 0.85
    assert best.parent.name == "inner"
    assert (best / "state.pt").exists()


@pytest.mark.parametrize(
    "script", ["plain_loop.py", "torch_digits.py", "lightgbm_digits.py", "lightning_digits.py", "hf_trainer_digits.py"]
)
def test_one_line_differs_from_a_stock_script(script: str, tmp_path: Path) -> None:
    """Put the stock line of the comment in the place of ours: nothing of this package is left in use."""
    text = (EXAMPLES / script).read_text()
    stock, replaced = re.subn(
        r"^( *)# stock script: (.*)\n.*anystorage\.run_config.*$", r"\1\2", text, flags=re.MULTILINE
    )
    assert replaced == 1
    assert re.findall(r".*anystorage.*", stock.split('"""', 2)[2]) == ["import ray_anystorage as anystorage"]
    compile(stock, script, "exec")


def test_torch_being_absent_is_said_clearly(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')\n")
    command = [sys.executable, str(EXAMPLES / "torch_digits.py")]
    environment = clean_environment({"PYTHONPATH": str(tmp_path)})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("this example needs PyTorch: pip install torch")


# --- TensorBoard ----------------------------------------------------------------------------------


def steps_that_tensorboard_reads(logs: Path) -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(logs))
    reader.Reload()
    known = reader.Tags()["scalars"]
    return [event.step for event in reader.Scalars("test/accuracy")] if "test/accuracy" in known else []


def wait_for(condition: Callable[[], bool], driver: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


@pytest.mark.soak
def test_tensorboard_reads_the_logs_while_the_run_goes_on(
    ray_cluster: RayCluster, site: dict[str, str], tmp_path: Path
) -> None:
    logs = Path(site["RAY_ANYSTORAGE_CLUSTER_STORAGE"], "artifacts", "digits-tensorboard")
    logs.mkdir(parents=True)
    assert steps_that_tensorboard_reads(logs) == []
    log = tmp_path / "driver.log"
    # Ray answers a report once per interval, so that 15 of them leave the reader plenty of time.
    slow = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1"}
    environment = clean_environment({"RAY_ADDRESS": ray_cluster.address, **site, **slow})
    command = [sys.executable, str(EXAMPLES / "tensorboard_logs.py"), "15"]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=output, stderr=output) as driver,
    ):
        try:
            wait_for(lambda: len(steps_that_tensorboard_reads(logs)) >= 2, driver, log)
            seen = steps_that_tensorboard_reads(logs)
            wait_for(lambda: len(steps_that_tensorboard_reads(logs)) > len(seen), driver, log)
            assert 2 <= len(seen) < 15
            assert driver.wait(90) == 0, log.read_text()
        finally:
            driver.kill()
    assert steps_that_tensorboard_reads(logs) == list(range(15))
    assert f"logs in {logs}" in log.read_text()
