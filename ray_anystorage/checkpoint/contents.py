"""What a checkpoint holds: the manifests of one attempt put together, or an error; never a mix."""

from __future__ import annotations

import fnmatch
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ray_anystorage.checkpoint.manifest import Manifest, file_and_folder
from ray_anystorage.errors import CheckpointIncompleteError, RankConflictError, RequestError


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a checkpoint.

    Attributes
    ----------
    path, size
        POSIX path below the checkpoint, and bytes.
    digest, chunks
        As manifests have them; ``None`` where nobody hashed the file, which then cannot be verified.
    location
        URI of the folder that holds it, or ``None`` for the checkpoint's own folder in the run home.
    """

    path: str
    size: int
    digest: str | None
    chunks: tuple[str, ...] | None
    location: str | None


@dataclass(frozen=True, slots=True)
class Contents:
    """The files of one attempt at one checkpoint.

    Attributes
    ----------
    checkpoint
        Its name: the folder below the run home.
    attempt
        Which start of the worker group saved it; ``None`` where this package did not.
    world_size, ranks
        How many ranks that had, and which of them saved something.
    files, directories
        In the order of the paths, each once.
    detours
        Why data lies elsewhere than it was to go, by rank.
    report
        Which of the run's reports saved it: another one may use the same name in the same attempt.
    seconds
        That the slowest rank's data took to be stored; ``None`` where that is not known.
    """

    checkpoint: str
    attempt: str | None
    world_size: int
    ranks: tuple[int, ...]
    files: tuple[StoredFile, ...]
    directories: tuple[str, ...] = ()
    detours: tuple[tuple[int, str], ...] = ()
    report: int = 0
    seconds: float | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def verifiable(self) -> bool:
        """True where every file has a digest to compare with."""
        return all(file.digest is not None for file in self.files)

    @property
    def locations(self) -> tuple[str | None, ...]:
        """Where the data lies, each place once, the run home as ``None``."""
        return tuple(dict.fromkeys(file.location for file in self.files))

    def find(self, path: str) -> StoredFile | None:
        """The file of a path; ``None`` where there is none."""
        at = bisect_left(self.files, path, key=lambda file: file.path)
        return self.files[at] if at < len(self.files) and self.files[at].path == path else None

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
        return replace(self, files=tuple(file for file in self.files if file.path in chosen), directories=())


def assemble(checkpoint: str, manifests: Iterable[Manifest], *, attempt: str, ranks: Sequence[int]) -> Contents:
    """Put the manifests of one report of an attempt together.

    Parameters
    ----------
    attempt
        The one that was committed.
    ranks
        Those that saved something; ranks that never reported (relaxed reports) are not missed.

    Raises
    ------
    CheckpointIncompleteError
        A rank has no manifest, or the manifests of the attempt contradict each other in world size.
    RankConflictError
        Two ranks stored different content under one name, or one of them a folder; names the file.
    """
    own = sorted((m for m in manifests if m.attempt == attempt and m.rank in ranks), key=lambda manifest: manifest.rank)
    missing = sorted(set(ranks) - {manifest.rank for manifest in own})
    if missing or not own:
        named = ", ".join(map(str, missing)) or "any rank"
        raise CheckpointIncompleteError(f"checkpoint {checkpoint}: attempt {attempt} has no manifest of rank {named}")
    sizes = {manifest.world_size for manifest in own}
    if len(sizes) > 1:
        raise CheckpointIncompleteError(
            f"checkpoint {checkpoint}: the manifests of attempt {attempt} speak of {sorted(sizes)} ranks: it is a mix, "
            "and not one checkpoint"
        )
    files = _files(own)
    directories = sorted({path for manifest in own for path in manifest.directories})
    if (both := file_and_folder(files, directories)) is not None:
        raise RankConflictError(
            f"checkpoint {checkpoint}: some ranks saved {both!r} as a file, others as a folder: have each rank write "
            "names of its own"
        )
    return Contents(
        checkpoint=checkpoint,
        attempt=attempt,
        world_size=sizes.pop(),
        ranks=tuple(manifest.rank for manifest in own),
        files=tuple(files[path] for path in sorted(files)),
        directories=tuple(directories),
        detours=tuple((manifest.rank, manifest.detour) for manifest in own if manifest.detour is not None),
        report=own[0].report,
        seconds=max(manifest.seconds for manifest in own),
    )


def _files(manifests: Sequence[Manifest]) -> dict[str, StoredFile]:
    files: dict[str, StoredFile] = {}
    owner: dict[str, int] = {}
    for manifest in manifests:
        for file in manifest.files:
            other = files.get(file.path)
            if other is not None and other.digest != file.digest:
                raise RankConflictError(
                    f"ranks {owner[file.path]} and {manifest.rank} saved different content under the same name, "
                    f"{file.path!r}: have each rank write names of its own, or only one rank write this file"
                )
            # Of two equal copies the one in the bucket counts: a full mount takes back what a rank stored inline.
            if other is None or (other.location is None and manifest.location is not None):
                files[file.path] = StoredFile(file.path, file.size, file.digest, file.chunks, manifest.location)
                owner[file.path] = manifest.rank
    return files
