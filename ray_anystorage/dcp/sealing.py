"""Torch's metadata file with the digests of everything behind it, where ``pickle.load`` does not look.

So one file makes a save visible, tells whether it is whole itself, and says what the others hold.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray_anystorage.checkpoint.sealed import seal, unseal
from ray_anystorage.errors import ManifestError
from ray_anystorage.transfer.digest import chunk_digest
from ray_anystorage.transfer.segments import Segments

FORMAT = 1
_MARK = b"\n--- what follows is of ray_anystorage ---\n"


def sealed(pickled: bytes, files: Mapping[str, Segments]) -> bytes:
    """A metadata file: torch's pickle, and the segments of each file by its name."""
    listed = {name: {"sizes": file.sizes, "digests": file.digests} for name, file in files.items()}
    return pickled + _MARK + seal({"format": FORMAT, "metadata": chunk_digest(pickled), "files": listed})


def unsealed(name: str, content: bytes) -> tuple[bytes, dict[str, Segments] | None]:
    """Torch's pickle, and the segments of the files; ``None`` where torch alone wrote it.

    Raises
    ------
    ManifestTooNewError
        A later version of this package wrote it.
    ManifestError
        It is torn, or a bit of it differs.
    """
    pickled, mark, listed = content.rpartition(_MARK)
    if not mark:
        return content, None
    values = unseal(name, listed, FORMAT)
    try:
        files = {path: Segments(tuple(f["sizes"]), tuple(f["digests"])) for path, f in values["files"].items()}
        digest = values["metadata"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{name} does not say what it should: {error!r}") from error
    if digest != chunk_digest(pickled):
        raise ManifestError(f"{name} is not what was written there")
    return pickled, files
