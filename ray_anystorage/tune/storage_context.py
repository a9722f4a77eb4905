"""Ray Tune's StorageContext for experiments of ours: what trials save, and how the experiment's state gets home."""

from __future__ import annotations

import logging
import secrets
from typing import Any

import pyarrow.fs
import ray.tune

from ray_anystorage.checkpoint.journal import Journal
from ray_anystorage.checkpoint.read import commit
from ray_anystorage.checkpoint.save import Part
from ray_anystorage.checkpoint.saver import Saver
from ray_anystorage.errors import AnyStorageError, CheckpointSaveError, HomeNotVisibleError
from ray_anystorage.home.filesystem import HomeRecipe
from ray_anystorage.settings import apply_to_process
from ray_anystorage.train.storage_context import directory_of, make_saver, visibility_remedy
from ray_anystorage.tune.checkpoint import TrialCheckpoint
from ray_anystorage.tune.experiment_home import ExperimentHome, carried_home, home_of
from ray_anystorage.tune.hooks import VALIDATE_STORAGE_MARKER_FILENAME, StorageContext, in_worker
from ray_anystorage.tune.state_syncer import StateSyncer
from ray_anystorage.tune.trial_node import enter_trial_node
from ray_anystorage.units import format_size

logger = logging.getLogger("ray.tune.anystorage")  # Ray shows what comes below "ray"


class AnyStorageTuneContext(StorageContext):  # type: ignore[misc]
    """Tune's storage context in the home that its file system carries. It pickles without a live client or a secret.

    Tune gives the copies of a restored experiment another file system, so all else comes from that.
    """

    _syncer: StateSyncer | None = None
    _saver: Saver | None = None

    @property
    def home(self) -> ExperimentHome:
        """The experiment's home."""
        return carried_home(self.storage_filesystem)

    @property
    def syncer(self) -> StateSyncer:
        """What brings the files of this process home."""
        if self._syncer is None:
            config = self.sync_config
            self._syncer = StateSyncer(self.storage_filesystem, config.sync_period, config.sync_timeout)
        return self._syncer

    @syncer.setter
    def syncer(self, rays: object) -> None:
        """Ray's own is not used."""

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what belongs to this process or this trial."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_syncer", "_saver")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Come to a trial's process: what SDKs need there is set before the trainable runs."""
        self.__dict__.update(state)
        home = home_of(self.storage_filesystem)
        if home is not None and home.recipe is not None and in_worker():
            apply_to_process(home.recipe.bucket_variables)

    def persist_current_checkpoint(self, checkpoint: ray.tune.Checkpoint) -> TrialCheckpoint:
        """Save a trial's checkpoint: data durable first, then its manifest, then the record that makes it one.

        Raises
        ------
        CheckpointSaveError
            It could not be saved; names it and says why.
        """
        name = f"{self.trial_dir_name}/{self.checkpoint_dir_name}"
        part = Part(name, secrets.token_hex(8), rank=0, world_size=1, report=self.current_checkpoint_index + 1)
        try:
            self._save(checkpoint, part)
        except (AnyStorageError, OSError) as error:
            raise CheckpointSaveError(f"checkpoint {name} could not be saved: {error}") from error
        persisted = TrialCheckpoint.__new__(TrialCheckpoint)
        ray.train.Checkpoint.__init__(persisted, self.checkpoint_fs_path, self.storage_filesystem)
        persisted.origin = self.home.origin(self.checkpoint_fs_path, part.attempt)
        return persisted

    def _save(self, checkpoint: ray.tune.Checkpoint, part: Part) -> None:
        home = self.home
        if isinstance(home.planned.filesystem, HomeRecipe):  # an unmounted mount is a directory, and takes it all
            self._check_validation_file()
        saver = self._own_saver()
        held = home.held(self.storage_filesystem)
        with directory_of(checkpoint) as directory:
            manifest = saver.save(directory, part, held.check)  # or it would write over what a later driver keeps
        commit(saver.home, part.checkpoint, part.attempt, report=part.report)
        where = manifest.location or f"{home.store.uri}/{part.checkpoint}"
        logger.debug("checkpoint %s: saved %s to %s", part.checkpoint, format_size(manifest.size), where)

    def _own_saver(self) -> Saver:
        home, recipe = self.home, self.home.planned
        node = enter_trial_node(home)  # each time: the trial may have looked into another experiment
        if self._saver is None:
            journal = Journal(node.journals, f"{recipe.home.uri}/{self.trial_dir_name}")
            self._saver = make_saver(recipe, node, home.open(self.storage_filesystem), home.spill, journal)
        return self._saver

    def _check_validation_file(self) -> None:
        """See the marker that the driver wrote, from this node."""
        marker = f"{self.experiment_fs_path}/{VALIDATE_STORAGE_MARKER_FILENAME}"
        if self.storage_filesystem.get_file_info(marker).type == pyarrow.fs.FileType.NotFound:
            recipe = self.home.planned
            raise HomeNotVisibleError(
                "this node does not see the experiment's home that the driver made",
                tier=recipe.tier,
                place=recipe.home.uri,
                tried=f"looked for {VALIDATE_STORAGE_MARKER_FILENAME} there",
                remedy=visibility_remedy(recipe),
            )
