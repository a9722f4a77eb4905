"""Ray Train's StorageContext, built from a recipe in the controller and pickled to every worker."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray
from ray.train import Checkpoint

from ray_anystorage.cluster.nodes import alive_nodes
from ray_anystorage.environment import NFS_TIERS
from ray_anystorage.errors import HomeNotVisibleError, TierUnavailableError
from ray_anystorage.home.atomic import is_full
from ray_anystorage.home.filesystem import HomeFileSystem, HomeRecipe, full_error
from ray_anystorage.home.prepare import prepare_home
from ray_anystorage.recipe import StorageRecipe
from ray_anystorage.train.hooks import VALIDATE_STORAGE_MARKER_FILENAME, StorageContext
from ray_anystorage.train.snapshot import repair_snapshot
from ray_anystorage.transfer.pyarrow_fs import FileSystemRecipe
from ray_anystorage.transfer.upload_tree import has_empty_directory, upload_tree

logger = logging.getLogger("ray.train.anystorage")  # Ray shows and files what comes below "ray.train"


class AnyStorageContext(StorageContext):  # type: ignore[misc]
    """Ray's storage context on the plan's file system. It pickles as its recipe: no live client, no secret."""

    def __init__(self, recipe: StorageRecipe) -> None:
        self.recipe = recipe
        super().__init__(
            storage_path=recipe.fs_path,
            experiment_dir_name=recipe.name,
            storage_filesystem=recipe.build_filesystem(),
        )

    def _check_validation_file(self) -> None:
        """See the marker that the controller wrote, from this node."""
        marker = Path(self.experiment_fs_path, VALIDATE_STORAGE_MARKER_FILENAME).as_posix()
        info = self.storage_filesystem.get_file_info(marker)
        if info.type == pyarrow.fs.FileType.NotFound:
            raise HomeNotVisibleError(
                f"node {_node()} does not see the run home that the controller made",
                tier=self.recipe.tier,
                place=f"{self.recipe.uri}/{self.experiment_dir_name}",
                tried=f"looked for {VALIDATE_STORAGE_MARKER_FILENAME} there",
                remedy=_visibility_remedy(self.recipe),
            )

    def check_visible(self) -> None:
        """Raise :class:`HomeNotVisibleError` where this node does not see the run home."""
        self._check_validation_file()

    def persist_current_checkpoint(self, checkpoint: Checkpoint, checkpoint_dir_name: str) -> Checkpoint:
        """Copy a checkpoint to the run home; where the mount is full, take back what was copied and say so."""
        if isinstance(self.recipe.filesystem, FileSystemRecipe) and _is_plain_tree(checkpoint):
            return self._upload(checkpoint, checkpoint_dir_name)
        home = self.storage_filesystem
        if not isinstance(home, HomeFileSystem):
            return super().persist_current_checkpoint(checkpoint, checkpoint_dir_name)
        target = self.build_checkpoint_path_from_name(checkpoint_dir_name)
        there_before = home.call("list", target, lambda: _files_below(target))
        try:
            return super().persist_current_checkpoint(checkpoint, checkpoint_dir_name)
        except OSError as error:
            if not is_full(error):
                raise
            ours = _files_below(checkpoint.path) - there_before
            home.call("take back", target, lambda: _remove(target, ours))
            raise full_error(home.recipe, f"copy checkpoint {checkpoint_dir_name} to {target}") from error

    def _upload(self, checkpoint: Checkpoint, checkpoint_dir_name: str) -> Checkpoint:
        self._check_validation_file()
        target = self.build_checkpoint_path_from_name(checkpoint_dir_name)
        upload_tree(checkpoint.path, self.storage_filesystem, target)
        return Checkpoint(target, filesystem=self.storage_filesystem)


def open_storage(recipe: StorageRecipe) -> AnyStorageContext:
    """Make the run home ready and open it; for the controller, before Ray loads the run's state.

    Raises
    ------
    TierUnavailableError
        The plan was made before the cluster was known and does not hold on it.
    StorageError
        The place does not work.
    """
    _refuse_one_nodes_disk(recipe)
    if isinstance(recipe.filesystem, HomeRecipe):
        home = HomeFileSystem(recipe.filesystem)
        prepare_home(home)
        repair_snapshot(home)
    context = AnyStorageContext(recipe)
    logger.info(recipe.log_line())
    return context


def _refuse_one_nodes_disk(recipe: StorageRecipe) -> None:
    nodes = alive_nodes() or 1
    if recipe.one_node and nodes > 1:
        raise TierUnavailableError(
            f"the run was planned on {recipe.uri}, the disk of one node, but the cluster has {nodes} nodes. Set one of "
            f"{', '.join(f'RAY_ANYSTORAGE_{tier.upper()}_STORAGE' for tier in (*NFS_TIERS, 'artifact'))}."
        )


def _is_plain_tree(checkpoint: Checkpoint) -> bool:
    return isinstance(checkpoint.filesystem, pyarrow.fs.LocalFileSystem) and not has_empty_directory(checkpoint.path)


def _files_below(directory: str) -> frozenset[str]:
    """Relative paths of the files below a directory; none where it does not exist."""
    return frozenset(
        os.path.relpath(os.path.join(folder, name), directory)
        for folder, _, names in os.walk(directory)
        for name in names
    )


def _remove(target: str, files: frozenset[str]) -> None:
    """Remove what this rank copied of a half-copied checkpoint, so that the space is there for the next attempt."""
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(target, file))
    for folder, _, _ in os.walk(target, topdown=False):
        with contextlib.suppress(OSError):  # another rank's files are in it
            os.rmdir(folder)


def _visibility_remedy(recipe: StorageRecipe) -> str:
    if recipe.tier == "artifact":
        return "see that this node reads the same bucket with the same credentials"
    return f"mount the same storage at {recipe.uri} on every node, or choose another tier with tier=…"


def _node() -> str:
    context: Any = ray.get_runtime_context()
    return f"{ray.util.get_node_ip_address()} ({context.get_node_id()[:8]})"
