"""The store of a run home on a mount: small files get the reserve and a time limit, data is watched for stalls."""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

from ray_anystorage.errors import MountTimeoutError
from ray_anystorage.home.atomic import is_full
from ray_anystorage.home.filesystem import HomeFileSystem
from ray_anystorage.transfer.budget import Cancel
from ray_anystorage.transfer.digest import BytesLike
from ray_anystorage.transfer.open_store import StoreRecipe
from ray_anystorage.transfer.posix_store import PosixStore
from ray_anystorage.transfer.store import Store

T = TypeVar("T")
_SMALL_BYTES = 1 << 20  # a longer read is bounded by the piece


class HomeStore(PosixStore):
    """A run home as a store. A call that outlasts the mount's limit raises :class:`MountTimeoutError`."""

    def __init__(self, home: HomeFileSystem, *, requests: int = 4) -> None:
        super().__init__(home.recipe.home, requests=requests)
        self.home = home

    def write_small(self, key: str, data: BytesLike) -> str | None:
        """Replace a file atomically; on a full mount the reserve is given up for it, once."""
        given_up = Cancel()
        try:
            return self.home.call("write", self.path(key), lambda: self._write_with_room(given_up, key, data))
        except BaseException:  # also Ctrl-C
            given_up.set()
            raise

    def read_range(self, key: str, offset: int, into: memoryview) -> None:
        """Fill the buffer from a file."""
        if len(into) > _SMALL_BYTES:
            self._in_steps(lambda store: store.read_range(key, offset, into), f"read {self.path(key)}")
        else:
            self.home.call("read", self.path(key), lambda: PosixStore.read_range(self, key, offset, into))

    def size(self, key: str) -> int:
        """Bytes of a file."""
        return self.home.call("stat", self.path(key), lambda: PosixStore.size(self, key))

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Regular files below a folder."""
        return iter(self._in_steps(lambda store: [*store.list(prefix)], f"list {self.root}/{prefix}"))

    def delete(self, keys: Iterable[str]) -> None:
        """Remove files, and the folders that this leaves empty."""
        for key in keys:
            self.home.call("delete", self.path(key), lambda key=key: PosixStore.delete(self, [key]))  # type: ignore[misc]

    def unfinished(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Temporary files."""
        return iter(self._in_steps(lambda store: [*store.unfinished(prefix)], f"list {self.root}/{prefix}"))

    def discard(self, key: str, token: str) -> None:
        """Remove a temporary file."""
        self.home.call("delete", self.path(token), lambda: PosixStore.discard(self, key, token))

    def remove_empty(self, prefix: str) -> None:
        """Remove a folder that holds nothing but folders."""
        self._in_steps(lambda store: store.remove_empty(prefix), f"delete {self.path(prefix)}")

    def free_bytes(self) -> int:
        """Bytes that are free on the mount."""
        status = self.home.call("stat", self.root, lambda: os.statvfs(_existing(self.root)))
        return status.f_bavail * status.f_frsize

    def watched(self, action: Callable[[Cancel, Callable[[int], None]], T], what: str) -> T:
        """Run an action that reports progress in bytes; give up on it when none comes within the mount's limit.

        Raises
        ------
        MountTimeoutError
            Nothing moved for that long. The action is cancelled; a thread that the kernel holds stays behind.
        """
        limit = self.home.recipe.call_timeout
        watch = _Watch(limit)
        try:
            return watch.run(lambda: action(watch.cancel, watch.moved), what)
        except TimeoutError as error:
            if not watch.stalled:
                raise
            raise MountTimeoutError(
                f"moved no bytes for {limit:g} s",
                tier=self.home.recipe.tier,
                place=self.home.recipe.root,
                tried=what,
                remedy="see whether the mount's server or daemon is alive, and how busy it is",
            ) from error

    def _in_steps(self, action: Callable[[PosixStore], T], what: str) -> T:
        """Run what takes the longer the more there is: the mount's limit is for each of its steps."""

        def run(cancel: Cancel, moved: Callable[[int], None]) -> T:
            store = PosixStore(self.root, alive=partial(moved, 0), cancel=cancel)
            store.counters = self.counters
            return action(store)

        return self.watched(run, what)

    def _write_with_room(self, given_up: Cancel, key: str, data: BytesLike) -> str | None:
        try:
            return self.write_unless(given_up, key, data)
        except OSError as error:
            if not is_full(error) or not self.home.reserve.give_up():
                raise
            return self.write_unless(given_up, key, data)


def as_store(filesystem: object, home: StoreRecipe) -> Store:
    """A run home as a store: through its file system, where that is a mount's, else as the recipe opens it."""
    return HomeStore(filesystem) if isinstance(filesystem, HomeFileSystem) else home.open()


def watched(store: Store | None, action: Callable[[Cancel, Callable[[int], None]], T], what: str) -> T:
    """Run an action that reads from a store; given up on where that is a mount from which nothing comes any more."""
    if isinstance(store, HomeStore):
        return store.watched(action, what)
    return action(Cancel(), lambda _: None)


class _Watch:
    """Waits for an action in another thread as long as it moves."""

    def __init__(self, limit: float) -> None:
        self.cancel = Cancel()
        self.stalled = False
        self._limit = limit
        self._moves = 0
        self._lock = threading.Lock()

    def moved(self, size: int) -> None:
        with self._lock:
            self._moves += 1

    def run(self, action: Callable[[], T], what: str) -> T:
        outcome: list[T] = []
        errors: list[BaseException] = []
        ended = threading.Event()

        def work() -> None:
            try:
                outcome.append(action())
            except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
                errors.append(error)
            finally:
                ended.set()

        # In the caller's context: what is told of the action is told as a part of what the caller does.
        context = contextvars.copy_context()
        threading.Thread(target=lambda: context.run(work), name=f"anystorage {what}", daemon=True).start()
        with self._cancelled_on_error():
            self._wait(ended, what)
        if errors:
            raise errors[0]
        return outcome[0]

    @contextlib.contextmanager
    def _cancelled_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:  # also Ctrl-C
            self.cancel.set()
            raise

    def _wait(self, ended: threading.Event, what: str) -> None:
        seen = -1
        while not ended.wait(self._limit):
            with self._lock:
                moves = self._moves
            if moves == seen:
                self.stalled = True
                raise TimeoutError(f"{what}: nothing moved for {self._limit:g} s")
            seen = moves


def _existing(path: str) -> str:
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path
