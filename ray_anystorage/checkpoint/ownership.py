"""Who may write to a run: one controller at a time, and the workers of its present attempt. And where it spills to."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import posixpath
import secrets
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from ray_anystorage.checkpoint.manifest import FOLDER
from ray_anystorage.checkpoint.small_files import names_below, patiently, read, write
from ray_anystorage.errors import (
    AttemptEndedError,
    ManifestError,
    ObjectMissingError,
    RunInUseError,
    RunTakenOverError,
    ShortReadError,
)
from ray_anystorage.transfer.store import Store

logger = logging.getLogger("ray.train.anystorage")

_RUN, _OWNER = "run.json", "controller.json"
_WORD_BYTES = 1024  # the owner's word is padded, so that one request of a known length reads it
_LONGEST = 100  # characters of what is for people in it


class Holder(NamedTuple):
    """The controller that a run's word names: ``who`` for people, ``process`` for its cluster, if that knows it.

    ``attempt`` is the start of the worker group that it waits for; empty before the first and after the last.
    """

    token: str
    who: str
    released: bool
    process: str
    attempt: str


class Spills(NamedTuple):
    """Folders of the bucket with spilled data of a run home, by name.

    ``own`` is where its new data goes, ``None`` where it has none yet. ``former`` are those that a home came with which
    lies elsewhere than it did: whether it was moved or is a copy, of a run that goes on, nothing tells. Its old
    checkpoints are read from there; nothing there is its to delete.
    """

    own: str | None
    former: tuple[str, ...]


def spills_of(home: Store) -> Spills:
    """Where a run home has spilled to.

    Raises
    ------
    ManifestError
        What it says of that is torn.
    """
    names = names_below(home, FOLDER)
    if _RUN not in names:
        return Spills(None, ())
    values = _parsed(home, _RUN, read(home, f"{FOLDER}/{_RUN}", names[_RUN]))
    try:
        there, folder, former = str(values["home"]), str(values["spill"]), tuple(map(str, values["former"]))
    except (KeyError, TypeError) as error:
        raise ManifestError(f"{home.uri}/{FOLDER}/{_RUN} is not what this package writes: {error!r}") from error
    return Spills(folder, former) if there == home.uri else Spills(None, (*former, folder))


def own_spill(home: Store) -> str:
    """The folder that a run home spills to, made up where it has none; for who holds the run.

    Two clusters may have runs of one name on mounts of their own and spill to one bucket; chance keeps them apart.
    """
    known = spills_of(home)
    if known.own is not None:
        return known.own
    folder = f"{posixpath.basename(home.uri)}-{secrets.token_hex(8)}"
    if known.former:
        logger.warning(
            "the run home %s was moved here or is a copy: what it has in the bucket's folders %s is read there and "
            "never deleted; ray-anystorage prune shows what nothing here refers to",
            home.uri,
            ", ".join(known.former),
        )
    values = {"home": home.uri, "spill": folder, "former": known.former}
    write(home, f"{FOLDER}/{_RUN}", json.dumps(values).encode())
    return spills_of(home).own or folder  # of two that start at once, the later one's


@dataclass(frozen=True, slots=True)
class Owner:
    """One controller's hold on a run home. No clock is compared.

    A controller that starts takes the run over unless the one before is known to be alive: after a crash or a partition
    nothing must stand in the way of going on. The one before it learns of that at its next write, and ends with an
    error instead of writing into the other's run.

    Attributes
    ----------
    who
        Tells people where it is.
    process
        Tells its cluster; empty where no cluster knows it.
    """

    home: Store
    token: str
    who: str
    process: str = ""

    def take(self, is_alive: Callable[[str], bool] = lambda process: False) -> None:
        """Become the owner.

        Parameters
        ----------
        is_alive
            Whether a process is known to be alive; false where that cannot be told.

        Raises
        ------
        RunInUseError
            The controller before this one has not ended, and is alive; names it.
        """
        try:
            other = owner_of(self.home)
        except ManifestError:
            other = None
        if other is not None and not other.released and other.process and is_alive(other.process):
            raise RunInUseError(
                f"the run at {self.home.uri} is being written to by another controller ({other.who}), which is alive. "
                "Give this run another name; or, to go on with that one here, stop the other first: end its driver or "
                "that process."
            )
        self._write()

    def begin(self, attempt: str) -> None:
        """Say that a worker group starts: from here on, workers of earlier ones save nothing any more.

        A worker that was cut off from the cluster lives on and may reach the storage when it has a successor already.

        Raises
        ------
        RunTakenOverError
            Names the other controller.
        """
        self.check()
        self._write(attempt)

    def release(self) -> None:
        """Say that this controller does not write to the run any more."""
        last = self._current()
        if last.token == self.token and not last.released:
            self._write(released=True)

    def check(self, attempt: str | None = None) -> None:
        """Raise where another controller took over, or began another attempt than the one given; costs one request.

        Raises
        ------
        RunTakenOverError
            Names the other controller.
        AttemptEndedError
            The controller waits for other workers than those of this attempt.
        """
        other = self._current()
        if other.token != self.token:
            raise RunTakenOverError(
                f"another controller started the run at {self.home.uri} ({other.who}), and this one ({self.who}) stops "
                "writing to it. One run of a name at a time: give one of them another name."
            )
        if attempt not in (None, other.attempt):
            raise AttemptEndedError(
                f"{self.who} is of a worker group of the run at {self.home.uri} that its controller ({other.who}) "
                "replaced or ended, and stops writing to it."
            )

    def _write(self, attempt: str = "", *, released: bool = False) -> None:
        own = {
            "token": self.token,
            "who": self.who[:_LONGEST],
            "released": released,
            "process": self.process,
            "attempt": attempt,
        }
        write(self.home, f"{FOLDER}/{_OWNER}", json.dumps(own).encode().ljust(_WORD_BYTES))

    def _current(self) -> Holder:
        return owner_of(self.home) or Holder("", "somebody removed its word", False, "", "")


def owner_of(home: Store, request: Callable[[Callable[[], None]], None] = patiently) -> Holder | None:
    """The last controller of a run; ``None`` where there was none. ``request`` says how often it is tried.

    Raises
    ------
    ManifestError
        Its word is torn.
    """
    key, word = f"{FOLDER}/{_OWNER}", bytearray(_WORD_BYTES)
    try:
        request(lambda: home.read_range(key, 0, memoryview(word)))
    except ObjectMissingError:
        return None
    except ShortReadError as error:
        raise ManifestError(f"{home.uri}/{key} is torn: {error}") from error
    values = _parsed(home, _OWNER, bytes(word))
    token, who, process, attempt = (str(values[name]) for name in ("token", "who", "process", "attempt"))
    return Holder(token, who, bool(values["released"]), process, attempt)


def _parsed(home: Store, name: str, content: bytes) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except ValueError as error:
        raise ManifestError(f"{home.uri}/{FOLDER}/{name} is torn: {error}") from error
    if not isinstance(values, dict):
        raise ManifestError(f"{home.uri}/{FOLDER}/{name} is not what this package writes")
    return values


@contextlib.contextmanager
def holding(home: Store, what: str) -> Iterator[Owner]:
    """Be the one that holds a run home, as ``what`` in this process, for the length of a ``with`` block.

    A controller that starts meanwhile takes it over, which :meth:`Owner.check` tells.
    """
    owner = Owner(home, secrets.token_hex(8), f"{what}, process {os.getpid()} on {socket.gethostname()}")
    owner.take()
    try:
        yield owner
    finally:
        owner.release()
