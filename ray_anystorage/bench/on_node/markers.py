"""Empty objects that stand for folders: pyarrow writes one at every level above what it copies to S3.

Ray's own path leaves them; a benchmark removes those that were not there before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ray_anystorage.credentials.grant import carried
from ray_anystorage.environment import BucketAddress
from ray_anystorage.transfer.open_store import BucketRecipe
from ray_anystorage.transfer.s3_client import s3_client

_TIMEOUT = 30.0  # seconds
_CLOCKS = 60.0  # seconds that clocks may be apart
_LONGEST = 6 * 3600.0  # that a benchmark takes


class Markers:
    """The markers at and above a folder of an S3 bucket.

    Parameters
    ----------
    recipe
        The folder of all benchmarks.
    """

    def __init__(self, recipe: BucketRecipe) -> None:
        self._address: BucketAddress = recipe.address
        grant = carried(recipe.mode, recipe.source, recipe.env_vars)
        self._client: Any = s3_client(recipe.address, grant, connect_timeout=_TIMEOUT, read_timeout=_TIMEOUT)

    def above(self) -> list[str]:
        """The keys of those that there are at the folders above."""
        return [key for key in self._levels() if key in self._keys(key, most=1)]

    def remove(self, folder: str, kept: list[str], *, since: float) -> None:
        """Remove all below one folder of it, its own, and those above that were made meanwhile.

        Parameters
        ----------
        kept
            Keys that were there before.
        since
            When the benchmark began, in seconds since the epoch. What is older, or much younger, or has content, is
            another's.
        """
        own = f"{self._address.prefix}/"
        below = [key for key in self._keys(f"{own}{folder}/") if key.endswith("/")]
        above = [key for key in self._levels() if key not in kept and self._is_ours(key, since)]
        for key in (*below, own, *above):
            self._client.delete_object(Bucket=self._address.bucket, Key=key)

    def _is_ours(self, key: str, since: float) -> bool:
        found = self._client.list_objects_v2(Bucket=self._address.bucket, Prefix=key, MaxKeys=1).get("Contents", [])
        if not found or found[0]["Key"] != key or found[0]["Size"]:
            return False
        return bool(-_CLOCKS <= found[0]["LastModified"].timestamp() - since <= _LONGEST)

    def _levels(self) -> Iterator[str]:
        parts = self._address.prefix.split("/")[:-1]
        yield from ("/".join(parts[: number + 1]) + "/" for number in range(len(parts)))

    def _keys(self, prefix: str, most: int = 1000) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._address.bucket, Prefix=prefix, PaginationConfig={"MaxItems": most} if most == 1 else {}
        )
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]
