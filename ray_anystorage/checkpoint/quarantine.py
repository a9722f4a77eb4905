"""Writing down that a checkpoint is damaged."""

from __future__ import annotations

import json

from ray_anystorage.checkpoint.contents import Contents
from ray_anystorage.checkpoint.manifest import FOLDER
from ray_anystorage.checkpoint.marks import begun_later
from ray_anystorage.checkpoint.read import read_contents
from ray_anystorage.checkpoint.record import damaged_key
from ray_anystorage.checkpoint.small_files import names_below, write
from ray_anystorage.errors import (
    CheckpointCorruptedError,
    CheckpointIncompleteError,
    CheckpointMissingError,
    ManifestTooNewError,
)
from ray_anystorage.transfer.store import Store

_LONGEST_REASON = 2000  # characters


def quarantine(home: Store, checkpoint: str, reason: str) -> None:
    """Note that a checkpoint is damaged, so that nobody resumes from it; ``reason`` in one line."""
    write(home, damaged_key(checkpoint), json.dumps({"reason": reason[:_LONGEST_REASON]}).encode())


def quarantine_read(home: Store, contents: Contents, reason: str) -> bool:
    """Note that a checkpoint that was read is damaged; false where it was deleted or saved again meanwhile.

    Then what was read says nothing about what is there, and in a deleted checkpoint's place the note would be rubbish.

    Raises
    ------
    StorageError, OSError
        The home cannot be read or written.
    """
    if not _still_holds(home, contents):
        return False
    quarantine(home, contents.checkpoint, reason)
    return True


def _still_holds(home: Store, contents: Contents) -> bool:
    names = names_below(home, f"{contents.checkpoint}/{FOLDER}")
    if contents.attempt is not None and begun_later(names, contents.attempt, contents.report):
        return False
    try:
        now = read_contents(home, contents.checkpoint, even_damaged=True)
    except (CheckpointIncompleteError, CheckpointMissingError, ManifestTooNewError):
        return False
    except CheckpointCorruptedError:  # its record or a manifest is damaged by now, too
        return True
    return (now.attempt, now.report) == (contents.attempt, contents.report)
