"""A run's places on a mount and in a bucket, which can be set back to how they were, and a lab to work in them."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_anystorage.testing.s3_server import S3Server
from tests.harness.crash_lab import ForkServer, Lab
from tests.harness.crash_points import without_chance
from tests.harness.crash_proxy import crash_proxy
from tests.harness.s3 import artifact_env, keys_of

# The cache names a run's folder by the last 40 characters of its home: so they are the same on every site.
_LONG = "storage-of-a-site-with-a-name-of-over-forty-characters"


@dataclass(slots=True)
class Site:
    """The places of one run, and how they were when :meth:`keep` was called.

    Attributes
    ----------
    lab
        For work there.
    bucket, client
        The bucket's name and a botocore client; ``None`` where there is none.
    """

    root: Path
    lab: Lab
    bucket: str | None = None
    client: Any = None
    _objects: dict[str, bytes] = field(default_factory=dict)

    def keep(self) -> None:
        """Remember what is there now."""
        shutil.rmtree(self.root / "kept", ignore_errors=True)
        shutil.copytree(self.root / "places", self.root / "kept", symlinks=True)
        self._objects = {key: self._object(key) for key in self._tags()}

    def clear(self) -> None:
        """Make everything empty."""
        self._objects = {}
        shutil.rmtree(self.root / "kept", ignore_errors=True)
        for folder in (self.mount, self.node):
            (self.root / "kept" / folder.name).mkdir(parents=True)
        self.set_back()

    def set_back(self) -> None:
        """Make everything as it was then."""
        shutil.rmtree(self.root / "places", ignore_errors=True)
        shutil.copytree(self.root / "kept", self.root / "places", symlinks=True)
        tags = self._tags()
        for key in tags.keys() - self._objects.keys():
            self.client.delete_object(Bucket=self.bucket, Key=key)
        for key, content in self._objects.items():
            if tags.get(key) != hashlib.md5(content).hexdigest():
                self.client.put_object(Bucket=self.bucket, Key=key, Body=content)
        for upload in self._uploads():
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    def listing(self) -> Counter[str]:
        """Every file, object and unfinished upload of the run; random parts of names are stars."""
        found = [f"mount: {path.relative_to(self.mount)}" for path in self.mount.rglob("*") if not path.is_dir()]
        found += [f"bucket: {key}" for key in self._tags()]
        found += [f"upload: {upload['Key']}" for upload in self._uploads()]
        return Counter(without_chance(name) for name in found)

    @property
    def mount(self) -> Path:
        """Cluster storage."""
        return self.root / "places" / _LONG

    @property
    def node(self) -> Path:
        """The node's own disk."""
        return self.root / "places" / "node"

    def _tags(self) -> dict[str, str]:
        if self.client is None:
            return {}
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return {entry["Key"]: entry["ETag"].strip('"') for page in pages for entry in page.get("Contents", ())}

    def _uploads(self) -> list[dict[str, str]]:
        if self.client is None:
            return []
        uploads: list[dict[str, str]] = self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])
        return uploads

    def _object(self, key: str) -> bytes:
        content: bytes = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return content


@contextlib.contextmanager
def crash_site(root: Path, place: str, forks: ForkServer, server: S3Server | None) -> Iterator[Site]:
    """Make the places of a run and a lab.

    Parameters
    ----------
    place
        ``"mount"``; ``"spill"``, where every checkpoint of a home on a mount goes to the bucket; ``"detour"``, where
        it goes there if the mount fails; ``"bucket"``.
    forks
        Where the processes come from that work there.
    server
        Needed by all but the first.
    """
    mount, node = root / "places" / _LONG, root / "places" / "node"
    (root / "scratch").mkdir(parents=True)
    env = {
        "HOME": str(root),
        "TMPDIR": str(root / "scratch"),
        "RAY_ANYSTORAGE_CLUSTER_STORAGE": str(mount),
        "RAY_ANYSTORAGE_LOCAL_STORAGE": str(node),
        "RAY_ANYSTORAGE_PROBE_TIMEOUT": "60",  # on a busy machine too, the bucket is one that works
        "RAY_ANYSTORAGE_THRESHOLD": "1kB" if place == "spill" else "1GB",
    }
    with contextlib.ExitStack() as stack:
        proxy = client = bucket = None
        if place != "mount":
            assert server is not None
            proxy = stack.enter_context(crash_proxy(server.endpoint))
            client, bucket = server.client(), server.make_bucket()
            env |= {
                **artifact_env(server, f"{bucket}/{_LONG}", endpoint=proxy.endpoint),
                **keys_of(server),
            }
        roots = {"mount": str(mount), "node": str(node)}
        site = Site(root, Lab(forks, env, roots, proxy), bucket, client)
        site.clear()
        yield site
