"""The ground a benchmark stands on: a server, proxies and directories on a memory file system, gone at the end."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from benchmarks import far_store, measure
from benchmarks.shapes import FAR, LOOPBACK, Place
from benchmarks.target import Target
from ray_anystorage.testing.s3_server import S3Server, running_s3

_FOREIGN = ("AWS_", "RAY_", "ANYSCALE_", "S3_")
_ROOM = ("/dev/shm", "/var/tmp")  # noqa: S108 - mkdtemp makes its own below
RUN = "run"  # every prefix is below it, as Ray's are below a run's name


class Stage:
    """Where clients run.

    Attributes
    ----------
    work
        A directory on a memory file system, for sources and restored files.
    """

    def __init__(
        self, work: Path, mount: Path, server: S3Server, far: far_store.FarStore, counting: far_store.FarStore
    ) -> None:
        self.work, self._mount, self._server, self._far, self._counting = work, mount, server, far, counting
        self._numbers = itertools.count()
        self._token = secrets.token_hex(32)
        self._client = server.client()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        self._environment = kept | server.env() | {"TMPDIR": str(work), "RAY_USAGE_STATS_ENABLED": "0"}

    @contextlib.contextmanager
    def place(self, place: Place) -> Iterator[Target]:
        """A fresh, warm bucket or directory for one save, or for many restores."""
        name = f"bench-{next(self._numbers)}"
        if not place.is_bucket:
            root = self._mount / name
            root.mkdir()
            yield Target(root=str(root))
            shutil.rmtree(root)
            return
        client = self._client
        client.create_bucket(Bucket=name)
        # The first object of a bucket waits for its volume.
        client.put_object(Bucket=name, Key="warm", Body=b"x")
        endpoint = self._far.endpoint if place == FAR else self._server.endpoint
        yield Target(endpoint=endpoint, region=self._server.region, bucket=name)
        client.delete_bucket(Bucket=name)  # SeaweedFS drops what is in it, and gives the space back at once

    def counting(self, place: Place, target: Target) -> tuple[Target, far_store.FarStore | None]:
        """The same place behind a proxy that counts; None for a directory."""
        if not place.is_bucket:
            return target, None
        proxy = self._counting if place == LOOPBACK else self._far
        return Target(proxy.endpoint, target.region, target.bucket, connections=target.connections), proxy

    def run(self, client: str, operation: str, source: str, goal: str, target: Target) -> measure.Run:
        """One measured save or restore in a fresh process."""
        if not target.is_bucket:
            os.sync()  # what the one before left to be written must not slow this one down
        return measure.run(client, operation, source, goal, target, self._environment, self.work / "worker.log")

    def node_environment(self) -> dict[str, str]:
        """What a node of Ray needs to reach the server, and where its workers find the benchmarks."""
        ray = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self._token}  # Ray listens on all interfaces
        # Elsewhere the store has processors of its own; here it must not take those of workers that yield to all else.
        ray |= {"RAY_worker_niceness": "0"}
        return {**self._environment, **ray, "PYTHONPATH": str(Path(__file__).parents[1])}

    def site(self, target: Target) -> dict[str, str]:
        """The environment of a driver at a site whose storage is the target."""
        local = self.work / "local"
        local.mkdir(exist_ok=True)
        places = {"RAY_ANYSTORAGE_LOCAL_STORAGE": str(local)}
        if target.is_bucket:
            places["RAY_ANYSTORAGE_ARTIFACT_STORAGE"] = f"s3://{target.bucket}/ours"
            places |= {"RAY_ANYSTORAGE_ENDPOINT": target.endpoint, "RAY_ANYSTORAGE_REGION": target.region}
        else:
            places["RAY_ANYSTORAGE_CLUSTER_STORAGE"] = target.root
        return {**self.node_environment(), **places}

    def reclaim(self) -> None:
        """Give the memory of objects that were deleted or replaced back."""
        self._server.reclaim()

    def stored(self, target: Target, prefix: str) -> dict[str, int]:
        """Size of everything under a prefix, by relative name; dot files are a client's own business."""
        if target.is_bucket:
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=target.bucket, Prefix=f"{prefix}/")
            entries = ((entry["Key"], entry["Size"]) for page in pages for entry in page.get("Contents", ()))
            found = {key[len(prefix) + 1 :]: size for key, size in entries if not key.endswith("/")}
        else:
            root = Path(target.root, prefix)
            found = {
                path.relative_to(root).as_posix(): path.stat().st_size for path in root.rglob("*") if path.is_file()
            }
        return {name: size for name, size in found.items() if not name.startswith(".")}

    def checksum(self, target: Target, key: str) -> int:
        """CRC-32 of a stored object, read past every client under test."""
        value = 0
        if target.is_bucket:
            body = self._client.get_object(Bucket=target.bucket, Key=key)["Body"]
            for piece in body.iter_chunks(4 << 20):
                value = zlib.crc32(piece, value)
            return value
        with open(Path(target.root, key), "rb") as file:
            while piece := file.read(4 << 20):
                value = zlib.crc32(piece, value)
        return value


@contextlib.contextmanager
def staged(mount: Path | None) -> Iterator[Stage]:
    """Set the stage; ``mount`` is the directory to measure (None: one on the disk of ``/var/tmp``)."""
    root = next(path for path in _ROOM if Path(path).is_dir())
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="anystorage-bench-", dir=root)))
        goal = stack.enter_context(tempfile.TemporaryDirectory(prefix="anystorage-bench-", dir=mount or _ROOM[1]))
        server = stack.enter_context(running_s3(work / "s3"))
        far = stack.enter_context(far_store.running(server.endpoint, round_trip=FAR.round_trip, rate=FAR.rate))
        counting = stack.enter_context(far_store.running(server.endpoint, round_trip=0.0, rate=None))
        yield Stage(work, Path(goal), server, far, counting)
