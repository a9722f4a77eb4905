"""pyarrow file systems for buckets, built on the spot from a recipe that holds no secret.

Each is a Python subclass of pyarrow's own class that pickles as its recipe: the process that loads it applies the
recipe's variables first and reads the credentials from its own surroundings. pyarrow's stock classes would pickle keys
they were given, and forget region, endpoint and references where they were not. They are native where pyarrow's own
client can talk to the store as it wants, else they go through this package's store.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import pyarrow
import pyarrow.fs

from ray_anystorage.credentials.agent_address import address_in
from ray_anystorage.credentials.broker import serve_own, without_gone
from ray_anystorage.credentials.sources import find_sources, own_endpoint
from ray_anystorage.environment import BucketAddress
from ray_anystorage.errors import RequestError
from ray_anystorage.settings import apply_to_process, process_environment
from ray_anystorage.transfer.open_store import BucketRecipe
from ray_anystorage.transfer.retry import Patience
from ray_anystorage.transfer.s3_client import addressing
from ray_anystorage.transfer.store_handler import StoreHandler

DEFAULT_REGION = "us-east-1"
OnDelete = Callable[[str, Callable[[], None]], None]  # gets the path, and what would delete it and no more
_PYARROW, _PYARROW_WITH_CA_FILE = int(pyarrow.__version__.partition(".")[0]), 20
_BEFORE_AGENTS = ("static keys", "profile", "web identity")
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
        Seconds. For S3 the second is how long a request may make no progress; else, how long one is retried.
    copies_folders
        Whether whole folders are copied through it, as Ray Tune does. pyarrow's own client then asks for the bucket
        and writes a marker at every level above the folder, which the rights to one folder do not allow.
    """

    address: BucketAddress
    env_vars: tuple[tuple[str, str], ...] = ()
    connect_timeout: float = 10.0
    request_timeout: float = 60.0
    copies_folders: bool = False


class _OfRecipe:
    """What these file systems share: each pickles as its recipe, and in a controller its user is asked what goes."""

    recipe: FileSystemRecipe
    carried: Any = None  # whatever its user attached; it travels with it
    on_delete: OnDelete | None = None

    def delete_dir(self, path: str) -> None:
        """Delete a folder; in the controller of a run, ``on_delete`` decides what that means for a checkpoint's."""
        parent: Any = super()
        if self.on_delete is None:
            parent.delete_dir(path)
        else:
            self.on_delete(path, lambda: parent.delete_dir(path))

    def __reduce__(self) -> tuple[Any, ...]:
        if self.carried is None:
            return build, (self.recipe,)
        return _loaded, (self.recipe, self.carried)


class _Native(_OfRecipe):
    """One of pyarrow's own clients."""

    def create_dir(self, path: str, *, recursive: bool = True) -> None:
        """Do nothing: a bucket has no folders, and pyarrow would write a marker at every level above the path."""


class RecipeS3FileSystem(_Native, pyarrow.fs.S3FileSystem):  # type: ignore[misc]
    """An S3 file system that pickles as its recipe."""

    def __init__(self, recipe: FileSystemRecipe) -> None:
        super().__init__(**_s3_arguments(recipe))
        self.recipe = recipe


class RecipeGcsFileSystem(_Native, pyarrow.fs.GcsFileSystem):  # type: ignore[misc]
    """A GCS file system that pickles as its recipe."""

    def __init__(self, recipe: FileSystemRecipe) -> None:
        super().__init__(**_gcs_arguments(recipe))
        self.recipe = recipe


class StoreFileSystem(_OfRecipe, pyarrow.fs.PyFileSystem):  # type: ignore[misc]
    """A file system over this package's own store, for what pyarrow cannot ask of one; pickles as its recipe."""

    def __init__(self, recipe: FileSystemRecipe) -> None:
        bucket = BucketRecipe(replace(recipe.address, prefix=""), "ambient", "what this process has", recipe.env_vars)
        super().__init__(StoreHandler(bucket, Patience(give_up_after=recipe.request_timeout)))
        self.recipe = recipe


def build(recipe: FileSystemRecipe) -> Any:
    """Apply the recipe's variables to this process and build its ``pyarrow.fs.FileSystem``.

    Raises
    ------
    RequestError
        The scheme is none of ``s3``, ``gs`` and ``abfss``.
    """
    variables = dict(recipe.env_vars)
    apply_to_process(without_gone(variables))
    serve_own(variables)
    return _of_kind(recipe)


def _of_kind(recipe: FileSystemRecipe) -> Any:
    # Azure's own client in pyarrow signs in other ways than obstore, and makes containers and folders.
    native = {"s3": RecipeS3FileSystem, "gs": RecipeGcsFileSystem, "abfss": StoreFileSystem}
    if recipe.address.scheme not in native:
        raise RequestError(f"{recipe.address.uri}: no file system for this scheme, only for {', '.join(native)}")
    return (native[recipe.address.scheme] if _is_native(recipe) else StoreFileSystem)(recipe)


@lru_cache(maxsize=8)
def shared(recipe: FileSystemRecipe, carried: Hashable, _process: int) -> Any:
    """One file system for all of this process that were sent here alike: what holds many of them is pickled shortly.

    It is one of many that a file names, and sets no variables of this process: who looks at them is not who made them.
    """
    built = _of_kind(recipe)
    built.carried = carried
    return built


def _loaded(recipe: FileSystemRecipe, carried: Hashable) -> Any:
    return shared(recipe, carried, os.getpid())


def _is_native(recipe: FileSystemRecipe) -> bool:
    """Whether pyarrow's own client can ask as this store wants to be asked."""
    address, options = recipe.address, recipe.address.options
    if recipe.copies_folders or _is_outranked(recipe):
        return False
    if options.encryption or options.requester_pays:  # it sends no header of ours
        return False
    if options.addressing == "path" and address.endpoint is None:  # it has no word for that
        return False
    return options.ca_file is None or (address.scheme == "s3" and _PYARROW >= _PYARROW_WITH_CA_FILE)


def _is_outranked(recipe: FileSystemRecipe) -> bool:
    """Whether this process has keys of its own that pyarrow's client would take before those of a broker's agent."""
    if recipe.address.scheme != "s3" or address_in(dict(recipe.env_vars)) is None:
        return False
    return any(source.kind in _BEFORE_AGENTS for source in find_sources(recipe.address, process_environment()))


def _s3_arguments(recipe: FileSystemRecipe) -> dict[str, Any]:
    variables = dict(recipe.env_vars)
    # Without a region pyarrow asks the network for one, even where an endpoint is set.
    region = recipe.address.region or variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION")
    return {
        "region": region or DEFAULT_REGION,
        "connect_timeout": recipe.connect_timeout,
        "request_timeout": recipe.request_timeout,
        "retry_strategy": pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=_S3_ATTEMPTS),
        "force_virtual_addressing": addressing(recipe.address) == "virtual",
        **({"tls_ca_file_path": recipe.address.options.ca_file} if recipe.address.options.ca_file else {}),
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
