"""What goes wrong on some nodes of a cluster, or with reaching the cluster at all."""

from __future__ import annotations

import errno as codes
from dataclasses import dataclass

from ray_anystorage.errors.base import AnyStorageError


@dataclass(frozen=True, slots=True)
class NodeFailure:
    """Something that a node cannot do.

    Attributes
    ----------
    node
        Its address, host name and the beginning of its id.
    tier, place
        Which storage; both empty where it is the node itself, which does not answer or lacks this package.
    error
        The name of the error class of the same meaning.
    """

    node: str
    tier: str
    place: str
    error: str
    reason: str
    tried: str
    remedy: str


class NodePreflightError(AnyStorageError, OSError):
    """Nodes that got workers cannot do what the run needs; found before user code started on any node.

    Attributes
    ----------
    failures
        One :class:`NodeFailure` for each thing that a node cannot do.
    fine
        The nodes that can do all of it.
    """

    errno: int = codes.EIO
    failures: tuple[NodeFailure, ...]
    fine: tuple[str, ...]


class ClusterNotReachedError(AnyStorageError, ConnectionError):
    """No Ray cluster can be reached from here."""

    errno = codes.ECONNREFUSED
