"""The first keys below a prefix, for finding out whether a run is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from ray_anystorage.credentials.grant import Grant
from ray_anystorage.discovery.probe import bounded
from ray_anystorage.environment import BucketAddress
from ray_anystorage.errors import BucketError

_ENOUGH = 200


def key_lister(address: BucketAddress, grant: Grant, *, timeout: float) -> Callable[[str], list[str]]:
    """What lists up to some keys of the bucket below a full key prefix, folders below it as one key each.

    Parameters
    ----------
    timeout
        Seconds, for each listing; before the first of S3, as many for finding the credentials.

    Returns
    -------
    callable
        It raises :class:`StorageError` where the bucket cannot be listed, in the words of
        :mod:`ray_anystorage.transfer.failures`.
    """
    if address.scheme == "s3":
        return _s3_lister(address, grant, timeout)
    if address.scheme == "abfss":
        return lambda prefix: _list_azure(address, grant, prefix, timeout)
    return lambda prefix: _list_native(address, grant, prefix, timeout)


def _s3_lister(address: BucketAddress, grant: Grant, timeout: float) -> Callable[[str], list[str]]:
    from ray_anystorage.transfer.failures import S3_FAILURES, Attempt, explain_s3
    from ray_anystorage.transfer.s3_client import s3_client

    # In a time of its own: on a busy machine it takes seconds of the processor, and the store is not to blame for that.
    client = cache(lambda: s3_client(address, grant, connect_timeout=timeout / 4, read_timeout=timeout / 4))

    def list_below(prefix: str) -> list[str]:
        def page() -> dict[str, Any]:
            found: dict[str, Any] = made.list_objects_v2(
                Bucket=address.bucket, Prefix=prefix, Delimiter="/", MaxKeys=_ENOUGH
            )
            return found

        attempt = Attempt(address, grant, "list", f"s3://{address.bucket}/{prefix}")
        try:
            made = bounded(client, timeout, what=f"find credentials for {attempt.target}")
            answer = bounded(page, timeout, what=f"list {attempt.target}")
        except S3_FAILURES as error:
            # Without the cause: what a credential process printed may be in it.
            raise explain_s3(error, attempt).error() from None
        files = [entry["Key"] for entry in answer.get("Contents", [])]
        return files + [entry["Prefix"] for entry in answer.get("CommonPrefixes", [])]

    return list_below


def _list_native(address: BucketAddress, grant: Grant, prefix: str, timeout: float) -> list[str]:
    import pyarrow.fs

    from ray_anystorage.transfer.pyarrow_fs import FileSystemRecipe, build

    recipe = FileSystemRecipe(address, grant.env_vars, connect_timeout=timeout, request_timeout=timeout)
    folder = prefix.rpartition("/")[0]
    selector = pyarrow.fs.FileSelector(f"{address.bucket}/{folder}", allow_not_found=True)
    try:
        found = bounded(lambda: build(recipe).get_file_info(selector), timeout, what=f"list {address.uri}")
        keys = [info.path.partition("/")[2] for info in found]
        return [key for key in keys if key.startswith(prefix)]
    except OSError as error:
        raise BucketError(
            f"the store does not list: {grant.secrets.redact(str(error))}",
            tier="artifact",
            place=address.uri,
            tried=f"list {address.scheme}://{address.bucket}/{prefix}",
            remedy="check the folder's name, the credentials and that they allow to list it",
        ) from error


def _list_azure(address: BucketAddress, grant: Grant, prefix: str, timeout: float) -> list[str]:
    import obstore

    from ray_anystorage.transfer.cloud_store import CloudStore, cloud_client
    from ray_anystorage.transfer.object_store import OBSTORE_FAILURES, read_failure

    whole = CloudStore(replace(address, prefix=""), grant)
    client = cloud_client(address, grant, retries={"max_retries": 1}, timeout=timeout / 2, connect_timeout=timeout / 4)
    folder = prefix.rpartition("/")[0]
    try:
        found = bounded(
            lambda: obstore.list_with_delimiter(client, prefix=folder or None), timeout, what=f"list {address.uri}"
        )
    except OBSTORE_FAILURES as error:
        raise whole.explain("list", prefix, *read_failure(error), error) from None
    keys = [entry["path"] for entry in found["objects"]] + [f"{name}/" for name in found["common_prefixes"]]
    return [key for key in keys if key.startswith(prefix)]
