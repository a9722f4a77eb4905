"""From a URI that a person wrote to the recipe of a bucket's folder, with what this process has for it."""

from __future__ import annotations

from ray_anystorage.credentials.choose import choose, choose_here
from ray_anystorage.credentials.grant import Credentials
from ray_anystorage.discovery.buckets import address_in
from ray_anystorage.settings import Settings, process_environment, read_settings
from ray_anystorage.transfer.open_store import BucketRecipe


def bucket_recipe(
    uri: str, *, credentials: Credentials | None = None, what: str = "checkpoint", settings: Settings | None = None
) -> BucketRecipe:
    """The recipe of a bucket folder, with the credentials that this process finds for it.

    Parameters
    ----------
    credentials
        A mode; ``RAY_ANYSTORAGE_CREDENTIALS`` where ``None``, else the safest that works, static keys included: nothing
        travels from here.
    what
        Who said the URI, for the error.
    settings
        This process's, where they were read already.

    Raises
    ------
    RequestError
        The URI cannot be meant.
    CredentialsError
        There are none.
    """
    environ = process_environment()
    settings = settings or read_settings(environ, roots={"artifact": uri})
    address = address_in(uri, settings, what=what)
    mode = credentials or settings.credentials
    grant = choose(mode, address, environ) if mode is not None else choose_here(address, environ)
    return BucketRecipe(address, grant.mode, grant.source, grant.env_vars)
