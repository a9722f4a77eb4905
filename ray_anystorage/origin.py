"""Where a checkpoint came from, and how its data is reached from any process. It holds no secret."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from ray_anystorage.checkpoint.node import Node, current
from ray_anystorage.checkpoint.opened import Opened
from ray_anystorage.checkpoint.restore import Sources
from ray_anystorage.discovery.buckets import parse_bucket_uri
from ray_anystorage.errors import RequestError
from ray_anystorage.named_bucket import bucket_recipe
from ray_anystorage.transfer.open_store import BucketRecipe, MountRecipe, StoreRecipe
from ray_anystorage.transfer.store import Store


@dataclass(frozen=True, slots=True)
class Origin:
    """One checkpoint of one run.

    Attributes
    ----------
    home
        The run home.
    spill
        The run's folder in the bucket, where a home on a mount has one.
    name, attempt
        The checkpoint's folder below the run home, and the attempt that saved it, where that is known.
    """

    home: StoreRecipe
    spill: BucketRecipe | None
    name: str
    attempt: str | None = None

    def opened(self, home: Store | None = None, node: Node | None = None) -> Opened:
        """The checkpoint as this process opens it; ``home`` where it has a better store than the recipe's."""
        folder = os.path.join(self.home.root, self.name) if isinstance(self.home, MountRecipe) else None
        return Opened(
            sources=Sources(home or self.home.open(), self._locate),
            name=self.name,
            attempt=self.attempt,
            run=self.home.uri,
            node=node or current(),
            folder=folder,
        )

    def _locate(self, uri: str) -> Store:
        for recipe in (self.spill, self.home):
            if isinstance(recipe, BucketRecipe):
                if uri.startswith(f"{recipe.uri}/"):  # as it is: a name may hold what a URI takes for a query
                    return recipe.child(uri.removeprefix(f"{recipe.uri}/")).open()
                address = parse_bucket_uri(uri, what="a manifest")
                own = recipe.address
                if (address.scheme, address.bucket) == (own.scheme, own.bucket):
                    return replace(recipe, address=replace(own, prefix=address.prefix)).open()
        return bucket_recipe(uri).open()


def origin_of(place: str) -> Origin:
    """The origin of a checkpoint that a person named by its path or URI.

    Raises
    ------
    RequestError
        It is neither an absolute path nor the URI of a bucket folder below another folder.
    CredentialsError
        This process has no credentials for the bucket.
    """
    if "://" not in place or place.startswith("file://"):
        path = os.path.abspath(os.path.expanduser(place.removeprefix("file://")))
        home, name = os.path.split(path)
        return Origin(MountRecipe(home), None, name)
    recipe = bucket_recipe(place)
    prefix, _, name = recipe.address.prefix.rpartition("/")
    if not name:
        raise RequestError(f"{place!r} names a bucket: expected the folder of a checkpoint in it")
    return Origin(replace(recipe, address=replace(recipe.address, prefix=prefix)), None, name)
