"""NVIDIA's multi-storage-client, by its calls for many files at once."""

from __future__ import annotations

import os

from multistorageclient import StorageClient, StorageClientConfig

from benchmarks.target import Target, files_below

_WORKERS = 64


class Client:
    SETTINGS = f"its Rust client, upload_files and download_files with {_WORKERS} workers (16 unless told)"
    DURABLE = False

    def __init__(self, target: Target) -> None:
        options = {"base_path": target.bucket, "endpoint_url": target.endpoint, "region_name": target.region}
        provider = {"type": "s3", "options": {**options, "rust_client": {"allow_http": True}}}
        config = {"profiles": {"bench": {"storage_provider": provider}}}
        self._client = StorageClient(StorageClientConfig.from_dict(config, profile="bench"))

    def save(self, directory: str, prefix: str) -> None:
        files = files_below(directory)
        keys = [f"{prefix}/{name}" for _, name, _ in files]
        self._client.upload_files(keys, [path for path, _, _ in files], max_workers=_WORKERS)

    def restore(self, prefix: str, directory: str) -> None:
        found = list(self._client.list(path=f"{prefix}/"))
        names = [entry.key[len(prefix) + 1 :] for entry in found]
        targets = [os.path.join(directory, name) for name in names]
        self._client.download_files([entry.key for entry in found], targets, metadata=found, max_workers=_WORKERS)
