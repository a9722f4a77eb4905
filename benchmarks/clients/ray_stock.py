"""Ray's own path: its StorageContext for saves, ``Checkpoint.to_directory`` for restores."""

from __future__ import annotations

from urllib.parse import urlsplit

from ray.train import Checkpoint
from ray.train.v2._internal.execution.storage import StorageContext

from benchmarks.target import Target


class Client:
    SETTINGS = "as Ray calls it: pyarrow copy_files, 64 MiB chunks, no threads for saves to S3"
    DURABLE = False

    def __init__(self, target: Target) -> None:
        if target.is_bucket:
            host = urlsplit(target.endpoint).netloc
            path = f"s3://{target.bucket}?scheme=http&endpoint_override={host}&region={target.region}"
        else:
            path = target.root
        # Its constructor writes Ray's validation marker, as it does once per run.
        self._context = StorageContext(storage_path=path, experiment_dir_name="run")

    def save(self, directory: str, prefix: str) -> None:
        name = prefix.removeprefix(f"{self._context.experiment_dir_name}/")
        self._context.persist_current_checkpoint(Checkpoint.from_directory(directory), name)

    def restore(self, prefix: str, directory: str) -> None:
        path = f"{self._context.storage_fs_path}/{prefix}"
        Checkpoint(path, filesystem=self._context.storage_filesystem).to_directory(directory)
