"""Ray Train's StorageContext, built from a recipe in the controller and pickled to every worker."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow.fs
import ray
import ray.train

from ray_anystorage.checkpoint import staging
from ray_anystorage.checkpoint.course import Handed
from ray_anystorage.checkpoint.journal import Journal
from ray_anystorage.checkpoint.node import Node, current
from ray_anystorage.checkpoint.ownership import Owner, own_spill
from ray_anystorage.checkpoint.retention import find_orphans, largest_unfinished, remove
from ray_anystorage.checkpoint.save import Part
from ray_anystorage.checkpoint.saver import Saver, Writers
from ray_anystorage.cluster.nodes import alive_nodes
from ray_anystorage.environment import NFS_TIERS
from ray_anystorage.errors import (
    AnyStorageError,
    CheckpointSaveError,
    HomeNotVisibleError,
    TierUnavailableError,
)
from ray_anystorage.home.filesystem import HomeFileSystem, HomeRecipe
from ray_anystorage.home.prepare import prepare_home
from ray_anystorage.origin import Origin
from ray_anystorage.recipe import StorageRecipe
from ray_anystorage.train.checkpoint import Checkpoint
from ray_anystorage.train.hooks import (
    VALIDATE_STORAGE_MARKER_FILENAME,
    StorageContext,
    get_train_context,
    report_number,
    saves_behind,
)
from ray_anystorage.train.liveness import is_alive, own_process
from ray_anystorage.train.snapshot import STATE_FILES, named_checkpoints, repair_snapshot
from ray_anystorage.transfer.open_store import BucketRecipe
from ray_anystorage.transfer.slots import writers_per_node
from ray_anystorage.transfer.store import Store
from ray_anystorage.units import format_size

logger = logging.getLogger("ray.train.anystorage")  # Ray shows and files what comes below "ray.train"


class AnyStorageContext(StorageContext):  # type: ignore[misc]
    """Ray's storage context on the plan's file system. It pickles as its recipe: no live client, no secret.

    Attributes
    ----------
    attempt
        The present start of the worker group; the controller sets it before it sends the context to the workers.
    spill
        The run's own folder in the bucket, where its home is on a mount.
    owner_token
        Of the controller that the workers save for; empty where no controller opened it.
    """

    owner: Owner  # in the controller
    env_vars: Mapping[str, str] = MappingProxyType({})  # in the controller: what the run's processes get, secrets too
    manager: Any = None  # in the controller

    def __init__(self, recipe: StorageRecipe) -> None:
        self.recipe = recipe
        self.attempt = secrets.token_hex(8)
        self.spill: BucketRecipe | None = None
        self.owner_token = ""
        self._saver: Saver | None = None
        super().__init__(
            storage_path=recipe.fs_path,
            experiment_dir_name=recipe.name,
            storage_filesystem=recipe.build_filesystem(),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what belongs to this process."""
        own = ("owner", "env_vars", "manager")
        return {name: value for name, value in {**self.__dict__, "_saver": None}.items() if name not in own}

    @property
    def on_mount(self) -> bool:
        """True where the run home is on a mount, false where it is in a bucket."""
        return isinstance(self.recipe.filesystem, HomeRecipe)

    def home_store(self) -> Store:
        """The run home as a store."""
        return self.recipe.open_home(self.storage_filesystem)

    def spill_store(self) -> Store | None:
        """The run's own folder in the bucket, open; ``None`` where there is none."""
        return self.spill.open() if self.spill is not None else None

    def origin(self, name: str, attempt: str | None) -> Origin:
        """Where a checkpoint of this run comes from."""
        return Origin(self.recipe.home, self.spill, name, attempt)

    def checkpoint_name(self, path: str) -> str | None:
        """The name that a checkpoint has, or would have, whose folder a path is; ``None`` for what can be none."""
        name = str(path).removeprefix(f"{self.experiment_fs_path}/").rstrip("/")
        return None if name == path or name.startswith(".") else name

    def check_visible(self) -> None:
        """Raise :class:`HomeNotVisibleError` where this node does not see the run home."""
        self._check_validation_file()

    def persist_current_checkpoint(self, checkpoint: ray.train.Checkpoint, checkpoint_dir_name: str) -> Checkpoint:
        """Save this rank's part of a checkpoint: data durable first, then its manifest.

        Raises
        ------
        CheckpointSaveError
            It could not be saved; names it and says why.
        """
        try:
            self._save(checkpoint, checkpoint_dir_name)
        except (AnyStorageError, OSError) as error:
            failure = CheckpointSaveError(f"checkpoint {checkpoint_dir_name} could not be saved: {error}")
            staging.ended(checkpoint.path, failure)
            raise failure from error
        except BaseException as error:  # whoever waits for the staged directory must hear of any end
            staging.ended(checkpoint.path, error)
            raise
        staging.ended(checkpoint.path, None)
        persisted = Checkpoint.__new__(Checkpoint)
        ray.train.Checkpoint.__init__(
            persisted, self.build_checkpoint_path_from_name(checkpoint_dir_name), self.storage_filesystem
        )
        persisted.origin = self.origin(checkpoint_dir_name, self.attempt)
        return persisted

    def _save(self, checkpoint: ray.train.Checkpoint, name: str) -> None:
        if self.on_mount:  # an unmounted mount is a plain directory, which would take the data all the same
            self._check_validation_file()
        context = get_train_context()
        part = Part(name, self.attempt, context.get_world_rank(), context.get_world_size(), report_number(context))
        owner = Owner(self.home_store(), self.owner_token, f"rank {part.rank}") if self.owner_token else None
        # Or it would write over what a later controller or worker group keeps.
        allowed = partial(owner.check, part.attempt) if owner is not None else None
        handed = staging.handed(checkpoint.path)
        if handed is None and saves_behind(context):
            handed = Handed.at(time.monotonic())
        with directory_of(checkpoint) as directory:
            manifest = self._own_saver(part.rank).save(directory, part, allowed, handed)
        where = manifest.location or self.build_checkpoint_path_from_name(name)
        logger.info(f"checkpoint {name}: rank {part.rank} saved {format_size(manifest.size)} to {where}")

    def _own_saver(self, rank: int) -> Saver:
        if self._saver is None:
            node = current()
            journal = Journal(node.journals, self.recipe.home.uri, rank)
            self._saver = make_saver(self.recipe, node, self.home_store(), self.spill, journal)
        return self._saver

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
                remedy=visibility_remedy(self.recipe),
            )


def make_saver(recipe: StorageRecipe, node: Node, home: Store, spill: BucketRecipe | None, journal: Journal) -> Saver:
    """What saves the checkpoints of one rank, or one trial, from a node into a home and where that spills to."""
    on_mount = isinstance(recipe.filesystem, HomeRecipe)
    return Saver(
        home=home,
        threshold=recipe.threshold,
        spill=spill.open if spill is not None else None,
        writers=Writers(node.slots, writers_per_node(recipe.nodes)) if on_mount else None,
        cache=node.cache,
        run=recipe.home.uri,
        journal=journal,
    )


def open_storage(recipe: StorageRecipe) -> AnyStorageContext:
    """Make the run home ready and open it; for the controller, before Ray loads the run's state.

    Raises
    ------
    TierUnavailableError
        The plan was made before the cluster was known and does not hold on it.
    RunInUseError
        Another controller of this cluster is writing to the run.
    StorageError
        The place does not work.
    """
    refuse_one_nodes_disk(recipe)
    home = recipe.build_filesystem()
    store = recipe.open_home(home)
    owner = Owner(store, secrets.token_hex(8), f"process {os.getpid()} on {socket.gethostname()}", own_process())
    owner.take(is_alive)  # before anything is tidied up, which a live one may be using
    if isinstance(home, HomeFileSystem):
        prepare_home(home)
        repair_snapshot(home)
    context = AnyStorageContext(recipe)
    context.owner, context.owner_token = owner, owner.token
    if recipe.spill is not None:
        context.spill = recipe.spill.child(own_spill(store))
    sweep(context, going_on=True)
    logger.info(recipe.log_line())
    return context


def close_storage(context: AnyStorageContext) -> None:
    """Delete what was kept for this controller's sake, sweep, and let go of the run; a failure leaves it for later.

    Where another controller took the run over, nothing of it is touched.
    """
    name = context.recipe.name
    try:
        context.owner.check()
        if context.manager is not None:
            context.manager.delete_postponed()
        sweep(context, going_on=False)
    except (AnyStorageError, OSError) as error:
        logger.warning("run %r was not tidied up: %s", name, error)
    try:
        context.owner.release()
    except (AnyStorageError, OSError) as error:
        logger.warning("that run %r ended could not be noted: %s", name, error)


def sweep(context: AnyStorageContext, *, going_on: bool) -> None:
    """Remove what saves and deletes left that did not end; only while nobody saves. A failure leaves it for later.

    Where the run is going on, one unfinished save stays, the largest: the next one need not send again what it stored.
    """
    home, spill = context.home_store(), None
    try:
        spill = context.spill_store()
        orphans = find_orphans(home, spill, named=named_checkpoints(home), state_files=STATE_FILES)
        kept = largest_unfinished(orphans) if going_on else None
        for orphan in (orphan for orphan in orphans if orphan.certain and orphan.name != kept):
            logger.info(f"removing {orphan.kind} {orphan.place}/{orphan.name} ({format_size(orphan.size)})")
            remove(orphan, [store for store in (home, spill) if store is not None])
    except (AnyStorageError, OSError) as error:
        logger.warning("run %r was not swept: %s", context.recipe.name, error)


def refuse_one_nodes_disk(recipe: StorageRecipe) -> None:
    """Raise ``TierUnavailableError`` where a run on several nodes was planned on the disk of one."""
    nodes = alive_nodes() or 1
    if recipe.one_node and nodes > 1:
        raise TierUnavailableError(
            f"the run was planned on {recipe.uri}, the disk of one node, but the cluster has {nodes} nodes. Set one of "
            f"{', '.join(f'RAY_ANYSTORAGE_{tier.upper()}_STORAGE' for tier in (*NFS_TIERS, 'artifact'))}."
        )


@contextlib.contextmanager
def directory_of(checkpoint: ray.train.Checkpoint) -> Iterator[str]:
    """A local directory with a checkpoint that is to be saved, wherever it lies."""
    if isinstance(checkpoint, Checkpoint):  # of this or another run: its data may lie elsewhere than its folder
        with checkpoint.as_directory() as directory:
            yield directory
    elif isinstance(checkpoint.filesystem, pyarrow.fs.LocalFileSystem):
        yield checkpoint.path
    else:
        with tempfile.TemporaryDirectory() as directory:
            yield checkpoint.to_directory(directory)


def visibility_remedy(recipe: StorageRecipe) -> str:
    """What to do about a node that does not see the run home."""
    if recipe.tier == "artifact":
        return "see that this node reads the same bucket with the same credentials"
    return f"mount the same storage at {recipe.uri} on every node, or choose another tier with tier=…"


def _node() -> str:
    context: Any = ray.get_runtime_context()
    return f"{ray.util.get_node_ip_address()} ({context.get_node_id()[:8]})"
