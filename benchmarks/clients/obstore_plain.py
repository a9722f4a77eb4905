"""obstore by itself: what one would write with it in an hour."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Iterable
from pathlib import Path

import obstore
from obstore.store import LocalStore, ObjectStore, S3Store

from benchmarks.target import MiB, Target, files_below, ranges

_AT_ONCE = 32
_PART = 16 * MiB


class Client:
    SETTINGS = f"{_AT_ONCE} requests at once over all files, 16 MiB parts and ranges"
    DURABLE = False

    def __init__(self, target: Target) -> None:
        if target.is_bucket:
            self._store: ObjectStore = S3Store(
                target.bucket, endpoint=target.endpoint, region=target.region, client_options={"allow_http": True}
            )
        else:
            self._store = LocalStore(target.root)

    def save(self, directory: str, prefix: str) -> None:
        files = files_below(directory)
        per_file = max(1, _AT_ONCE // len(files))
        puts = (self._put(path, f"{prefix}/{name}", size, per_file) for path, name, size in files)
        asyncio.run(_bounded(puts))

    async def _put(self, path: str, key: str, size: int, at_once: int) -> None:
        multipart = size > _PART
        source = Path(path) if multipart else Path(path).read_bytes()
        await obstore.put_async(
            self._store, key, source, use_multipart=multipart, chunk_size=_PART, max_concurrency=at_once
        )

    def restore(self, prefix: str, directory: str) -> None:
        found = [(entry["path"], entry["size"]) for page in obstore.list(self._store, prefix) for entry in page]
        descriptors = {path: self._create(directory, path[len(prefix) + 1 :]) for path, _ in found}
        gets = (
            self._get(path, descriptors[path], offset, length)
            if size > _PART
            else self._get_all(path, descriptors[path])
            for path, size in found
            for offset, length in ranges(size, _PART)
        )
        asyncio.run(_bounded(gets))
        for descriptor in descriptors.values():
            os.close(descriptor)

    def _create(self, directory: str, name: str) -> int:
        return os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CREAT)

    async def _get(self, key: str, descriptor: int, offset: int, length: int) -> None:
        os.pwrite(descriptor, await obstore.get_range_async(self._store, key, start=offset, length=length), offset)

    async def _get_all(self, key: str, descriptor: int) -> None:
        os.pwrite(descriptor, await (await obstore.get_async(self._store, key)).bytes_async(), 0)


async def _bounded(tasks: Iterable[Awaitable[None]]) -> None:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(task: Awaitable[None]) -> None:
        async with gate:
            await task

    await asyncio.gather(*map(one, tasks))
