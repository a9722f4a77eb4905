"""The results of an experiment that ended, or is under way; no Ray cluster is needed."""

from __future__ import annotations

import fnmatch
from typing import Any

import pyarrow.fs
from ray import tune
from ray.tune import ExperimentAnalysis

from ray_anystorage.errors import RunMissingError
from ray_anystorage.home.filesystem import HomeFileSystem
from ray_anystorage.runs import Run
from ray_anystorage.transfer.open_store import BucketRecipe
from ray_anystorage.transfer.pyarrow_fs import FileSystemRecipe, build
from ray_anystorage.tune.experiment_home import ExperimentHome
from ray_anystorage.tune.hooks import STATE_GLOB
from ray_anystorage.tune.install import install


def read_grid(run: Run) -> tune.ResultGrid:
    """Tune's results, with checkpoints of ours: verified, wherever their data lies.

    Raises
    ------
    RunMissingError
        It has no state of Ray Tune.
    StorageError
        The home cannot be read.
    """
    install()
    recipe = run.filesystem
    filesystem: Any = build(recipe) if isinstance(recipe, FileSystemRecipe) else HomeFileSystem(recipe)
    path = run.home.address.path if isinstance(run.home, BucketRecipe) else run.home.root
    filesystem.carried = ExperimentHome(path, run.home, run.spill or next(iter(run.former), None))
    found = filesystem.get_file_info(pyarrow.fs.FileSelector(path, allow_not_found=True))
    if not fnmatch.filter([info.base_name for info in found], STATE_GLOB):
        raise RunMissingError(
            f"{run.uri} holds no state of a Tune experiment ({STATE_GLOB}): it has saved nothing yet, or Ray Train "
            "keeps it"
        )
    return tune.ResultGrid(ExperimentAnalysis(path, storage_filesystem=filesystem))
