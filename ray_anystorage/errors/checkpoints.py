"""What goes wrong with a run's home and with the data of its checkpoints."""

from __future__ import annotations

import errno as codes

from ray_anystorage.errors.base import AnyStorageError
from ray_anystorage.errors.storage import StorageError


class ObjectMissingError(StorageError, FileNotFoundError):
    """There is no object of this key."""

    errno = codes.ENOENT


class ShortReadError(StorageError, EOFError):
    """The object ends before the bytes that were asked for."""


class DigestMismatchError(StorageError):
    """What a store gives is not what was written there."""


class SourceChangedError(StorageError):
    """A file changed, or went away, while it was being sent or fetched."""


class StoreUnavailableError(StorageError, ConnectionError):
    """The store kept failing in ways that usually pass, for longer than anyone wants to wait."""

    errno = codes.EAGAIN


class ForkedProcessError(StorageError, RuntimeError):
    """A forked process uses a client that only its parent can use."""


class TransferCancelledError(AnyStorageError, InterruptedError):
    """The transfer was cancelled, and nothing of it is under way."""


class SnapshotDamagedError(AnyStorageError, OSError):
    """Ray's snapshot of the run is empty or torn, and nothing was found to repair it from."""


class HomeNotVisibleError(StorageError, FileNotFoundError):
    """A node of the run does not see the run home that the controller made."""

    errno = codes.ENOENT


class ManifestError(AnyStorageError, ValueError):
    """A manifest is torn, contradicts itself, or names a path outside of its checkpoint."""


class ManifestTooNewError(ManifestError):
    """A later version of this package wrote the manifest."""


class UnsavableFileError(AnyStorageError, ValueError):
    """Something in a checkpoint's directory cannot be saved as it is."""


class RankConflictError(AnyStorageError, ValueError):
    """Two ranks saved different content under the same name of one checkpoint."""


class CheckpointIncompleteError(AnyStorageError, ValueError):
    """The manifests of a checkpoint do not make one whole checkpoint."""


class CheckpointOverwrittenError(CheckpointIncompleteError):
    """A later report took the checkpoint's name."""


class CheckpointMissingError(AnyStorageError, FileNotFoundError):
    """There is no such checkpoint, or it was deleted."""


class CheckpointExistsError(AnyStorageError, FileExistsError):
    """A checkpoint lies where another was to be saved, and is not to be replaced."""


class CheckpointSaveError(AnyStorageError, OSError):
    """A checkpoint could not be saved; names it and the reason."""


class RunInUseError(AnyStorageError, RuntimeError):
    """A controller holds the run, so that no other may start it and nothing of it may be removed."""


class RunTakenOverError(AnyStorageError, RuntimeError):
    """Another controller started the same run, and this one must not write to it any more."""


class AttemptEndedError(AnyStorageError, RuntimeError):
    """The run's controller has replaced or ended this worker's group, and the worker must not write any more."""


class CheckpointCorruptedError(AnyStorageError, OSError):
    """The data of a checkpoint is not what was saved."""


class CheckpointUnreadableError(CheckpointCorruptedError):
    """Files of a checkpoint cannot be read here and now: a bad sector, or rights that this process lacks."""
