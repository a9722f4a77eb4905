"""A place does not work: one class for each thing that is wrong with it."""

from __future__ import annotations

import errno as codes

from ray_anystorage.errors.base import AnyStorageError
from ray_anystorage.errors.requests import CredentialsNotFoundError


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
