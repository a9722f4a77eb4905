"""Who may write to a run: the controller that started last. And what tells this run home from others of its name."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass

from ray_anystorage.checkpoint.manifest import FOLDER
from ray_anystorage.checkpoint.small_files import names_below, read, write
from ray_anystorage.errors import ManifestError, RunTakenOverError
from ray_anystorage.transfer.store import Store

_RUN, _OWNER = "run.json", "controller.json"


def run_id(home: Store) -> str:
    """The random id of a run home, made when it is first asked for.

    Two clusters may have runs of one name on mounts of their own and spill to one bucket; the id keeps them apart.
    """
    names = names_below(home, FOLDER)
    if _RUN not in names:
        write(home, f"{FOLDER}/{_RUN}", json.dumps({"id": secrets.token_hex(4)}).encode())
        names = names_below(home, FOLDER)
    return str(_values(home, _RUN, names[_RUN])["id"])


def known_run_id(home: Store) -> str | None:
    """The id of a run home; ``None`` where nobody has asked for one, and none is made."""
    names = names_below(home, FOLDER)
    return str(_values(home, _RUN, names[_RUN])["id"]) if _RUN in names else None


@dataclass(frozen=True, slots=True)
class Owner:
    """One controller's hold on a run home; ``who`` tells people where it is. No clock is compared.

    A controller that starts takes the run over: after a crash or a partition nothing must stand in the way of going on.
    The one before it learns of that at its next write, and ends with an error instead of writing into the other's run.
    """

    home: Store
    token: str
    who: str

    def take(self) -> None:
        """Become the owner."""
        self._write(released=False)

    def release(self) -> None:
        """Say that the run is not being written to any more."""
        if self._current()[0] == self.token:
            self._write(released=True)

    def check(self) -> None:
        """Raise where another controller took over.

        Raises
        ------
        RunTakenOverError
            Names the other one.
        """
        token, who, _ = self._current()
        if token != self.token:
            raise RunTakenOverError(
                f"another controller started the run at {self.home.uri} ({who}), and this one ({self.who}) stops "
                "writing to it. One run of a name at a time: give one of them another name."
            )

    def _write(self, *, released: bool) -> None:
        content = {"token": self.token, "who": self.who, "released": released}
        write(self.home, f"{FOLDER}/{_OWNER}", json.dumps(content).encode())

    def _current(self) -> tuple[str, str, bool]:
        return owner_of(self.home) or ("", "somebody removed its word", False)


def owner_of(home: Store) -> tuple[str, str, bool] | None:
    """Token, whereabouts and whether it released the run, of the last controller; ``None`` where there was none."""
    names = names_below(home, FOLDER)
    if _OWNER not in names:
        return None
    values = _values(home, _OWNER, names[_OWNER])
    return str(values["token"]), str(values["who"]), bool(values["released"])


def _values(home: Store, name: str, size: int) -> dict[str, object]:
    try:
        values = json.loads(read(home, f"{FOLDER}/{name}", size))
    except ValueError as error:
        raise ManifestError(f"{home.uri}/{FOLDER}/{name} is torn: {error}") from error
    if not isinstance(values, dict):
        raise ManifestError(f"{home.uri}/{FOLDER}/{name} is not what this package writes")
    return values
