"""Finding out what a stored checkpoint holds, and writing down that it is one."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from ray_anystorage.checkpoint.contents import Contents, StoredFile, assemble
from ray_anystorage.checkpoint.manifest import (
    FOLDER,
    METADATA,
    POINTER,
    Manifest,
    check_path,
    manifest_attempt,
    read_manifest,
)
from ray_anystorage.checkpoint.marks import begun_later
from ray_anystorage.checkpoint.record import DAMAGED, RECORD, Record, damaged_key, read_record, record_key
from ray_anystorage.checkpoint.small_files import names_below, parsed, patiently, read, read_all, side_by_side, write
from ray_anystorage.checkpoint.unreadable import is_of_one_file
from ray_anystorage.errors import (
    CheckpointCorruptedError,
    CheckpointIncompleteError,
    CheckpointMissingError,
    CheckpointOverwrittenError,
    CheckpointUnreadableError,
    ManifestError,
    ManifestTooNewError,
    ObjectMissingError,
    RankConflictError,
    ShortReadError,
)
from ray_anystorage.events import Committed, Placed, operation
from ray_anystorage.transfer.posix_store import PosixStore
from ray_anystorage.transfer.store import Store

logger = logging.getLogger("ray.train.anystorage")
T = TypeVar("T")


def read_contents(home: Store, checkpoint: str, *, attempt: str | None = None, even_damaged: bool = False) -> Contents:
    """What a committed checkpoint holds.

    Parameters
    ----------
    home
        The run home.
    attempt
        The attempt that the caller knows saved it; another one's is refused. ``None`` takes what was committed.
    even_damaged
        Also one that was found damaged before.

    Raises
    ------
    CheckpointMissingError
        There is nothing of this name.
    CheckpointIncompleteError
        It was never committed, is being deleted, or a later save writes over it.
    CheckpointCorruptedError
        It was found damaged before, or a manifest or the record is torn, contradicts itself or names what it may not;
        a ``CheckpointUnreadableError`` where one cannot be read.
    ManifestTooNewError
        A later version of this package wrote it; that is no damage.
    StorageError, OSError
        The home cannot be read.
    """
    try:
        return _steadily(
            home, checkpoint, lambda names: _contents(home, checkpoint, names, attempt, even_damaged=even_damaged)
        )
    except (ObjectMissingError, ShortReadError) as error:
        raise CheckpointIncompleteError(f"checkpoint {checkpoint} is not whole: {error}") from error
    except ManifestTooNewError as error:
        raise ManifestTooNewError(f"checkpoint {checkpoint}: {error.message}") from error
    except (ManifestError, RankConflictError) as error:
        raise CheckpointCorruptedError(f"checkpoint {checkpoint} is damaged: {error.message}") from error
    except OSError as error:
        if not (isinstance(home, PosixStore) and is_of_one_file(error, home.root)):
            raise
        raise CheckpointUnreadableError(f"checkpoint {checkpoint} cannot be read: {error}") from error


def _steadily(home: Store, checkpoint: str, look: Callable[[dict[str, int]], T]) -> T:
    """Read what a list of this package's own files names, anew where somebody deletes or replaces some meanwhile."""
    names = names_below(home, f"{checkpoint}/{FOLDER}")
    while True:
        try:
            return look(names)
        except (ObjectMissingError, ShortReadError, ManifestError):
            before, names = names, names_below(home, f"{checkpoint}/{FOLDER}")
            if names == before:
                raise


def _contents(
    home: Store, checkpoint: str, names: dict[str, int], attempt: str | None, *, even_damaged: bool
) -> Contents:
    if DAMAGED in names and not even_damaged:
        raise CheckpointCorruptedError(
            f"checkpoint {checkpoint} was found damaged: {_reason(home, checkpoint, names[DAMAGED])}"
        )
    if RECORD not in names:
        if names:
            raise CheckpointIncompleteError(
                f"checkpoint {checkpoint} was never committed, or was deleted in part: it has no {FOLDER}/{RECORD}"
            )
        return _unknown(home, checkpoint)
    record = _record(home, checkpoint, names)
    if attempt not in (None, record.attempt):
        later = "another upload" if record.attempt is None else f"attempt {record.attempt}"
        raise CheckpointIncompleteError(f"checkpoint {checkpoint} of attempt {attempt} is gone: {later} wrote over it")
    return _recorded(home, checkpoint, names, record)


def commit(home: Store, checkpoint: str, attempt: str, *, report: int = 0) -> Contents:
    """Write the record of a checkpoint whose ranks have all reported; their manifests are durable by then.

    Parameters
    ----------
    report
        Of the attempt's reports under this name the one whose manifests count. Where it saved nothing, what an earlier
        one committed is reported again.

    Returns
    -------
    Contents
        What is in it. Doing it again changes nothing but the time of the record.

    Raises
    ------
    CheckpointOverwrittenError
        A rank saves a later report under this name already.
    CheckpointIncompleteError, RankConflictError, ManifestError
        The manifests do not make one checkpoint; no record is written.
    StorageError
        The home cannot be read or written.
    """
    with operation("commit", checkpoint=checkpoint) as under_way:
        contents = _commit(home, checkpoint, attempt, report)
        under_way.outcome = Committed(_placed(contents), contents.size)
        return contents


def _commit(home: Store, checkpoint: str, attempt: str, report: int) -> Contents:
    names, manifests = _steadily(home, checkpoint, partial(_of_report, home, checkpoint, attempt, report))
    _refuse_later(checkpoint, names_below(home, f"{checkpoint}/{FOLDER}"), attempt, report)
    if not manifests and RECORD in names:
        return _recorded(home, checkpoint, names, _record(home, checkpoint, names))
    contents = assemble(checkpoint, manifests, attempt=attempt, ranks=[manifest.rank for manifest in manifests])
    if DAMAGED in names:  # it speaks of what an earlier report left here
        patiently(lambda: home.delete([damaged_key(checkpoint)]))
    if isinstance(home, PosixStore) and all(manifest.location is None for manifest in manifests):
        patiently(lambda: home.delete([f"{checkpoint}/{POINTER}"]))  # of an earlier report, which was spilled
    record = Record(attempt, contents.ranks, contents.world_size, contents.size, report=report, committed=time.time())
    write(home, record_key(checkpoint), record.to_bytes())
    return contents


def _placed(contents: Contents) -> Placed:
    if contents.detours:
        return "fallen_back"
    return "routed" if set(contents.locations) - {None} else "home"


def _of_report(
    home: Store, checkpoint: str, attempt: str, report: int, names: dict[str, int]
) -> tuple[dict[str, int], list[Manifest]]:
    """The names again, and the manifests that one report left."""
    _refuse_later(checkpoint, names, attempt, report)
    return names, [m for m in _manifests(home, checkpoint, names, attempt) if m.report == report]


def _refuse_later(checkpoint: str, names: dict[str, int], attempt: str, report: int) -> None:
    """Refuse what a later report writes over; its marks are there before it replaces a manifest."""
    if begun_later(names, attempt, report):
        raise CheckpointOverwrittenError(f"checkpoint {checkpoint}: a later report of attempt {attempt} writes over it")


def commit_external(home: Store, checkpoint: str, *, report: int = 0) -> Contents:
    """Write the record of a checkpoint that somebody else stored: what can be listed of it, and no digest."""
    listing = tuple(sorted(_listed(home, checkpoint)[0].items()))
    record = Record(None, (), 0, sum(size for _, size in listing), listing, report, time.time())
    write(home, record_key(checkpoint), record.to_bytes())
    return _external(checkpoint, record)


def record_of(home: Store, checkpoint: str) -> Record | None:
    """The record of a committed checkpoint; ``None`` where it has none."""
    return _steadily(home, checkpoint, lambda names: _record(home, checkpoint, names) if RECORD in names else None)


def manifests_of(home: Store, checkpoint: str) -> list[Manifest]:
    """Every manifest of a checkpoint, of whatever attempt."""
    return _steadily(home, checkpoint, lambda names: _manifests(home, checkpoint, names, None))


def whole_manifests_of(home: Store, checkpoint: str, names: dict[str, int]) -> list[Manifest]:
    """Every manifest but those that are torn or contradict themselves, which a line in the log names.

    Other ranks may begin or end a save under the same name meanwhile: what is gone or replaced by now is left out.

    Raises
    ------
    ManifestTooNewError
        A later version of this package wrote one.
    """

    def look(name: str) -> list[Manifest]:
        try:
            return _manifests(home, checkpoint, {name: names[name]}, None)
        except (ObjectMissingError, ShortReadError):
            return []
        except ManifestTooNewError:
            raise
        except ManifestError as error:
            logger.warning("checkpoint %s: %s", checkpoint, error)
            return []

    return [manifest for found in side_by_side(look, sorted(names)) for manifest in found]


def _manifests(home: Store, checkpoint: str, names: dict[str, int], attempt: str | None) -> list[Manifest]:
    wanted = [name for name in sorted(names) if (own := manifest_attempt(name)) and attempt in (None, own)]
    keys = [f"{checkpoint}/{FOLDER}/{name}" for name in wanted]
    contents = read_all(home, [(key, names[name]) for key, name in zip(keys, wanted, strict=True)])
    return [
        parsed(home, key, content, partial(read_manifest, name))
        for key, name, content in zip(keys, wanted, contents, strict=True)
    ]


def _record(home: Store, checkpoint: str, names: dict[str, int]) -> Record:
    key = record_key(checkpoint)
    return parsed(home, key, read(home, key, names[RECORD]), read_record)


def _recorded(home: Store, checkpoint: str, names: dict[str, int], record: Record) -> Contents:
    """What this package stored for the report that was committed; never what another one put in its place."""
    if record.attempt is None:
        return _external(checkpoint, record)
    manifests = [m for m in _manifests(home, checkpoint, names, record.attempt) if m.report == record.report]
    return assemble(checkpoint, manifests, attempt=record.attempt, ranks=record.ranks)


def _external(checkpoint: str, record: Record) -> Contents:
    files = tuple(StoredFile(path, size, None, None, None) for path, size in sorted(record.listing))
    return Contents(checkpoint, None, record.world_size, record.ranks, files, report=record.report)


def _unknown(home: Store, checkpoint: str) -> Contents:
    """What stock Ray stored, which has no manifest."""
    listed, directories = _listed(home, checkpoint)
    if not listed:
        raise CheckpointMissingError(f"there is no checkpoint {checkpoint} in {home.uri}")
    files = tuple(StoredFile(path, size, None, None, None) for path, size in sorted(listed.items()))
    return Contents(checkpoint, None, 0, (), files, directories)


def _listed(home: Store, checkpoint: str) -> tuple[dict[str, int], tuple[str, ...]]:
    """Bytes by path of what somebody else stored, and folders of which a bucket only says that they are there."""
    listed = names_below(home, checkpoint)
    own = (METADATA, POINTER)
    files = {path: size for path, size in listed.items() if path not in own and not path.startswith(f"{FOLDER}/")}
    try:
        folders = {check_path(path) for path, size in files.items() if size == 0 and _is_folder(home, checkpoint, path)}
        return {check_path(path): size for path, size in files.items() if path not in folders}, tuple(sorted(folders))
    except ValueError as error:
        raise ManifestError(f"{home.uri}/{checkpoint}: {error}") from error


def _is_folder(home: Store, checkpoint: str, path: str) -> bool:
    """Whether an empty object only marks a folder: its key ends with a slash, which the listing does not show."""
    try:
        patiently(lambda: home.size(f"{checkpoint}/{path}"))
    except ObjectMissingError:
        return True
    return False


def _reason(home: Store, checkpoint: str, size: int) -> str:
    try:
        return str(json.loads(read(home, damaged_key(checkpoint), size))["reason"])
    except (ValueError, KeyError, TypeError) as error:
        return f"the note that says why is torn ({error!r})"
