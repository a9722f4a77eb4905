"""Every error of this package: one base, and beside it the built-in that a caller would expect to catch.

All of them keep their fields through pickling, because they cross from workers to the driver.
"""

from __future__ import annotations

import errno as codes
from typing import Any


class AnyStorageError(Exception):
    """Base of every error that this package raises on purpose."""

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self._fields = fields
        for name, value in fields.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self._fields)


def _rebuild(cls: type[AnyStorageError], message: str, fields: dict[str, Any]) -> AnyStorageError:
    error = cls.__new__(cls)
    AnyStorageError.__init__(error, message, **fields)
    return error


# --- what the user said -------------------------------------------------------------------------


class RequestError(AnyStorageError, ValueError):
    """An argument or a setting has a value that cannot be meant."""


class InvalidNameError(RequestError):
    """A run's name is not one path segment."""


class InvalidSizeError(RequestError):
    """A size is neither a count of bytes nor a number with a known unit."""


class SettingsError(RequestError):
    """A ``RAY_ANYSTORAGE_*`` variable is unknown or has a bad value."""


class ConfigClashError(RequestError):
    """The user's own configuration and the plan's say different things about the same field."""


class OutsideArtifactFolderError(RequestError):
    """A key in the platform's bucket lies outside the artifact folder."""


class LocalModeError(AnyStorageError, NotImplementedError):
    """``ScalingConfig(num_workers=0)`` never builds a storage context, so no plan could be applied."""


class UnsupportedRayError(AnyStorageError, ImportError):
    """This Ray version lacks a hook that this package builds on."""


class DemoError(AnyStorageError, RuntimeError):
    """The demo lacks something that it needs, or its process failed."""


# --- what the plan cannot do --------------------------------------------------------------------


class PlanError(AnyStorageError, RuntimeError):
    """No plan follows from this environment and this request."""


class NoStorageError(PlanError):
    """No tier can serve the run."""


class TierUnavailableError(PlanError):
    """The tier that was asked for, or that holds the run already, cannot serve."""


class SeveralHomesError(PlanError):
    """Runs of the same name exist in more than one tier."""


class HomeElsewhereError(PlanError):
    """The run exists in another tier than the one that was asked for."""


class NameTakenError(PlanError):
    """The folder that the run home would take holds something that is not a run."""


# --- credentials --------------------------------------------------------------------------------


class CredentialsError(AnyStorageError, PermissionError):
    """Credentials cannot be had, or cannot be carried to the workers in the mode that was asked for."""


class CredentialsNotFoundError(CredentialsError):
    """No source of credentials was found."""


class StaticKeysError(CredentialsError):
    """Static keys are the only source, and carrying them in the open was not asked for."""


# --- a place that does not work -----------------------------------------------------------------


class StorageError(AnyStorageError, OSError):
    """A place cannot be used: which tier, which place, what was tried, and what to do about it.

    Parameters
    ----------
    reason
        One sentence: what is wrong.
    tier, place
        The tier's name and its root or the path that failed.
    tried
        What was done when it failed, redacted.
    remedy
        What the reader should do.
    """

    errno: int = codes.EIO

    def __init__(self, reason: str, *, tier: str, place: str, tried: str, remedy: str) -> None:
        message = f"{tier} storage {place}: {reason}\n  tried: {tried}\n  what to do: {remedy}"
        super().__init__(message, reason=reason, tier=tier, place=place, tried=tried, remedy=remedy)

    reason: str
    tier: str
    place: str
    tried: str
    remedy: str


class MountMissingError(StorageError, FileNotFoundError):
    """The directory that should be the mount does not exist."""

    errno = codes.ENOENT


class NotADirectoryAtMountError(StorageError, NotADirectoryError):
    """A file lies where the mount should be."""

    errno = codes.ENOTDIR


class MountReadOnlyError(StorageError, PermissionError):
    """The mount is mounted read-only."""

    errno = codes.EROFS


class MountPermissionError(StorageError, PermissionError):
    """This user may not write on the mount."""

    errno = codes.EACCES


class MountFullError(StorageError):
    """The mount has no space left, or the user's quota is used up."""

    errno = codes.ENOSPC


class NoInodesError(MountFullError):
    """The mount has bytes left but no inodes."""


class MountTimeoutError(StorageError, TimeoutError):
    """The mount does not answer within the time limit."""

    errno = codes.ETIMEDOUT


class MountDeadError(StorageError, ConnectionError):
    """The mount's server or daemon is gone."""

    errno = codes.ENOTCONN


class MountBrokenError(StorageError):
    """The mount fails in another way: what was written did not come back, or an I/O error."""


class BucketMissingError(StorageError, FileNotFoundError):
    """The bucket does not exist."""

    errno = codes.ENOENT


class WrongSecretError(StorageError, PermissionError):
    """The store knows the key but the signature does not match: the secret is wrong."""

    errno = codes.EACCES


class UnknownKeyError(StorageError, PermissionError):
    """The store does not know the access key."""

    errno = codes.EACCES


class ExpiredTokenError(StorageError, PermissionError):
    """The session token has expired, or is not valid."""

    errno = codes.EACCES


class BucketPermissionError(StorageError, PermissionError):
    """The credentials are good but do not allow the operation (for example read-only keys)."""

    errno = codes.EACCES


class WrongRegionError(StorageError):
    """The bucket lives in another region."""

    errno = codes.EREMOTE


class EndpointRefusedError(StorageError, ConnectionRefusedError):
    """Nothing listens at the endpoint, or its name does not resolve."""

    errno = codes.ECONNREFUSED


class EndpointTimeoutError(StorageError, TimeoutError):
    """The endpoint accepts connections, or drops them silently, and never answers."""

    errno = codes.ETIMEDOUT


class BucketCredentialsError(StorageError, CredentialsNotFoundError):
    """No credentials for the bucket can be had from the source that was chosen."""

    errno = codes.EACCES


class BucketError(StorageError):
    """The store fails in another way."""


# --- a run's home -------------------------------------------------------------------------------


class SnapshotDamagedError(AnyStorageError, OSError):
    """Ray's snapshot of the run is empty or torn, and nothing was found to repair it from."""


class HomeNotVisibleError(StorageError, FileNotFoundError):
    """A node of the run does not see the run home that the controller made."""

    errno = codes.ENOENT


# --- checkpoints --------------------------------------------------------------------------------


class ManifestError(AnyStorageError, ValueError):
    """A manifest is torn, contradicts itself, or names a path outside of its checkpoint."""


class ManifestTooNewError(ManifestError):
    """A later version of this package wrote the manifest."""
