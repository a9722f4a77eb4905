"""This package's own engine: hashes what it saves, verifies what it restores, syncs what it writes to a directory."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.target import Target, files_below
from ray_anystorage.credentials.grant import Grant
from ray_anystorage.environment import BucketAddress
from ray_anystorage.transfer import engine
from ray_anystorage.transfer.digest import digest_file
from ray_anystorage.transfer.files import Incoming, Outgoing
from ray_anystorage.transfer.posix_store import PosixStore
from ray_anystorage.transfer.s3_store import S3Store
from ray_anystorage.transfer.store import Store

_DIGESTS = ".digests"


class Client:
    SETTINGS = "its defaults; digests made by saves and verified by restores, which read them from a local file"

    def __init__(self, target: Target) -> None:
        self.DURABLE = not target.is_bucket
        self._store: Store = bucket_store(target) if target.is_bucket else PosixStore(target.root)

    def save(self, directory: str, prefix: str) -> None:
        files = [Outgoing(path, f"{prefix}/{name}", size) for path, name, size in files_below(directory)]
        engine.upload(self._store, files)

    def restore(self, prefix: str, directory: str) -> None:
        described = json.loads(Path(directory).with_suffix(_DIGESTS).read_text())
        files = [
            Incoming(f"{prefix}/{name}", f"{directory}/{name}", size, digest, tuple(chunks))
            for name, (size, digest, chunks) in described.items()
        ]
        engine.download(self._store, files)


def describe(source: Path, goal: Path) -> None:
    """Leave the digests of the files below ``source`` where a restore to ``goal`` finds them, as a manifest would."""
    described = {name: digest_file(path) for path, name, _ in files_below(str(source))}
    goal.with_suffix(_DIGESTS).write_text(json.dumps(described))


def bucket_store(target: Target) -> S3Store:
    """The engine's store for a target's whole bucket."""
    address = BucketAddress("s3", target.bucket, "", region=target.region, endpoint=target.endpoint)
    return S3Store(address, Grant("ambient", "environment", "the benchmark's server", ()))
