"""A local pyarrow file system for run homes on mounts: atomic files, a reserve, and a time limit for its calls.

Ray treats it as local (it is an instance of, and equal to, ``pyarrow.fs.LocalFileSystem``), so checkpoints open in
place without a copy. Ray's own copying runs in C++ below this, neither atomic nor bounded.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs

from ray_anystorage.discovery.probe import bounded
from ray_anystorage.environment import Tier
from ray_anystorage.errors import MountFullError, MountTimeoutError
from ray_anystorage.home.atomic import AtomicFile, is_full, write_atomically
from ray_anystorage.home.reserve import STATE_FOLDER, Reserve
from ray_anystorage.home.stream import HomeStream
from ray_anystorage.transfer.pyarrow_fs import OnDelete

logger = logging.getLogger(__name__)
T = TypeVar("T")
_COMPRESSED = (".bz2", ".gz", ".lz4", ".zst")  # what pyarrow goes by
_READ_AT_ONCE = 16 << 20  # bytes


@dataclass(frozen=True, slots=True)
class HomeRecipe:
    """What it takes to build the file system of one run home, on any node.

    Attributes
    ----------
    tier, root
        The mount.
    home
        The run home, a folder under ``root``.
    mirrored
        Names of files in the home of which a second copy is kept in its ``.anystorage`` folder.
    call_timeout
        Seconds that one call may take.
    """

    tier: Tier
    root: str
    home: str
    mirrored: tuple[str, ...]
    call_timeout: float


class HomeFileSystem(pyarrow.fs.LocalFileSystem):  # type: ignore[misc]
    """The file system of one run home. A call that outlasts its limit raises :class:`MountTimeoutError`.

    Attributes
    ----------
    carried
        Whatever its user attached; it travels with it.
    """

    def __init__(self, recipe: HomeRecipe, carried: Any = None) -> None:
        super().__init__()
        self.recipe, self.carried = recipe, carried
        self.reserve = Reserve(recipe.home)
        self.on_delete: OnDelete | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return (HomeFileSystem if self.carried is None else shared), (self.recipe, self.carried)

    def open_output_stream(
        self, path: str, compression: str | None = "detect", buffer_size: int | None = None, metadata: Any = None
    ) -> pa.NativeFile:
        """Open a file that takes its place, whole and durable, when it is closed without an error.

        A file that pyarrow would compress, by its name or by the argument, is left to pyarrow.
        """
        if compression is not None and (compression != "detect" or path.endswith(_COMPRESSED)):
            parent: Any = super()
            return self.call("open", path, lambda: parent.open_output_stream(path, compression, buffer_size, metadata))
        file = self.call("open", path, lambda: AtomicFile(path, self.reserve.give_up))
        return HomeStream(file, path, self.call, lambda: self.committed(path))

    def open_append_stream(self, path: str, *arguments: Any, **options: Any) -> Any:
        parent: Any = super()
        return self.call("open", path, lambda: parent.open_append_stream(path, *arguments, **options))

    def committed(self, path: str) -> None:
        """Copy a mirrored file beside; called after it took its place."""
        directory, name = os.path.split(path)
        if name in self.recipe.mirrored and os.path.normpath(directory) == os.path.normpath(self.recipe.home):
            with open(path, "rb") as file:
                content = file.read()
            try:
                write_atomically(mirror_of(path), content, self.reserve.give_up)
            except OSError as error:
                if not is_full(error):
                    raise
                logger.warning("no space for a second copy of %s; an older one stays: %s", path, error)

    def get_file_info(self, paths_or_selector: Any) -> Any:
        what = getattr(paths_or_selector, "base_dir", paths_or_selector)
        parent: Any = super()
        return self.call("stat", str(what), lambda: parent.get_file_info(paths_or_selector))

    def create_dir(self, path: str, *, recursive: bool = True) -> None:
        parent: Any = super()
        self.call("create", path, lambda: parent.create_dir(path, recursive=recursive))

    def delete_dir(self, path: str) -> None:
        """Delete a folder; in the controller of a run, ``on_delete`` decides what that means for a checkpoint's."""
        parent: Any = super()

        def plainly() -> None:
            self.call("delete", path, lambda: parent.delete_dir(path))

        if self.on_delete is None:
            plainly()
        else:
            self.on_delete(path, plainly)

    def delete_dir_contents(self, path: str, **options: Any) -> None:
        parent: Any = super()
        self.call("empty", path, lambda: parent.delete_dir_contents(path, **options))

    def copy_file(self, src: str, dest: str) -> None:
        parent: Any = super()
        self.call("copy", src, lambda: parent.copy_file(src, dest))

    def delete_file(self, path: str) -> None:
        parent: Any = super()
        self.call("delete", path, lambda: parent.delete_file(path))

    def move(self, src: str, dest: str) -> None:
        parent: Any = super()
        self.call("move", src, lambda: parent.move(src, dest))

    def open_input_stream(self, path: str, compression: str | None = "detect", buffer_size: int | None = None) -> Any:
        """Open a file for reading. A small one, such as Ray's snapshot, is read at once: that is bounded too."""
        parent: Any = super()

        def open_or_read() -> Any:
            stream = parent.open_input_stream(path, compression, buffer_size)
            if os.path.getsize(path) > _READ_AT_ONCE:
                return stream
            with stream:
                return pa.BufferReader(stream.read())

        return self.call("open", path, open_or_read)

    def open_input_file(self, path: str) -> Any:
        parent: Any = super()
        return self.call("open", path, lambda: parent.open_input_file(path))

    def call(self, verb: str, path: str, action: Callable[[], T]) -> T:
        """Run one call on the mount within the time limit, and say "full" and "hung" in this package's words."""
        limit = self.recipe.call_timeout
        try:
            return bounded(action, limit, what=f"{verb} {path}")
        except TimeoutError as error:
            raise MountTimeoutError(
                f"does not answer within {limit:g} s",
                tier=self.recipe.tier,
                place=self.recipe.root,
                tried=f"{verb} {path}",
                remedy="see whether the mount's server or daemon is alive; the run's state is intact, and the same "
                "name resumes when the mount is back",
            ) from error
        except OSError as error:
            if not is_full(error):
                raise
            raise full_error(self.recipe, f"{verb} {path}") from error


@lru_cache(maxsize=8)
def shared(recipe: HomeRecipe, carried: Hashable) -> HomeFileSystem:
    """One file system for all of this process that were sent here alike: what holds many of them is pickled shortly."""
    return HomeFileSystem(recipe, carried)


def mirror_of(path: str) -> str:
    """Where the second copy of a mirrored file lies."""
    directory, name = os.path.split(path)
    return os.path.join(directory, STATE_FOLDER, name)


def full_error(recipe: HomeRecipe, tried: str) -> MountFullError:
    """The error of a run home that is full."""
    return MountFullError(
        "has no space left for the run",
        tier=recipe.tier,
        place=recipe.root,
        tried=tried,
        remedy="free some space there, or keep fewer checkpoints with CheckpointConfig(num_to_keep=…); the run's "
        "state is intact, and the same name resumes where it was",
    )
