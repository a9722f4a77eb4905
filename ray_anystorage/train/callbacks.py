"""What happens on each node of a run, decided on that node."""

from __future__ import annotations

import logging
import os
import tempfile

from ray_anystorage.discovery.probe import bounded, probe_directory
from ray_anystorage.recipe import StorageRecipe
from ray_anystorage.settings import LOCAL_VARIABLE, apply_to_process, process_environment
from ray_anystorage.train.hooks import WorkerCallback, get_train_context
from ray_anystorage.train.storage_context import AnyStorageContext

logger = logging.getLogger(__name__)

_LOCAL_TIMEOUT = 5.0  # seconds
_TEMPORARY_FOLDER = "anystorage-tmp"


class NodeSetup(WorkerCallback):  # type: ignore[misc]
    """Runs in every worker before user code: sees that the run home is there, and moves temporary files to NVMe."""

    def __init__(self, recipe: StorageRecipe) -> None:
        self._recipe = recipe

    def after_init_train_context(self) -> None:
        """Check the home from this node, then choose this node's temporary directory."""
        storage = get_train_context().get_storage()
        if isinstance(storage, AnyStorageContext):
            storage.check_visible()
        local_root = process_environment().get(LOCAL_VARIABLE) or self._recipe.local_root
        if local_root is not None:
            use_local_temporary_directory(local_root, self._recipe.name)


def use_local_temporary_directory(local_root: str, name: str) -> str | None:
    """Point ``tempfile`` and ``TMPDIR`` of this process at ``local`` storage, where this node has it.

    A ``TMPDIR`` that the user gave is left alone. Returns the directory, or ``None`` where nothing was changed.
    """
    if process_environment().get("TMPDIR"):
        return None
    directory = os.path.join(local_root, _TEMPORARY_FOLDER, name)
    try:
        usable = bounded(
            lambda: _writable_directory(local_root, directory), _LOCAL_TIMEOUT, what=f"look at {local_root}"
        )
    except TimeoutError as error:
        logger.warning("temporary files stay in %s: %s", tempfile.gettempdir(), error)
        return None
    if not usable:
        logger.debug("temporary files stay in %s: this node has no writable %s", tempfile.gettempdir(), local_root)
        return None
    apply_to_process({"TMPDIR": directory})
    tempfile.tempdir = directory
    return directory


def _writable_directory(root: str, directory: str) -> bool:
    if not os.path.isdir(root):
        return False
    try:
        os.makedirs(directory, exist_ok=True)
        probe_directory(directory)
    except OSError as error:
        logger.warning("%s cannot hold temporary files: %s", root, error)
        return False
    return True
