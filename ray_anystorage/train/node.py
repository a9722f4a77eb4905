"""A worker's place on its node: the node's own disk, and what is verified there before user code runs."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from typing import TYPE_CHECKING, Any

import ray

from ray_anystorage.checkpoint.cache_entry import own_root
from ray_anystorage.checkpoint.node import Node, enter, node_at, node_folder
from ray_anystorage.cluster.broker import ensure_agent
from ray_anystorage.discovery.probe import bounded, probe_directory
from ray_anystorage.errors import AnyStorageError
from ray_anystorage.recipe import StorageRecipe
from ray_anystorage.settings import LOCAL_VARIABLE, apply_to_process, process_environment

if TYPE_CHECKING:
    from ray_anystorage.train.checkpoint import Checkpoint
    from ray_anystorage.train.storage_context import AnyStorageContext

logger = logging.getLogger(__name__)

_LOCAL_TIMEOUT = 5.0  # seconds
_live = contextlib.ExitStack()  # what this process holds until it ends


def enter_node(recipe: StorageRecipe, attempt: str) -> Node:
    """Find this node's own disk and make it this process's place for one attempt of a run."""
    node = node_at(_local_root(recipe), attempt, recipe.cache_share)
    enter(node)
    return node


def hold_run(node: Node, recipe: StorageRecipe) -> None:
    """Mark the run as live on this node for as long as this process lives, so that the cache keeps what it needs."""
    if node.cache is not None:
        try:
            _live.enter_context(node.cache.hold_run(recipe.home.uri))
        except OSError as error:
            logger.warning("the cache of checkpoints in %s cannot be used: %s", node.folder, error)
    node.forget_old()


def verify_on_node(checkpoint: Checkpoint, storage: AnyStorageContext) -> None:
    """Raise where a checkpoint is not good on this node; runs in one worker of each node, before user code.

    Content is compared where it lies on a mount and is not over the threshold. What is larger, or in a bucket, is
    compared when it is read.

    Raises
    ------
    HomeNotVisibleError
        This node does not see the run home, which says nothing about the checkpoint.
    """
    ensure_agent(storage.recipe.bucket_variables)
    storage.check_visible()
    node = enter_node(storage.recipe, storage.attempt)
    opened = checkpoint.opened(node)
    opened.verify_here(content=opened.contents().size <= storage.recipe.threshold)


def verify_on_nodes(checkpoint: Checkpoint, storage: AnyStorageContext, workers: list[Any]) -> None:
    """Have one of Ray's workers on each node verify a checkpoint; raises as :func:`verify_on_node` does there.

    Of several nodes, the message names the one: what is good on the others is damaged on the way to it.
    """
    one_each = {worker.metadata.node_id: worker for worker in workers}
    for worker, answer in [(w, w.actor.execute.remote(verify_on_node, checkpoint, storage)) for w in one_each.values()]:
        try:
            ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, AnyStorageError):
                raise
            if len(one_each) > 1:
                error.cause.message += f" (on node {worker.metadata.node_ip})"
            raise error.cause from error


def use_local_temporary_directory(recipe: StorageRecipe) -> str | None:
    """Point ``tempfile`` and ``TMPDIR`` of this process at ``local`` storage, where this node has it.

    A ``TMPDIR`` that the user gave is left alone. Returns the directory, or ``None`` where nothing was changed.
    """
    root = _local_root(recipe)
    if root is None or process_environment().get("TMPDIR"):
        return None
    directory = os.path.join(node_folder(root), "tmp", recipe.name)
    try:
        own_root(node_folder(root))
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        logger.warning("%s is not used for temporary files: %s", directory, error)
        return None
    apply_to_process({"TMPDIR": directory})
    tempfile.tempdir = directory
    return directory


def _local_root(recipe: StorageRecipe) -> str | None:
    """``local`` storage of this node, tried by writing; ``None`` where there is none that works."""
    root = process_environment().get(LOCAL_VARIABLE) or recipe.local_root
    if root is None:
        return None
    try:
        usable = bounded(lambda: _writable(root), _LOCAL_TIMEOUT, what=f"look at {root}")
    except TimeoutError as error:
        logger.warning("%s is not used on this node: %s", root, error)
        return None
    if not usable:
        logger.debug("this node has no writable %s", root)
    return root if usable else None


def _writable(root: str) -> bool:
    if not os.path.isdir(root):
        return False
    try:
        probe_directory(root)
    except OSError as error:
        logger.warning("%s cannot hold temporary files: %s", root, error)
        return False
    return True
