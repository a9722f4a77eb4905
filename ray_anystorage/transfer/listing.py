"""The first keys below a prefix, for finding out whether a run is there."""

from __future__ import annotations

from typing import Any

from ray_anystorage.credentials.grant import Grant
from ray_anystorage.environment import BucketAddress
from ray_anystorage.errors import BucketError
from ray_anystorage.transfer.failures import Attempt, explain_s3

_ENOUGH = 200


def list_keys(address: BucketAddress, grant: Grant, prefix: str, *, timeout: float) -> list[str]:
    """List up to some keys of the bucket below ``prefix``, folders below it as one key each.

    Parameters
    ----------
    prefix
        A full key prefix of the bucket, ending with a slash.
    timeout
        Seconds for connecting and for an answer, together.

    Raises
    ------
    StorageError
        The bucket cannot be listed, in the words of :mod:`ray_anystorage.transfer.failures`.
    """
    if address.scheme == "s3":
        return _list_s3(address, grant, prefix, timeout)
    return _list_native(address, grant, prefix, timeout)


def _list_s3(address: BucketAddress, grant: Grant, prefix: str, timeout: float) -> list[str]:
    from botocore.exceptions import BotoCoreError, ClientError

    from ray_anystorage.transfer.s3_client import s3_client

    attempt = Attempt(address, grant, "list", f"s3://{address.bucket}/{prefix}")
    try:
        client = s3_client(address, grant, connect_timeout=timeout / 4, read_timeout=timeout / 4)
        page: dict[str, Any] = client.list_objects_v2(
            Bucket=address.bucket, Prefix=prefix, Delimiter="/", MaxKeys=_ENOUGH
        )
    except (BotoCoreError, ClientError, OSError) as error:
        raise explain_s3(error, attempt).error() from error
    files = [entry["Key"] for entry in page.get("Contents", [])]
    return files + [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]


def _list_native(address: BucketAddress, grant: Grant, prefix: str, timeout: float) -> list[str]:
    import pyarrow.fs

    from ray_anystorage.transfer.pyarrow_fs import FileSystemRecipe, build

    recipe = FileSystemRecipe(address, grant.env_vars, connect_timeout=timeout, request_timeout=timeout)
    selector = pyarrow.fs.FileSelector(f"{address.bucket}/{prefix}", allow_not_found=True)
    try:
        return [info.path.partition("/")[2] for info in build(recipe).get_file_info(selector)]
    except OSError as error:
        raise BucketError(
            f"the store does not list: {grant.secrets.redact(str(error))}",
            tier="artifact",
            place=address.uri,
            tried=f"list {address.scheme}://{address.bucket}/{prefix}",
            remedy="check the folder's name, the credentials and that they allow to list it",
        ) from error
