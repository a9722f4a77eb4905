"""Native pyarrow file systems for buckets, built on the spot from a recipe that holds no secret.

Each is a Python subclass of pyarrow's own class that pickles as its recipe: the process that loads it applies the
recipe's variables first and reads the credentials from its own surroundings. pyarrow's stock classes would pickle keys
they were given, and forget region, endpoint and references where they were not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs

from ray_anystorage.credentials.sources import own_endpoint
from ray_anystorage.environment import BucketAddress
from ray_anystorage.errors import RequestError
from ray_anystorage.settings import apply_to_process

DEFAULT_REGION = "us-east-1"
OnDelete = Callable[[str, Callable[[], None]], None]  # gets the path, and what would delete it and no more
_S3_ATTEMPTS = 4  # per request; Ray retries whole files on top


@dataclass(frozen=True, slots=True)
class FileSystemRecipe:
    """How to reach one bucket from any process of a run.

    Attributes
    ----------
    address
        The bucket; its ``path`` is what the file system takes as the root of paths.
    env_vars
        Name and value of every variable that is harmless to print and that the SDK needs.
    connect_timeout, request_timeout
        Seconds. For S3 the second is how long a request may make no progress; for GCS, how long one is retried.
    """

    address: BucketAddress
    env_vars: tuple[tuple[str, str], ...] = ()
    connect_timeout: float = 10.0
    request_timeout: float = 60.0


class RecipeS3FileSystem(pyarrow.fs.S3FileSystem):  # type: ignore[misc]
    """An S3 file system that pickles as its recipe."""

    def __init__(self, recipe: FileSystemRecipe) -> None:
        super().__init__(**_s3_arguments(recipe))
        self.recipe = recipe
        self.on_delete: OnDelete | None = None

    def delete_dir(self, path: str) -> None:
        """Delete a folder; in the controller of a run, ``on_delete`` decides what that means for a checkpoint's."""
        parent: Any = super()
        _deleted(self.on_delete, path, lambda: parent.delete_dir(path))

    def create_dir(self, path: str, *, recursive: bool = True) -> None:
        """Do nothing: a bucket has no folders, and pyarrow would write a marker at every level above the path."""

    def __reduce__(self) -> tuple[Callable[[FileSystemRecipe], Any], tuple[FileSystemRecipe]]:
        return build, (self.recipe,)


class RecipeGcsFileSystem(pyarrow.fs.GcsFileSystem):  # type: ignore[misc]
    """A GCS file system that pickles as its recipe."""

    def __init__(self, recipe: FileSystemRecipe) -> None:
        super().__init__(**_gcs_arguments(recipe))
        self.recipe = recipe
        self.on_delete: OnDelete | None = None

    def delete_dir(self, path: str) -> None:
        """Delete a folder; in the controller of a run, ``on_delete`` decides what that means for a checkpoint's."""
        parent: Any = super()
        _deleted(self.on_delete, path, lambda: parent.delete_dir(path))

    def create_dir(self, path: str, *, recursive: bool = True) -> None:
        """Do nothing, as for S3."""

    def __reduce__(self) -> tuple[Callable[[FileSystemRecipe], Any], tuple[FileSystemRecipe]]:
        return build, (self.recipe,)


def build(recipe: FileSystemRecipe) -> Any:
    """Apply the recipe's variables to this process and build its ``pyarrow.fs.FileSystem``.

    Raises
    ------
    RequestError
        The scheme is neither ``s3`` nor ``gs``.
    """
    classes = {"s3": RecipeS3FileSystem, "gs": RecipeGcsFileSystem}
    if recipe.address.scheme not in classes:
        raise RequestError(f"{recipe.address.uri}: no file system for this scheme, only for {', '.join(classes)}")
    apply_to_process(dict(recipe.env_vars))
    return classes[recipe.address.scheme](recipe)


def _deleted(on_delete: OnDelete | None, path: str, plainly: Callable[[], None]) -> None:
    if on_delete is None:
        plainly()
    else:
        on_delete(path, plainly)


def _s3_arguments(recipe: FileSystemRecipe) -> dict[str, Any]:
    variables = dict(recipe.env_vars)
    # Without a region pyarrow asks the network for one, even where an endpoint is set.
    region = recipe.address.region or variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION")
    return {
        "region": region or DEFAULT_REGION,
        "connect_timeout": recipe.connect_timeout,
        "request_timeout": recipe.request_timeout,
        "retry_strategy": pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=_S3_ATTEMPTS),
        **_endpoint_arguments(recipe.address.endpoint),
    }


def _gcs_arguments(recipe: FileSystemRecipe) -> dict[str, Any]:
    # A GCS endpoint that is not Google's is an emulator, which wants no credentials.
    return {
        "anonymous": not own_endpoint(recipe.address),
        "retry_time_limit": timedelta(seconds=recipe.request_timeout),
        **_endpoint_arguments(recipe.address.endpoint),
    }


def _endpoint_arguments(endpoint: str | None) -> dict[str, str]:
    if endpoint is None:
        return {}
    parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
    return {"scheme": parts.scheme, "endpoint_override": f"{parts.netloc}{parts.path.rstrip('/')}"}
