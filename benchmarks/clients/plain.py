"""The ceiling: bytes moved with as little work as can be. Not a competitor; it neither hashes nor writes a restore."""

from __future__ import annotations

import os
import queue
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.plain_http import Connection, Signer
from benchmarks.target import MiB, Target, files_below, ranges

_LISTING = ".files"
_MIN_PART, _MAX_PART = 5 * MiB, 16 * MiB  # S3 takes no smaller part but the last


class _Bucket:
    SETTINGS = "raw sockets, sendfile, payload unsigned, parts and ranges of 5 to 16 MiB, restored bytes dropped"
    DURABLE = False

    def __init__(self, target: Target) -> None:
        self._target = target
        signer = Signer(urlsplit(target.endpoint).netloc, target.region, os.environ)
        self._connect: Callable[[], Connection] = lambda: Connection(target.endpoint, target.bucket, signer)
        self._idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()

    def save(self, directory: str, prefix: str) -> None:
        files = files_below(directory)
        part = self._part(sum(size for _, _, size in files))
        opened = [os.open(path, os.O_RDONLY) for path, _, _ in files]
        uploads = self._run(
            lambda connection, job: _begin(connection, *job),
            [(f"{prefix}/{name}", size > part) for _, name, size in files],
        )
        jobs = [
            (f"{prefix}/{name}", descriptor, offset, length, upload, number)
            for (_, name, size), descriptor, upload in zip(files, opened, uploads, strict=True)
            for number, (offset, length) in enumerate(ranges(size, part), 1)
        ]
        tags = self._run(lambda connection, job: _put(connection, *job), jobs)
        parts: dict[tuple[str, str], list[str]] = {}
        for (key, _, _, _, upload, number), tag in zip(jobs, tags, strict=True):
            if upload:
                entry = f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"
                parts.setdefault((key, upload), []).append(entry)
        self._run(lambda connection, job: _complete(connection, *job), list(parts.items()))
        for descriptor in opened:
            os.close(descriptor)

    def restore(self, prefix: str, directory: str) -> None:
        # The names and sizes are taken from the manifest that the benchmark leaves beside it: listing is not moving.
        sizes = [line.split(" ", 1) for line in Path(directory).with_suffix(_LISTING).read_text().splitlines()]
        part = self._part(sum(int(size) for size, _ in sizes))
        jobs = [
            (f"{prefix}/{name}", offset, length, int(size) <= part)
            for size, name in sizes
            for offset, length in ranges(int(size), part)
        ]
        self._run(lambda connection, job: connection.get(*job), jobs)

    def _part(self, total: int) -> int:
        return max(_MIN_PART, min(_MAX_PART, -(-total // self._target.connections)))

    def _run(self, work: Callable[[Connection, Any], Any], jobs: list[Any]) -> list[Any]:
        if not jobs:
            return []

        def one(job: Any) -> Any:
            try:
                connection = self._idle.get_nowait()
            except queue.Empty:
                connection = self._connect()
            try:
                return work(connection, job)
            finally:
                self._idle.put(connection)

        with ThreadPoolExecutor(self._target.connections) as pool:
            return list(pool.map(one, jobs))


def _begin(connection: Connection, key: str, in_parts: bool) -> str:
    if not in_parts:
        return ""
    answer = connection.post(key, "uploads=").decode()
    match = re.search("<UploadId>(.*?)</UploadId>", answer)
    if match is None:
        raise ConnectionError(f"no upload id: {answer}")
    return match[1]


def _put(connection: Connection, key: str, descriptor: int, offset: int, length: int, upload: str, number: int) -> str:
    query = f"partNumber={number}&uploadId={upload}" if upload else ""
    return connection.put(key, descriptor, offset, length, query)


def _complete(connection: Connection, upload: tuple[str, str], parts: list[str]) -> None:
    key, identifier = upload
    body = f"<CompleteMultipartUpload>{''.join(parts)}</CompleteMultipartUpload>".encode()
    answer = connection.post(key, f"uploadId={identifier}", body)
    if b"<Error>" in answer:
        raise ConnectionError(answer.decode())


class _Directory:
    SETTINGS = "sendfile, nothing synced"
    DURABLE = False

    def __init__(self, target: Target) -> None:
        self._target = target

    def save(self, directory: str, prefix: str) -> None:
        self._copy(Path(directory), Path(self._target.root, prefix))

    def restore(self, prefix: str, directory: str) -> None:
        self._copy(Path(self._target.root, prefix), Path(directory))

    def _copy(self, source: Path, goal: Path) -> None:
        goal.mkdir(parents=True, exist_ok=True)

        def copy(path: str, name: str, size: int) -> None:
            with open(path, "rb") as reader, open(goal / name, "wb") as writer:
                done = 0
                while done < size:
                    done += os.sendfile(writer.fileno(), reader.fileno(), done, size - done)

        with ThreadPoolExecutor(self._target.connections) as pool:
            list(pool.map(lambda file: copy(*file), files_below(str(source))))


class Client:
    """Whichever of the two serves the target."""

    SETTINGS = f"{_Bucket.SETTINGS}; directory: {_Directory.SETTINGS}"
    DURABLE = False

    def __new__(cls, target: Target) -> _Bucket | _Directory:  # type: ignore[misc]
        return _Bucket(target) if target.is_bucket else _Directory(target)


def describe(source: Path, goal: Path) -> None:
    """Leave names and sizes of the files below ``source`` where a restore to ``goal`` finds them."""
    lines = sorted(f"{size} {name}\n" for _, name, size in files_below(str(source)))
    goal.with_suffix(_LISTING).write_text("".join(lines))
