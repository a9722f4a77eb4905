"""What a training function can ask about its own run."""

from __future__ import annotations

import sys

from ray_anystorage.errors import NoStorageError


def current_run() -> tuple[str, str] | None:
    """The artifacts root and name of the run that this process works for; ``None`` outside of one of ours.

    Raises
    ------
    NoStorageError
        The run has no directory that all its nodes can be expected to see.
    """
    if "ray.train" not in sys.modules:
        return None
    from ray_anystorage.train.hooks import get_train_context
    from ray_anystorage.train.storage_context import AnyStorageContext

    try:
        storage = get_train_context().get_storage()
    except RuntimeError:  # Ray's word for "not in a training function"
        return None
    if not isinstance(storage, AnyStorageContext):
        return None
    if storage.recipe.artifacts_root is None:
        raise NoStorageError(
            f"run {storage.experiment_dir_name!r} has no place for logs and common files: set "
            "RAY_ANYSTORAGE_CLUSTER_STORAGE to a directory that every node sees"
        )
    return storage.recipe.artifacts_root, storage.experiment_dir_name
