"""What a checkpoint holds: the manifests of one attempt put together, or an error; never a mix."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ray_anystorage.checkpoint.manifest import FileEntry, Manifest
from ray_anystorage.checkpoint.save import refuse_conflicts
from ray_anystorage.errors import CheckpointIncompleteError, RequestError


@dataclass(frozen=True, slots=True)
class Contents:
    """The files of one attempt at one checkpoint.

    Attributes
    ----------
    checkpoint
        Its name: the folder below the run home.
    attempt, world_size, ranks
        Which start of the worker group saved it, how many ranks that had, and which of them saved something.
    location
        URI of the folder with the data, or ``None`` for the run home.
    files, directories
        In the order of the paths, each once.
    """

    checkpoint: str
    attempt: str
    world_size: int
    ranks: tuple[int, ...]
    location: str | None
    files: tuple[FileEntry, ...]
    directories: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def matching(self, patterns: str | Sequence[str]) -> Contents:
        """The same checkpoint less the files that no pattern names (``fnmatch``; ``*`` also matches ``/``).

        Raises
        ------
        RequestError
            A pattern names no file; the error names it and some that exist.
        """
        wanted = [patterns] if isinstance(patterns, str) else list(patterns)
        chosen: set[str] = set()
        for pattern in wanted:
            found = {file.path for file in self.files if fnmatch.fnmatchcase(file.path, pattern)}
            if not found:
                some = ", ".join(repr(file.path) for file in self.files[:5])
                raise RequestError(f"files={pattern!r} names nothing in checkpoint {self.checkpoint}, which has {some}")
            chosen |= found
        files = tuple(file for file in self.files if file.path in chosen)
        return Contents(
            self.checkpoint, self.attempt, self.world_size, self.ranks, self.location, files, directories=()
        )


def assemble(checkpoint: str, manifests: Iterable[Manifest], *, attempt: str, roster: Sequence[int]) -> Contents:
    """Put the manifests of one attempt together.

    Parameters
    ----------
    attempt
        The one that was committed.
    roster
        The ranks that reported; those that never did (relaxed reports) are not missed.

    Raises
    ------
    CheckpointIncompleteError
        A rank of the roster has no manifest, or the manifests of the attempt contradict each other in world size or
        place.
    RankConflictError
        Two ranks stored different content under one name.
    """
    own = [manifest for manifest in manifests if manifest.attempt == attempt and manifest.rank in roster]
    missing = sorted(set(roster) - {manifest.rank for manifest in own})
    if missing or not own:
        named = ", ".join(map(str, missing)) or "any rank"
        raise CheckpointIncompleteError(f"checkpoint {checkpoint}: attempt {attempt} has no manifest of rank {named}")
    sizes = {manifest.world_size for manifest in own}
    places = {manifest.location for manifest in own if manifest.files}
    if len(sizes) > 1 or len(places) > 1:
        raise CheckpointIncompleteError(
            f"checkpoint {checkpoint}: the manifests of attempt {attempt} speak of {sorted(sizes)} ranks and of data "
            f"in {sorted(place or 'the run home' for place in places)}: it is a mix, and not one checkpoint"
        )
    for index, manifest in enumerate(own):
        refuse_conflicts(manifest, own[index + 1 :])
    files = {file.path: file for manifest in own for file in manifest.files}
    directories = {path for manifest in own for path in manifest.directories}
    return Contents(
        checkpoint=checkpoint,
        attempt=attempt,
        world_size=sizes.pop(),
        ranks=tuple(sorted(manifest.rank for manifest in own)),
        location=places.pop() if places else None,
        files=tuple(files[path] for path in sorted(files)),
        directories=tuple(sorted(directories)),
    )
