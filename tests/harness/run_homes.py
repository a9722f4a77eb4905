"""Run homes as a controller leaves them, made without a Ray cluster, and a site that finds them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray

from ray_anystorage.checkpoint import node
from ray_anystorage.checkpoint.ownership import own_spill
from ray_anystorage.checkpoint.read import commit
from ray_anystorage.checkpoint.save import Part, begin, store_data, write_manifest
from ray_anystorage.checkpoint.tree import scan
from ray_anystorage.named_bucket import bucket_recipe
from ray_anystorage.testing.s3_server import S3Server
from ray_anystorage.train.hooks import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME as SNAPSHOT
from ray_anystorage.train.hooks import _CheckpointManagerState
from ray_anystorage.transfer.posix_store import PosixStore
from ray_anystorage.transfer.store import Store
from tests.harness.ray_cluster import leave_clean
from tests.harness.s3 import artifact_env, keys_of

FOLDER = "team/artifacts"


@dataclass(slots=True)
class Home:
    """A run home, and its folder of spilled data where it is on a mount."""

    name: str
    store: Store
    spill: Store | None
    scratch: Path
    saved: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def save(
        self,
        checkpoint: str,
        *,
        attempt: str = "a1",
        ranks: int = 1,
        spilled: bool = False,
        detour: str | None = None,
        committed: bool = True,
        report: int = 0,
    ) -> None:
        """Save a checkpoint by all ranks, each one file of its own, and commit it."""
        data = self.spill if spilled else self.store
        assert data is not None
        for rank in range(ranks):
            source = self.scratch / checkpoint / str(rank)
            source.mkdir(parents=True, exist_ok=True)
            content = os.urandom(100_000)
            (source / f"rank-{rank}.bin").write_bytes(content)
            (source / "empty").mkdir(exist_ok=True)
            self.saved.setdefault(checkpoint, {})[f"rank-{rank}.bin"] = content
            part, tree = Part(checkpoint, attempt, rank, ranks, report), scan(str(source))
            begin(self.store, part)
            stored = store_data(data, tree, part)
            location = f"{data.uri}/{checkpoint}" if spilled else None
            write_manifest(self.store, tree, part, stored, location=location, detour=detour, seconds=0.5)
        if committed:
            commit(self.store, checkpoint, attempt, report=report)

    def begin_only(self, checkpoint: str, *, spilled: bool = False) -> None:
        """What a rank leaves that was killed before it wrote its manifest."""
        source = self.scratch / checkpoint
        (source / "empty").mkdir(parents=True)
        (source / "half.bin").write_bytes(b"half")
        part = Part(checkpoint, "a0", 0, 1)
        begin(self.store, part)
        data = self.spill if spilled else self.store
        assert data is not None
        store_data(data, scan(str(source)), part)

    def snapshot(self, *names: str, metric: str = "n") -> None:
        """Ray's snapshot, which names these checkpoints, the last one as the latest; the metric of the n-th is n."""
        results = [
            {"version": 0, "checkpoint_dir_name": name, "metrics": {metric: n}} for n, name in enumerate(names, start=1)
        ]
        state = _CheckpointManagerState(
            ray_version=ray.__version__,
            checkpoint_results=results,
            checkpoint_report_indices=list(range(len(results))),
            latest_checkpoint_result=results[-1] if results else None,
            pending_training_results=[],
            pending_validation_specs=[],
            current_report_index=len(results),
            validated_checkpoint_dir_names=[],
            timed_out_validation_checkpoint_dir_names=[],
            failed_validation_checkpoint_dir_names=[],
        )
        content = state.model_dump_json() if hasattr(state, "model_dump_json") else state.json()
        self.store.write_small(SNAPSHOT, content.encode())


@dataclass(slots=True)
class Site:
    """Cluster storage and an artifact folder, as this process's environment has them."""

    root: Path
    server: S3Server
    bucket: str
    environment: pytest.MonkeyPatch
    client: Any

    @property
    def cluster(self) -> Path:
        """The root of cluster storage."""
        return self.root / "cluster"

    def on_mount(self, name: str = "run") -> Home:
        """A new run home in cluster storage."""
        store = PosixStore(str(self.cluster / name))
        folder = f"spilled/{own_spill(store)}"
        return Home(name, store, self.folder(folder), self.root / "scratch" / name)

    def in_bucket(self, name: str = "run") -> Home:
        """A new run home in the bucket."""
        return Home(name, self.folder(name), None, self.root / "scratch" / name)

    def folder(self, name: str) -> Store:
        """A folder below the artifact folder."""
        recipe = bucket_recipe(f"s3://{self.bucket}/{FOLDER}/{name}")
        return recipe.open()

    def put(self, keys: Iterable[str]) -> None:
        """Plant objects below the artifact folder."""
        for key in keys:
            self.client.put_object(Bucket=self.bucket, Key=f"{FOLDER}/{key}", Body=b"not for deletion")

    def plant(self, paths: Iterable[str]) -> None:
        """Plant files below cluster storage."""
        for path in paths:
            (self.cluster / path).parent.mkdir(parents=True, exist_ok=True)
            (self.cluster / path).write_bytes(b"not for deletion")

    def everything(self) -> dict[str, bytes]:
        """Every file of cluster storage and every object of the bucket, with its content."""
        files = {f"mount:{p.relative_to(self.cluster)}": p.read_bytes() for p in self.cluster.rglob("*") if p.is_file()}
        listed = self.client.list_objects_v2(Bucket=self.bucket).get("Contents", ())
        return {**files, **{f"bucket:{entry['Key'].removeprefix(f'{FOLDER}/')}": self._read(entry) for entry in listed}}

    def _read(self, entry: Mapping[str, Any]) -> bytes:
        content: bytes = self.client.get_object(Bucket=self.bucket, Key=entry["Key"])["Body"].read()
        return content


def settings_of(root: Path, server: S3Server, bucket: str) -> Mapping[str, str]:
    """The variables of the site."""
    nowhere = {f"RAY_ANYSTORAGE_{tier}_STORAGE": str(root / "nowhere" / tier) for tier in ("LOCAL", "USER", "SHARED")}
    return {
        **nowhere,
        "HOME": str(root),
        "RAY_ANYSTORAGE_CLUSTER_STORAGE": str(root / "cluster"),
        **artifact_env(server, f"{bucket}/{FOLDER}"),
        **keys_of(server),
    }


@pytest.fixture
def site(s3_server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site of this test's own, with static keys in the environment and no mode of credentials said."""
    monkeypatch.setitem(node._state, os.getpid(), node.Node(str(tmp_path / "node"), "the-test"))
    leave_clean(monkeypatch)
    (tmp_path / "cluster").mkdir()
    for name, value in settings_of(tmp_path, s3_server, bucket).items():
        monkeypatch.setenv(name, value)
    return Site(tmp_path, s3_server, bucket, monkeypatch, s3_server.client())
