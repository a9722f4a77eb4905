"""boto3's transfer manager, all files in one, so that they share its threads."""

from __future__ import annotations

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config

from benchmarks.target import MiB, Target, files_below

_AT_ONCE = 32


class Client:
    SETTINGS = f"max_concurrency {_AT_ONCE}, max_pool_connections {_AT_ONCE}, 16 MiB parts, one transfer manager"
    DURABLE = False

    def __init__(self, target: Target) -> None:
        self._bucket = target.bucket
        config = Config(max_pool_connections=_AT_ONCE, s3={"addressing_style": "path"})
        self._store = boto3.client("s3", endpoint_url=target.endpoint, config=config)
        self._transfer = TransferConfig(
            max_concurrency=_AT_ONCE, multipart_chunksize=16 * MiB, multipart_threshold=16 * MiB
        )

    def save(self, directory: str, prefix: str) -> None:
        with create_transfer_manager(self._store, self._transfer) as manager:
            futures = [
                manager.upload(path, self._bucket, f"{prefix}/{name}") for path, name, _ in files_below(directory)
            ]
            for future in futures:
                future.result()

    def restore(self, prefix: str, directory: str) -> None:
        pages = self._store.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=f"{prefix}/")
        keys = [entry["Key"] for page in pages for entry in page["Contents"]]
        with create_transfer_manager(self._store, self._transfer) as manager:
            futures = [manager.download(self._bucket, key, f"{directory}/{key[len(prefix) + 1 :]}") for key in keys]
            for future in futures:
                future.result()
