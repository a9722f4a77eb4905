"""Ray Train's checkpoint manager in the controller of a run of ours: commit, resume, retention.

It is put in Ray's place in the controller's process alone, when that asks for the run's storage context.
"""

from __future__ import annotations

import logging
import os
import posixpath
import secrets
from collections.abc import Iterable
from typing import Any

from ray_anystorage.checkpoint.manifest import FOLDER
from ray_anystorage.checkpoint.marks import begun_later
from ray_anystorage.checkpoint.quarantine import quarantine
from ray_anystorage.checkpoint.read import commit, commit_external, read_contents, record_of
from ray_anystorage.checkpoint.restore import NOT_GOOD, verify_listed
from ray_anystorage.checkpoint.retention import clear, delete_checkpoint
from ray_anystorage.checkpoint.small_files import names_below
from ray_anystorage.errors import (
    AnyStorageError,
    CheckpointCorruptedError,
    CheckpointMissingError,
    CheckpointOverwrittenError,
    CheckpointSaveError,
    CheckpointUnreadableError,
    RunTakenOverError,
    StorageError,
)
from ray_anystorage.train.checkpoint import Checkpoint
from ray_anystorage.train.hooks import CheckpointManager, controller_module
from ray_anystorage.train.node import verify_on_nodes
from ray_anystorage.train.storage_context import AnyStorageContext, sweep
from ray_anystorage.train.telemetry import observe
from ray_anystorage.units import format_size

logger = logging.getLogger("ray.train.anystorage")


class AnyStorageCheckpointManager(CheckpointManager):  # type: ignore[misc]
    """Ray's manager, with a record for each commit and one decision on what a run resumes from."""

    def __init__(self, checkpoint_config: Any, storage_context: AnyStorageContext) -> None:
        self.storage = storage_context
        self._home = storage_context.home_store()
        self._resumed: str | None = None
        self._postponed: set[str] = set()
        self._began = False
        super().__init__(checkpoint_config, storage_context)
        for checkpoint in self._known():
            self._adopt(checkpoint, self._name(checkpoint), None)
        storage_context.storage_filesystem.on_delete = self._delete

    def register_checkpoint(self, training_report: Any) -> None:
        """Commit, then let Ray write its snapshot and delete what it no longer keeps."""
        self.storage.owner.check()
        checkpoint = training_report.checkpoint
        name = self._checked_name(checkpoint)
        try:
            attempt = self._record(checkpoint, name)
        except CheckpointOverwrittenError as error:
            logger.warning("report %d is not kept: %s", self._report, error)
            training_report.checkpoint = None
            super().after_report(training_report, [])
            return
        self._adopt(checkpoint, name, attempt)
        for earlier in [result for result in self._checkpoint_results if self._name(result.checkpoint) == name]:
            self._drop(earlier)  # its metrics are no longer those of what the folder holds
        super().register_checkpoint(training_report)

    def update_checkpoints_with_validation_result(self, checkpoint_updates: Any) -> None:
        """Let Ray take the results of validations into its snapshot, and delete what it no longer keeps."""
        self.storage.owner.check()
        super().update_checkpoints_with_validation_result(checkpoint_updates)

    def update_checkpoints_with_metrics(self, checkpoint_to_metrics: Any) -> None:
        """The same, as earlier versions of Ray call it."""
        self.storage.owner.check()
        super().update_checkpoints_with_metrics(checkpoint_to_metrics)

    def before_init_train_context(self, workers: list[Any]) -> dict[str, list[Any]]:
        """Begin an attempt: decide what it resumes from, once for all ranks."""
        self.storage.owner.check()
        if len(workers) < workers[0].distributed_context.world_size:  # of replicas: the others' attempt goes on
            joined: dict[str, list[Any]] = super().before_init_train_context(workers)
            return joined
        if self._began:  # before the first one the run home was swept when it was opened
            sweep(self.storage, going_on=True)
        self._began = True
        self.storage.attempt = secrets.token_hex(8)
        self.storage.owner.begin(self.storage.attempt)
        self._resumed = None
        self._delete_postponed()
        self._choose(workers)
        latest = self.latest_checkpoint_result
        self._resumed = self._name(latest.checkpoint) if latest else None
        arguments: dict[str, list[Any]] = super().before_init_train_context(workers)
        return arguments

    def _record(self, checkpoint: Any, name: str) -> str | None:
        """Write the record of what was reported; returns the attempt that saved it, ``None`` for somebody else."""
        attempt: str | None = getattr(getattr(checkpoint, "origin", None), "attempt", None)
        if attempt != self.storage.attempt:
            return self._record_again(name)
        contents = commit(self._home, name, attempt, report=self._report)
        for rank, why in contents.detours:
            logger.warning("checkpoint %s: the data of rank %d lies elsewhere than planned: %s", name, rank, why)
        return attempt

    def _record_again(self, name: str) -> str | None:
        """The record of what was there when it was reported: saved by this package before, or by somebody else."""
        if begun_later(names_below(self._home, f"{name}/{FOLDER}"), self.storage.attempt, self._report - 1):
            raise CheckpointSaveError(
                f"checkpoint {name}: some ranks stored their part themselves and others left it to Ray. Have all ranks "
                "that report a checkpoint do the same."
            )
        record = record_of(self._home, name)
        if record is not None and not record.external:
            opened = self.storage.origin(name, record.attempt).opened(self._home)
            try:
                verify_listed(opened.sources, opened.contents())
            except CheckpointCorruptedError as error:
                logger.warning("checkpoint %s was saved by this package and then written over: %s", name, error)
            else:
                return record.attempt
        contents = commit_external(self._home, name, report=self._report)
        logger.warning(
            "checkpoint %s was stored by somebody else, as its report says: of its %d files (%s) only that they are "
            "there can be verified",
            name,
            len(contents.files),
            format_size(contents.size),
        )
        return None

    def _choose(self, workers: list[Any]) -> None:
        """Make the newest checkpoint that is good on all nodes the latest; forget those that are not good."""
        faults: list[tuple[Any, AnyStorageError]] = []
        for result in self._newest_first():
            fault = self._fault(result.checkpoint, workers)
            if fault is None:
                break
            faults.append((result, fault))
        else:
            if faults:
                raise CheckpointCorruptedError(
                    f"no checkpoint of run {self.storage.experiment_dir_name!r} is good: "
                    + "; ".join(f"{self._name(result.checkpoint)}: {fault}" for result, fault in faults)
                    + ". To start anew, choose another name."
                )
            return
        if not faults:
            return
        for skipped, fault in faults:
            logger.warning("not resuming from %s: %s", self._name(skipped.checkpoint), fault)
            self._forget(skipped, fault)
        logger.warning("resuming from %s instead", self._name(result.checkpoint))
        self._latest_checkpoint_result = result
        self._write_state_to_storage()

    def _fault(self, checkpoint: Checkpoint, workers: list[Any]) -> AnyStorageError | None:
        """Why a checkpoint is not good on some node; ``None`` where it is good on all."""
        try:
            read_contents(self._home, self._name(checkpoint))
            verify_on_nodes(checkpoint, self.storage, workers)
        except NOT_GOOD as error:
            return error
        return None

    def _forget(self, result: Any, fault: AnyStorageError) -> None:
        self._drop(result)
        if isinstance(fault, (CheckpointMissingError, CheckpointUnreadableError)):  # it may come back
            return
        try:
            quarantine(self._home, self._name(result.checkpoint), str(fault))
        except (StorageError, OSError) as error:
            logger.warning("that %s is not good could not be noted: %s", self._name(result.checkpoint), error)

    def _drop(self, result: Any) -> None:
        """Take a checkpoint out of Ray's bookkeeping; its data stays."""
        checkpoint = result.checkpoint
        self._checkpoint_results: list[Any] = [kept for kept in self._checkpoint_results if kept is not result]
        self._pending_training_results.pop(checkpoint, None)
        self._checkpoint_to_report_index.pop(checkpoint, None)
        for known in self._statuses():
            known.discard(checkpoint)

    def _newest_first(self) -> list[Any]:
        newest = self._latest_checkpoint_result
        index = self._checkpoint_to_report_index
        others = [result for result in self._checkpoint_results if result is not newest]
        others.sort(key=lambda result: index.get(result.checkpoint, -1), reverse=True)
        return ([newest] if newest else []) + others

    def _delete(self, path: str, plainly: Any) -> None:
        """Delete a checkpoint's folder, as Ray or a user asks the file system to; ``plainly`` does that and no more."""
        name = self.storage.checkpoint_name(path)
        if name is None:
            plainly()
            return
        self.storage.owner.check()
        if name in {self._name(known) for known in self._known()}:
            logger.info("checkpoint %s is kept: a later report has the same name", name)
        elif name == self._resumed:
            self._postponed.add(name)  # ranks may still be reading it
        else:
            delete_checkpoint(self._home, self.storage.spill_store(), name, lambda: clear(self._home, name, plainly))

    def delete_postponed(self) -> None:
        """Delete what was kept for the ranks that resumed from it; for the end of the run."""
        self._resumed = None
        self._delete_postponed()

    def _delete_postponed(self) -> None:
        postponed, self._postponed = self._postponed, set()
        self._delete_all(postponed)

    def _delete_all(self, names: Iterable[str]) -> None:
        """Delete checkpoints as Ray does: what fails is no reason to end the run, and `prune` finds it."""
        for name in names:
            try:
                self.storage.storage_filesystem.delete_dir(self.storage.build_checkpoint_path_from_name(name))
            except RunTakenOverError:
                raise
            except (AnyStorageError, OSError) as error:
                logger.warning("checkpoint %s was not deleted, or in part: %s", name, error)

    def _save_state_and_delete_old_checkpoints(self) -> None:
        """Let Ray write its snapshot and delete what it no longer keeps, also where somebody removed some of that."""
        before = list(self._checkpoint_results)
        try:
            super()._save_state_and_delete_old_checkpoints()
        except FileNotFoundError as error:  # the snapshot is written by now, and Ray stops at the first that is gone
            logger.warning("a checkpoint that is no longer kept had been removed by somebody else: %s", error)
            kept = {self._name(result.checkpoint) for result in self._checkpoint_results}
            self._delete_all({self._name(result.checkpoint) for result in before} - kept)

    def _assert_checkpoints_exist(self) -> None:
        """Nothing: what is gone is passed over when an attempt begins, and does not keep the run from going on."""

    def _statuses(self) -> Iterable[set[Any]]:
        names = ("_validated_checkpoints", "_timed_out_validation_checkpoints", "_failed_validation_checkpoints")
        return [getattr(self, name) for name in names if hasattr(self, name)]  # Ray 2.54 has none of them

    def _known(self) -> list[Any]:
        return [result.checkpoint for result in self._newest_first()]

    def _adopt(self, checkpoint: Any, name: str, attempt: str | None) -> None:
        checkpoint.filesystem = self.storage.storage_filesystem
        checkpoint.path = self.storage.build_checkpoint_path_from_name(name)
        Checkpoint.adopt(checkpoint, self.storage.origin(name, attempt))

    @property
    def _report(self) -> int:
        """The number of the report that Ray is at."""
        return int(self._current_report_index) + 1

    def _name(self, checkpoint: Any) -> str:
        name: str = self.storage.extract_checkpoint_dir_name_from_path(checkpoint.path)
        return name

    def _checked_name(self, checkpoint: Any) -> str:
        """The name of a checkpoint that is reported; a user may have spelled its path in another way than Ray does."""
        path, home = str(checkpoint.path), self.storage.experiment_fs_path
        if self.storage.on_mount:
            path, home = os.path.realpath(path), os.path.realpath(home)
        name = posixpath.relpath(path, home)
        if name.startswith("."):
            raise CheckpointSaveError(
                f"{checkpoint.path} cannot be reported as a checkpoint: expected a folder of its own below the run "
                f"home {self.storage.experiment_fs_path}"
            )
        return name


def install_manager() -> None:
    """Have this process's controller make our manager for a run of ours; other runs get Ray's."""
    if controller_module.CheckpointManager is not make_manager:
        controller_module.CheckpointManager = make_manager


def make_manager(checkpoint_config: Any, storage_context: Any) -> CheckpointManager:
    """The checkpoint manager of one run, for Ray's controller."""
    if isinstance(storage_context, AnyStorageContext):
        manager = AnyStorageCheckpointManager(checkpoint_config, storage_context)
        storage_context.manager = manager
        observe(storage_context.recipe)
        return manager
    return CheckpointManager(checkpoint_config=checkpoint_config, storage_context=storage_context)
