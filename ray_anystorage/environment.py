"""The vocabulary: what was discovered, as plain frozen values that pickle and compare."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from ray_anystorage.errors import StorageError

Tier = Literal["local", "cluster", "user", "shared", "artifact"]
TIERS: tuple[Tier, ...] = get_args(Tier)
MOUNT_TIERS: tuple[Tier, ...] = ("local", "cluster", "user", "shared")
NFS_TIERS: tuple[Tier, ...] = ("cluster", "user", "shared")

Kind = Literal["nfs", "parallel", "fuse", "disk", "tmpfs", "overlay", "bucket", "unknown"]
State = Literal["usable", "absent", "failed"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a place cannot be used; ``error()`` turns it into the exception of the same meaning."""

    error_type: type[StorageError]
    reason: str
    tier: Tier
    place: str
    tried: str
    remedy: str

    def texts(self) -> dict[str, str]:
        """All but the class, by name."""
        return {name: getattr(self, name) for name in ("reason", "tier", "place", "tried", "remedy")}

    def error(self) -> StorageError:
        """Build the exception."""
        return self.error_type(self.reason, tier=self.tier, place=self.place, tried=self.tried, remedy=self.remedy)


@dataclass(frozen=True, slots=True)
class Space:
    """Free and total bytes and inodes; ``None`` where the file system does not say."""

    free_bytes: int | None
    total_bytes: int | None
    free_inodes: int | None
    total_inodes: int | None


@dataclass(frozen=True, slots=True)
class BucketOptions:
    """How a store wants to be talked to; nothing in it is secret.

    Attributes
    ----------
    ca_file
        Absolute path, the same on every node, of the certificate authorities to trust; the system's where ``None``.
    addressing
        Where S3 requests name the bucket: ``"path"`` or ``"virtual"`` (in the host name). Where ``None``: in the path
        at an endpoint of the store's own, in the host name at the provider's.
    requester_pays
        Whether these credentials' account pays for the requests.
    encryption, kms_key
        What S3 is asked to encrypt new objects with (``"AES256"``, ``"aws:kms"`` or ``"aws:kms:dsse"``) and the key's
        id or ARN; ``None`` leaves it to the bucket.
    """

    ca_file: str | None = None
    addressing: str | None = None
    requester_pays: bool = False
    encryption: str | None = None
    kms_key: str | None = None


NO_OPTIONS = BucketOptions()


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """A folder in an object store.

    ``prefix`` has no leading or trailing slash and may be empty. ``endpoint`` is a URL, or ``None`` for the
    provider's own. ``region`` is ``None`` where it is not known.
    """

    scheme: str
    bucket: str
    prefix: str
    region: str | None = None
    endpoint: str | None = None
    options: BucketOptions = NO_OPTIONS

    @property
    def uri(self) -> str:
        """The folder as a URI without a trailing slash."""
        return f"{self.scheme}://{self.path}"

    @property
    def path(self) -> str:
        """Bucket and prefix joined, as pyarrow's native file systems take it."""
        return f"{self.bucket}/{self.prefix}" if self.prefix else self.bucket


@dataclass(frozen=True, slots=True)
class Location:
    """A tier with its absolute root (a path or a URI, no trailing slash) and where that root was said.

    ``source`` reads like ``"argument cluster_storage"``, ``"RAY_ANYSTORAGE_CLUSTER_STORAGE"`` or ``"default mount"``;
    ``explicit`` is true when the user or the site said it, false for the platform's defaults.
    """

    tier: Tier
    root: str
    source: str
    explicit: bool


@dataclass(frozen=True, slots=True)
class Place:
    """What a location turned out to be.

    Attributes
    ----------
    filesystem
        As the mount table names it (``nfs4``, ``ext4``, ``fuse.gcsfuse``), or the bucket's scheme.
    network
        True when other hosts can be expected to reach the same data.
    description
        One phrase for people: ``"NFS mount"``, ``"plain directory on the root disk (ext4)"``.
    problem
        Set exactly when ``state`` is ``"failed"``.
    """

    location: Location
    state: State
    kind: Kind = "unknown"
    filesystem: str = ""
    network: bool = False
    description: str = ""
    space: Space | None = None
    bucket: BucketAddress | None = None
    problem: Problem | None = None

    @property
    def tier(self) -> Tier:
        """The tier of the location."""
        return self.location.tier

    @property
    def root(self) -> str:
        """The root of the location."""
        return self.location.root

    @property
    def usable(self) -> bool:
        """True when a run may live here as far as one node can tell."""
        return self.state == "usable"


@dataclass(frozen=True, slots=True)
class RunHome:
    """A run that exists already: its tier, its path or URI, and what is there.

    ``is_run`` is false when the folder holds something that no run wrote.
    """

    name: str
    tier: Tier
    path: str
    is_run: bool = True


@dataclass(frozen=True, slots=True)
class Environment:
    """What was discovered on this node.

    Attributes
    ----------
    places
        One per tier, in the order of ``TIERS``.
    nodes
        Alive nodes of the Ray cluster, or ``None`` when no cluster is connected.
    homes
        Runs found of the name that discovery was asked for.
    unsearched
        Tiers that are there but could not be searched for such a run.
    threshold
        Bytes above which a checkpoint belongs in the artifact store.
    env_vars
        What every process of the run needs to reach the artifact store, all of it harmless to print.
    secret_names
        Names of variables whose values travel beside them (``credentials="env"`` only); the values are not here.
    credentials
        One phrase: mode and source, redacted; or why there are none.
    no_credentials
        The same at length, where there are none.
    bucket_obstacle
        Why no run can use the artifact store as things are (no credentials, no answer), or ``None``.
    notes
        What could not be found out, for the reader of the plan.
    """

    places: tuple[Place, ...]
    nodes: int | None = None
    homes: tuple[RunHome, ...] = ()
    unsearched: tuple[Tier, ...] = ()
    threshold: int = 10 * 10**9
    env_vars: tuple[tuple[str, str], ...] = ()
    secret_names: tuple[str, ...] = ()
    credentials: str = "none needed"
    no_credentials: Problem | None = None
    bucket_obstacle: str | None = None
    notes: tuple[str, ...] = field(default=())

    def place(self, tier: Tier) -> Place | None:
        """The place of a tier, or ``None`` when discovery did not look at it."""
        return next((place for place in self.places if place.tier == tier), None)
