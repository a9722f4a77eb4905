"""The manifest: what one rank stored for one checkpoint, written after its data is durable.

One JSON file per rank and attempt in the checkpoint's own ``.anystorage`` folder. Its fields are fixed by
:data:`FORMAT`; a reader refuses a newer format rather than guess.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ray_anystorage.checkpoint.course import Course, read_course
from ray_anystorage.checkpoint.sealed import seal, unseal
from ray_anystorage.errors import ManifestError, ManifestTooNewError
from ray_anystorage.transfer.digest import ALGORITHM, CHUNK_BYTES
from ray_anystorage.transfer.temporary import is_temporary

FORMAT = 1
FOLDER = ".anystorage"
METADATA = ".metadata.json"  # Ray's own note beside the data, which may change after the save: nobody hashes it
POINTER = "DATA_IS_ELSEWHERE.txt"
_NAME = re.compile(r"manifest-(?P<attempt>[0-9a-z]+)-(?P<rank>[0-9]+)-of-(?P<world>[0-9]+)\.json")
_DIGEST = re.compile(r"[0-9a-f]{16,64}")
_LONGEST_PATH = 4096  # bytes; PATH_MAX on Linux


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file: its path below the checkpoint (POSIX, relative), its bytes, its digest and that of each chunk.

    ``etag`` is the store's own mark of it when it was stored, ``None`` where the store gave none.
    """

    path: str
    size: int
    digest: str
    chunks: tuple[str, ...]
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one rank stored.

    Attributes
    ----------
    attempt
        Which start of the worker group saved it: manifests of one checkpoint belong together when this is the same.
    rank, world_size
        Of the rank that saved, and how many ranks that attempt had.
    location
        The URI of the folder that holds the data, or ``None`` where it lies beside the manifest.
    algorithm, chunk_bytes
        Of the digests; a chunk is this many bytes, the last one fewer.
    files, directories
        Every file, and the directories without any, in the order of their paths.
    detour
        Why the data lies elsewhere than it was to go, in one line; ``None`` where it lies as planned.
    seconds
        That storing the data took.
    report
        Which of the run's reports it was saved for: another one may use the same checkpoint name in the same attempt.
    course
        When it had come how far; ``None`` where an earlier version of this package wrote it.
    """

    attempt: str
    rank: int
    world_size: int
    location: str | None
    algorithm: str
    chunk_bytes: int
    files: tuple[FileEntry, ...]
    directories: tuple[str, ...] = ()
    detour: str | None = None
    seconds: float = 0.0
    report: int = 0
    course: Course | None = None

    @property
    def name(self) -> str:
        """The manifest's file name."""
        return f"manifest-{self.attempt}-{self.rank}-of-{self.world_size}.json"

    @property
    def size(self) -> int:
        """Bytes of data."""
        return sum(file.size for file in self.files)

    def to_bytes(self) -> bytes:
        """The manifest as it is stored."""
        return seal(
            {
                "format": FORMAT,
                "attempt": self.attempt,
                "rank": self.rank,
                "world_size": self.world_size,
                "location": self.location,
                "algorithm": self.algorithm,
                "chunk_bytes": self.chunk_bytes,
                "files": [[file.path, file.size, file.digest, list(file.chunks)] for file in self.files],
                "etags": [file.etag for file in self.files],
                "directories": list(self.directories),
                "detour": self.detour,
                "seconds": round(self.seconds, 3),
                "report": self.report,
                "course": self.course.to_list() if self.course is not None else None,
            }
        )


def manifest_attempt(name: str) -> str | None:
    """The attempt that a manifest's file name speaks of; ``None`` for the name of something else."""
    match = _NAME.fullmatch(name)
    return match["attempt"] if match else None


def manifest_rank(name: str) -> int | None:
    """The rank that a manifest's file name speaks of; ``None`` for the name of something else."""
    match = _NAME.fullmatch(name)
    return int(match["rank"]) if match else None


def read_manifest(name: str, content: bytes) -> Manifest:
    """Parse and check a stored manifest.

    Parameters
    ----------
    name
        Its file name, which must agree with its content.
    content
        As stored.

    Raises
    ------
    ManifestTooNewError
        A later version of this package wrote it, or hashed with another algorithm or chunks of another size.
    ManifestError
        It is torn, contradicts its name, or names a path outside of the checkpoint.
    """
    values = unseal(name, content, FORMAT)
    try:
        _refuse_other_digests(name, values)
        manifest = _parse(values)
    except ManifestTooNewError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"{name} is not a whole manifest: {error!r}") from error
    if manifest.name != name:
        raise ManifestError(f"{name} says that it is {manifest.name}")
    return manifest


def _refuse_other_digests(name: str, values: dict[str, Any]) -> None:
    """Refuse digests that this version makes in another way: to it, all data would look damaged."""
    algorithm, chunk_bytes = values["algorithm"], values["chunk_bytes"]
    if (algorithm, chunk_bytes) != (ALGORITHM, CHUNK_BYTES):
        raise ManifestTooNewError(
            f"{name} has digests by {algorithm} of {chunk_bytes} bytes each, and this version of ray_anystorage reads "
            f"{ALGORITHM} of {CHUNK_BYTES}: upgrade it"
        )


def _parse(values: dict[str, Any]) -> Manifest:
    etags = values.get("etags", [None] * len(values["files"]))
    files = tuple(
        FileEntry(path, int(size), digest, tuple(chunks), etag)
        for (path, size, digest, chunks), etag in zip(values["files"], etags, strict=True)
    )
    directories = tuple(values["directories"])
    for file in files:
        check_path(file.path)
        if file.size < 0 or len(file.chunks) != -(-file.size // CHUNK_BYTES):
            raise ValueError(f"{file.path!r} has {file.size} bytes and {len(file.chunks)} chunks")
        for digest in (file.digest, *file.chunks):
            if not _DIGEST.fullmatch(digest):
                raise ValueError(f"{file.path!r} has the digest {digest!r}")
    for path in directories:
        check_path(path)
    paths = [file.path for file in files]
    _refuse_twice(paths)
    if (both := file_and_folder(paths, directories)) is not None:
        raise ValueError(f"{both!r} is named as a file and as a folder")
    location = values["location"]
    if location is not None:
        _check_location(location)
    return Manifest(
        attempt=str(values["attempt"]),
        rank=int(values["rank"]),
        world_size=int(values["world_size"]),
        location=location,
        algorithm=str(values["algorithm"]),
        chunk_bytes=int(values["chunk_bytes"]),
        files=files,
        directories=directories,
        detour=None if values["detour"] is None else str(values["detour"]),
        seconds=float(values["seconds"]),
        report=int(values["report"]),
        course=read_course(values.get("course")),
    )


def check_path(path: str) -> str:
    """Return the path if it is relative, stays below the checkpoint and leaves its ``.anystorage`` folder alone.

    Raises
    ------
    ValueError
        Naming the path and what is wrong with it.
    """
    if not isinstance(path, str) or not path:
        raise ValueError(f"{path!r} is not a path")
    segments = path.split("/")
    if path.startswith("/") or "\0" in path or any(segment in ("", ".", "..") for segment in segments):
        raise ValueError(f"{path!r} is not a plain path below the checkpoint")
    if segments[0] == FOLDER:
        raise ValueError(f"{path!r} lies in the folder {FOLDER}, which is this package's own")
    if any(map(is_temporary, segments)):
        raise ValueError(f"{path!r} has the name of one of this package's temporary files")
    if len(path.encode("utf-8", "surrogateescape")) > _LONGEST_PATH:
        raise ValueError(f"{path[:60]!r}… is longer than {_LONGEST_PATH} bytes")
    return path


def file_and_folder(files: Collection[str], directories: Collection[str]) -> str | None:
    """A path that some of the names have as a file and others as a folder; ``None`` where there is none."""
    known = set(files)
    folders = {parent for path in (*files, *directories) for parent in _parents(path)}
    return next((path for path in sorted(folders | set(directories)) if path in known), None)


def _parents(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _check_location(location: str) -> None:
    scheme, _, folder = str(location).partition("://")
    segments = folder.split("/")
    if not scheme or len(segments) < 2 or "\0" in folder or not {"", ".", ".."}.isdisjoint(segments):
        raise ValueError(f"location {location!r} is not the URI of a folder in a bucket")


def _refuse_twice(paths: Sequence[str]) -> None:
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"{twice!r} is named twice")
