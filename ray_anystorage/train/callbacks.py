"""What happens in a run outside of Ray's storage context: on each node before user code, and when the run ends."""

from __future__ import annotations

import logging

from ray_anystorage.checkpoint import staging
from ray_anystorage.cluster.broker import ensure_agent
from ray_anystorage.recipe import StorageRecipe
from ray_anystorage.train.hooks import ControllerCallback, WorkerCallback, get_train_context
from ray_anystorage.train.node import enter_node, hold_run, use_local_temporary_directory
from ray_anystorage.train.storage_context import AnyStorageContext, close_storage
from ray_anystorage.train.telemetry import observe

logger = logging.getLogger(__name__)


class NodeSetup(WorkerCallback):  # type: ignore[misc]
    """Runs in every worker before user code: settles on the node's own disk.

    Parameters
    ----------
    look
        Whether it also sees that the run home is there, as it must where no preflight did.
    """

    def __init__(self, recipe: StorageRecipe, *, look: bool) -> None:
        self._recipe, self._look = recipe, look

    def after_init_train_context(self) -> None:
        """Choose this node's cache and temporary directory."""
        ensure_agent(self._recipe.bucket_variables)
        storage = get_train_context().get_storage()
        attempt = ""
        if isinstance(storage, AnyStorageContext):
            if self._look:
                storage.check_visible()
            attempt = storage.attempt
        hold_run(enter_node(self._recipe, attempt), self._recipe)
        use_local_temporary_directory(self._recipe)
        observe(self._recipe, get_train_context().get_world_rank())

    def before_worker_shutdown(self) -> None:
        """Remove what waits to be saved: the run takes no reports of this attempt any more."""
        staging.discard()


class RunEnd(ControllerCallback):  # type: ignore[misc]
    """Runs in the controller when the run ends, well or not."""

    _storage: object = None

    def after_controller_start(self, train_run_context: object) -> None:
        """Keep the run's storage for the end."""
        self._storage = train_run_context.run_config.storage_context  # type: ignore[attr-defined]

    def after_controller_finish(self, result: object) -> None:
        """Remove what is of no use any more, and let go of the run: this process may live on for long."""
        if isinstance(self._storage, AnyStorageContext):
            close_storage(self._storage)
