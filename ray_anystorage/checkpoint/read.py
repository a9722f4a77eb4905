"""Finding out what a stored checkpoint holds, and writing down that it is one."""

from __future__ import annotations

import json
from collections.abc import Container

from ray_anystorage.checkpoint.contents import Contents, StoredFile, assemble
from ray_anystorage.checkpoint.manifest import FOLDER, METADATA, POINTER, Manifest, manifest_attempt, read_manifest
from ray_anystorage.checkpoint.record import DAMAGED, RECORD, Record, damaged_key, read_record, record_key
from ray_anystorage.checkpoint.small_files import names_below, read, read_all, write
from ray_anystorage.errors import CheckpointCorruptedError, CheckpointIncompleteError, CheckpointMissingError
from ray_anystorage.transfer.store import Store

_LONGEST_REASON = 2000  # characters


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
        It was never committed, is being deleted, or a later attempt wrote over it.
    CheckpointCorruptedError
        It was found damaged before.
    ManifestError
        A manifest or the record is torn, contradicts itself, or comes from a later version.
    RankConflictError
        Two ranks stored different content under one name.
    StorageError
        The home cannot be read.
    """
    names = names_below(home, f"{checkpoint}/{FOLDER}")
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
    record = read_record(read(home, record_key(checkpoint), names[RECORD]))
    if record.attempt is None:
        return _external(checkpoint, record)
    if attempt is not None and attempt != record.attempt:
        raise CheckpointIncompleteError(
            f"checkpoint {checkpoint} of attempt {attempt} is gone: attempt {record.attempt} wrote over it"
        )
    manifests = _manifests(home, checkpoint, names, record.attempt)
    return assemble(checkpoint, manifests, attempt=record.attempt, ranks=record.ranks)


def commit(home: Store, checkpoint: str, attempt: str, *, former: Container[str] = ()) -> tuple[Contents, set[str]]:
    """Write the record of a checkpoint whose ranks have all reported; their manifests are durable by then.

    Parameters
    ----------
    former
        Tokens of manifests that an earlier commit of this name in this attempt counted. A rank that saved then and not
        this time has left its old one, which must not be mixed in.

    Returns
    -------
    Contents, set of str
        What is in it, and the tokens of its manifests. Doing it again changes nothing.

    Raises
    ------
    CheckpointIncompleteError, RankConflictError, ManifestError
        The manifests do not make one checkpoint; no record is written.
    StorageError
        The home cannot be read or written.
    """
    names = names_below(home, f"{checkpoint}/{FOLDER}")
    manifests = [m for m in _manifests(home, checkpoint, names, attempt) if m.token not in former]
    contents = assemble(checkpoint, manifests, attempt=attempt, ranks=[manifest.rank for manifest in manifests])
    record = Record(attempt, contents.ranks, contents.world_size, contents.size)
    write(home, record_key(checkpoint), record.to_bytes())
    return contents, {manifest.token for manifest in manifests}


def commit_external(home: Store, checkpoint: str) -> Contents:
    """Write the record of a checkpoint that somebody else stored: what can be listed of it, and no digest."""
    listing = tuple(sorted(_listed(home, checkpoint).items()))
    record = Record(None, (), 0, sum(size for _, size in listing), listing)
    write(home, record_key(checkpoint), record.to_bytes())
    return _external(checkpoint, record)


def record_of(home: Store, checkpoint: str) -> Record | None:
    """The record of a committed checkpoint; ``None`` where it has none."""
    names = names_below(home, f"{checkpoint}/{FOLDER}")
    return read_record(read(home, record_key(checkpoint), names[RECORD])) if RECORD in names else None


def quarantine(home: Store, checkpoint: str, reason: str) -> None:
    """Note that a checkpoint is damaged, so that nobody resumes from it; ``reason`` in one line."""
    write(home, damaged_key(checkpoint), json.dumps({"reason": reason[:_LONGEST_REASON]}).encode())


def manifests_of(home: Store, checkpoint: str, names: dict[str, int] | None = None) -> list[Manifest]:
    """Every manifest of a checkpoint, of whatever attempt."""
    return _manifests(home, checkpoint, names_below(home, f"{checkpoint}/{FOLDER}") if names is None else names, None)


def _manifests(home: Store, checkpoint: str, names: dict[str, int], attempt: str | None) -> list[Manifest]:
    wanted = [name for name in sorted(names) if (own := manifest_attempt(name)) and attempt in (None, own)]
    contents = read_all(home, [(f"{checkpoint}/{FOLDER}/{name}", names[name]) for name in wanted])
    return [read_manifest(name, content) for name, content in zip(wanted, contents, strict=True)]


def _external(checkpoint: str, record: Record) -> Contents:
    files = tuple(StoredFile(path, size, None, None, None) for path, size in record.listing)
    return Contents(checkpoint, None, record.world_size, record.ranks, files)


def _unknown(home: Store, checkpoint: str) -> Contents:
    """What stock Ray stored, which has no manifest."""
    listed = _listed(home, checkpoint)
    if not listed:
        raise CheckpointMissingError(f"there is no checkpoint {checkpoint} in {home.uri}")
    files = tuple(StoredFile(path, size, None, None, None) for path, size in sorted(listed.items()))
    return Contents(checkpoint, None, 0, (), files)


def _listed(home: Store, checkpoint: str) -> dict[str, int]:
    listed = names_below(home, checkpoint)
    own = (METADATA, POINTER)
    return {path: size for path, size in listed.items() if path not in own and not path.startswith(f"{FOLDER}/")}


def _reason(home: Store, checkpoint: str, size: int) -> str:
    try:
        return str(json.loads(read(home, damaged_key(checkpoint), size))["reason"])
    except (ValueError, KeyError, TypeError) as error:
        return f"the note that says why is torn ({error!r})"
