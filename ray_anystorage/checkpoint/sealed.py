"""JSON that carries a digest of itself, so that any bit of it that flips is found, whatever the bit said.

This is the envelope of every format, also of later ones: a newer format is told from a damaged file before anything in
it is understood.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ray_anystorage.errors import ManifestError, ManifestTooNewError
from ray_anystorage.transfer.digest import chunk_digest

_SUM = b',"sum":"'


def seal(values: Mapping[str, Any]) -> bytes:
    """The values as one JSON object, whose last field is the digest of all before it."""
    body = json.dumps(values, separators=(",", ":")).encode()[:-1]
    return body + _SUM + chunk_digest(body).encode() + b'"}'


def unseal(name: str, content: bytes, newest: int) -> dict[str, Any]:
    """Parse what :func:`seal` made.

    Parameters
    ----------
    name
        Of the file, for errors.
    newest
        The newest ``format`` that the caller reads.

    Raises
    ------
    ManifestTooNewError
        It is whole, and of a later format.
    ManifestError
        It is torn, or a bit of it differs.
    """
    body, _, rest = content.rpartition(_SUM)
    if rest != chunk_digest(body).encode() + b'"}':
        raise ManifestError(f"{name} is torn, or not what was written there")
    try:
        values: dict[str, Any] = json.loads(body + b"}")
        written = int(values["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{name} has no format: {error!r}") from error
    if written > newest:
        raise ManifestTooNewError(
            f"{name} has format {written}, and this version of ray_anystorage reads up to {newest}: upgrade it"
        )
    return values
