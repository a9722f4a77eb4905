"""What the user said cannot be meant, or cannot be planned for."""

from __future__ import annotations

from ray_anystorage.errors.base import AnyStorageError


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


class UnknownArgumentError(RequestError, TypeError):
    """An argument is known neither here nor to Ray."""


class RunMissingError(RequestError, LookupError):
    """There is no run of this name, or none at this path."""


class ExperimentMissingError(RunMissingError):
    """There is no experiment of this name to continue."""


class LibraryMissingError(AnyStorageError, ImportError):
    """Something was used that needs a library that is not installed."""


class OutsideArtifactFolderError(RequestError):
    """A key in the platform's bucket lies outside the artifact folder."""


class LocalModeError(AnyStorageError, NotImplementedError):
    """``ScalingConfig(num_workers=0)`` never builds a storage context, so no plan could be applied."""


class OutsideRunError(AnyStorageError, RuntimeError):
    """Something that a training function does in a run of this package was done elsewhere."""


class UnsupportedRayError(AnyStorageError, ImportError):
    """This Ray version lacks a hook that this package builds on."""


class DemoError(AnyStorageError, RuntimeError):
    """The demo lacks something that it needs, or its process failed."""


class BenchError(AnyStorageError, RuntimeError):
    """A part of a benchmark failed on a node, or did not end."""


class BenchTimeoutError(BenchError):
    """A part of a benchmark did not end in its time."""


class FileMovedError(AnyStorageError, RuntimeError):
    """What was copied is not there as it was copied."""


class CopyUnderWayError(AnyStorageError, RuntimeError):
    """Another process on this machine copies from and to the same places."""


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


class CredentialsError(AnyStorageError, PermissionError):
    """Credentials cannot be had, or cannot be carried to the workers in the mode that was asked for."""


class CredentialsNotFoundError(CredentialsError):
    """No source of credentials was found."""


class CredentialsAgentError(CredentialsError):
    """The agent that gives a run its credentials on a node cannot be had there."""


class UnsupportedStoreError(CredentialsError):
    """Runs cannot live in this kind of bucket, whatever the credentials."""
