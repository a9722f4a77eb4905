"""What travels to every process of a run instead of a live file system. It holds no secret."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ray_anystorage.credentials.grant import Grant
from ray_anystorage.credentials.redact import MASK, shown, sounds_secret
from ray_anystorage.environment import BucketAddress, Tier
from ray_anystorage.errors import ConfigClashError, UnknownArgumentError
from ray_anystorage.home.filesystem import HomeFileSystem, HomeRecipe
from ray_anystorage.home.store import as_store
from ray_anystorage.policy.request import SPILLED
from ray_anystorage.resolve import Resolved
from ray_anystorage.transfer.open_store import BucketRecipe, MountRecipe, StoreRecipe
from ray_anystorage.transfer.pyarrow_fs import FileSystemRecipe, build
from ray_anystorage.transfer.store import Store


@dataclass(frozen=True, slots=True)
class StorageRecipe:
    """How to reach the storage of one run, from any node.

    Attributes
    ----------
    name
        The run's.
    fs_path
        The storage path as the file system takes it, without a scheme.
    uri
        The same as people write it.
    filesystem
        How to build the file system: of a run home on a mount, or of a bucket.
    home
        How to open the run home as a store of checkpoint data.
    spill
        The same for the bucket's folder for checkpoints that a home on a mount does not take, which the runs of all
        homes have in common; ``None`` where there is none.
    threshold
        Bytes of a checkpoint above which it goes there.
    needs_spill
        True where all checkpoints are known to be over it.
    checkpoint_size
        Bytes of one checkpoint, or ``None`` where it was not said.
    local_root
        Where ``local`` storage would be on a node that has it and says nothing else itself.
    one_node
        True when only a run on one node can use this place.
    nodes
        Of the cluster when the run was planned, or ``None`` where it was not known.
    probe_timeout
        Seconds that looking at one place may take.
    cache_share
        The share of its local disk, from 0 to 1, that a node may give to the cache of checkpoints; 0 for no cache.
    artifacts_root
        Where the run's TensorBoard logs and common files go, or ``None`` where no mount serves.
    why, credentials
        For the one line that the run logs at its start.
    terminal
        True where the run was planned in a terminal, so that somebody sees how far a long save is.
    """

    name: str
    tier: Tier
    uri: str
    fs_path: str
    filesystem: HomeRecipe | FileSystemRecipe
    home: StoreRecipe
    spill: BucketRecipe | None
    threshold: int
    needs_spill: bool
    checkpoint_size: int | None
    local_root: str | None
    one_node: bool
    nodes: int | None
    probe_timeout: float
    cache_share: float
    artifacts_root: str | None
    why: str
    credentials: str
    terminal: bool = False

    @property
    def bucket_variables(self) -> dict[str, str]:
        """The harmless variables of the bucket that the run uses, for all or for what spills; none without one."""
        bucket = self.filesystem if isinstance(self.filesystem, FileSystemRecipe) else self.spill
        return dict(bucket.env_vars) if bucket else {}

    def build_filesystem(self) -> Any:
        """Build the ``pyarrow.fs.FileSystem``; a bucket's reads credentials from this process's environment."""
        if isinstance(self.filesystem, HomeRecipe):
            return HomeFileSystem(self.filesystem)
        return build(self.filesystem)

    def open_home(self, filesystem: Any) -> Store:
        """The run home as a store; ``filesystem`` is what :meth:`build_filesystem` gave."""
        return as_store(filesystem, self.home)

    def log_line(self, why: str = "") -> str:
        """Where, why, unless it is said, and with what credentials, in one line."""
        where = f"{self.tier} storage at {self.uri}/{self.name}"
        return f"run {self.name!r}: {where}. {why or self.why} Credentials: {self.credentials}."


def storage_recipe(
    resolved: Resolved, *, mirrored: tuple[str, ...] = (), copies_folders: bool = False
) -> StorageRecipe:
    """Turn what was resolved into the recipe of one run.

    ``mirrored`` as in :class:`HomeRecipe`, ``copies_folders`` as in :class:`FileSystemRecipe`.
    """
    plan = resolved.plan
    filesystem: HomeRecipe | FileSystemRecipe
    home: StoreRecipe
    if plan.bucket is not None:
        filesystem = FileSystemRecipe(plan.bucket, plan.harmless_env_vars, copies_folders=copies_folders)
        fs_path = plan.bucket.path
        home = _bucket_recipe(plan.bucket, resolved.grant).child(resolved.name)
    else:
        fs_path = plan.storage_path
        home = MountRecipe(fs_path).child(resolved.name)
        filesystem = HomeRecipe(plan.tier, fs_path, home.root, mirrored, resolved.settings.call_timeout)
    return StorageRecipe(
        name=resolved.name,
        tier=plan.tier,
        uri=plan.storage_path,
        fs_path=fs_path,
        filesystem=filesystem,
        home=home,
        spill=_bucket_recipe(plan.spill, resolved.grant).child(SPILLED) if plan.spill else None,
        threshold=plan.threshold,
        needs_spill=plan.checkpoint_tier != plan.tier,
        checkpoint_size=plan.checkpoint_size,
        local_root=resolved.local_root,
        one_node=not plan.place.network and (plan.tier == "local" or not plan.place.location.explicit),
        nodes=plan.nodes,
        probe_timeout=resolved.settings.probe_timeout,
        cache_share=resolved.settings.cache_share,
        artifacts_root=resolved.artifacts_root,
        why=" ".join(plan.reasons),
        credentials=plan.credentials,
        terminal=sys.stderr.isatty(),
    )


def _bucket_recipe(address: BucketAddress, grant: Grant | None) -> BucketRecipe:
    if grant is None:
        return BucketRecipe(address, "ambient", "what each process has")
    return BucketRecipe(address, grant.mode, grant.source, grant.env_vars)


def check_ray_arguments(ray_arguments: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse fields of Ray's RunConfig that the plan fills in, and names that are none of its fields.

    Raises
    ------
    ConfigClashError
        The plan chooses this field; names the value.
    UnknownArgumentError
        There is no such field; names the nearest.
    """
    for field in ("storage_path", "storage_filesystem"):
        if ray_arguments.get(field) is not None:
            raise ConfigClashError(
                f"{field}={shown(ray_arguments[field])} clashes with the plan, which chooses it: leave it out and say "
                "tier=… or RAY_ANYSTORAGE_*_STORAGE instead, or use a plain RunConfig"
            )
    ours = ("name", "checkpoint_size", "audience", "tier", "artifact_storage", "credentials", "preflight")
    for name in ray_arguments:
        if name not in known:
            nearest = difflib.get_close_matches(name, (*ours, *known), n=1, cutoff=0.0)[0]
            value = MASK if sounds_secret(name) else shown(ray_arguments[name])
            raise UnknownArgumentError(
                f"{name}={value} is an argument neither of this function nor of Ray's RunConfig; did "
                f"you mean {nearest}?"
            )
