"""s3fs, as its documentation says for many files and large ones: ``put`` and ``get``, recursive."""

from __future__ import annotations

from s3fs import S3FileSystem

from benchmarks.target import MiB, Target

_AT_ONCE = 32


class Client:
    SETTINGS = f"max_concurrency {_AT_ONCE}, batch_size 64, 16 MiB parts, max_pool_connections 64"
    DURABLE = False

    def __init__(self, target: Target) -> None:
        self._bucket = target.bucket
        self._store = S3FileSystem(
            endpoint_url=target.endpoint,
            max_concurrency=_AT_ONCE,
            default_block_size=16 * MiB,
            config_kwargs={"max_pool_connections": 64, "s3": {"addressing_style": "path"}},
        )

    def save(self, directory: str, prefix: str) -> None:
        goal = f"{self._bucket}/{prefix}/"
        self._store.put(f"{directory}/", goal, recursive=True, batch_size=64, chunksize=16 * MiB)

    def restore(self, prefix: str, directory: str) -> None:
        self._store.get(f"{self._bucket}/{prefix}/", f"{directory}/", recursive=True, batch_size=64)
