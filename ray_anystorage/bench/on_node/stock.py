"""Ray's own path for checkpoints, as a run without this package has it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import pyarrow.fs
import ray.train

from ray_anystorage.bench.on_node.place import BenchPlace
from ray_anystorage.errors import BenchError
from ray_anystorage.train.hooks import StorageContext
from ray_anystorage.transfer.open_store import BucketRecipe
from ray_anystorage.transfer.pyarrow_fs import FileSystemRecipe, build

_RUN = "stock"


class StockPath:
    """Ray's storage context on a benchmark's folder; on a bucket with pyarrow's own client, where that can reach it."""

    def __init__(self, place: BenchPlace) -> None:
        recipe = place.recipe()
        path, filesystem = recipe.uri, None
        if isinstance(recipe, BucketRecipe):
            path, filesystem = recipe.address.path, build(FileSystemRecipe(recipe.address, recipe.env_vars))
            if recipe.address.scheme != "s3" or not isinstance(filesystem, pyarrow.fs.S3FileSystem):
                raise BenchError(
                    f"pyarrow's own client is measured on S3 alone, as Ray asks for it; this is {place.place.root}"
                )
            place.note_markers()
        self._context: Any = StorageContext(storage_path=path, experiment_dir_name=_RUN, storage_filesystem=filesystem)

    def save(self, directory: str, checkpoint: str) -> None:
        """What ``ray.train.report`` does with a directory."""
        self._context.persist_current_checkpoint(ray.train.Checkpoint.from_directory(directory), checkpoint)

    def directory(self, checkpoint: str) -> AbstractContextManager[str]:
        """What ``get_checkpoint().as_directory()`` gives."""
        path = self._context.build_checkpoint_path_from_name(checkpoint)
        stored: Any = ray.train.Checkpoint(path, filesystem=self._context.storage_filesystem)
        opened: AbstractContextManager[str] = stored.as_directory()
        return opened
