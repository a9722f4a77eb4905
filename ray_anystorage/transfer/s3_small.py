"""The obstore client for small objects: the same endpoint, keys and time limits as botocore's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from ray_anystorage.environment import BucketAddress, BucketOptions
from ray_anystorage.transfer.object_store import NO_RETRIES
from ray_anystorage.transfer.s3_client import addressing, read_ca_file
from ray_anystorage.transfer.s3_keys import Keys

CONNECT_TIMEOUT = 10.0  # seconds
_REQUEST_TIMEOUT = 120.0  # seconds for all of a request
_CREDENTIALS_AGE = timedelta(minutes=5)  # botocore renews ten minutes before the end, so they last that long


def small_client(
    address: BucketAddress, keys: Keys, boto: Callable[[], Any], checksum: str | None, read_timeout: float
) -> Any:
    """An obstore store for a whole bucket.

    Parameters
    ----------
    boto
        Gives botocore's client for it, which knows what the address leaves open; to make one takes 0.1 s.
    checksum
        What puts carry for the store to compare: ``"SHA256"``, which is also in the signature, since not every store
        compares both; ``"CRC64NVME"``; ``None`` where TLS does it.
    read_timeout
        Seconds.
    """
    from obstore.store import S3Store as ObstoreS3

    def provide() -> dict[str, Any]:
        frozen = keys.for_obstore()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token or None,
            "expires_at": datetime.now(timezone.utc) + _CREDENTIALS_AGE,
        }

    ca = read_ca_file(address)
    virtual = addressing(address) == "virtual"
    return ObstoreS3(
        address.bucket,
        # Not `endpoint`, which a variable of this name in the process would overrule.
        config={
            "aws_endpoint_url_s3": _endpoint(address, address.endpoint or boto().meta.endpoint_url, virtual),
            **_asked_for(address.options),
        },
        region=address.region or boto().meta.region_name,
        virtual_hosted_style_request=virtual,
        unsigned_payload=checksum != "SHA256",
        **({"checksum_algorithm": checksum} if checksum else {}),
        credential_provider=provide,
        retry_config=NO_RETRIES,
        client_options={
            "allow_http": checksum is not None,
            "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT),
            "read_timeout": timedelta(seconds=read_timeout),
            "timeout": timedelta(seconds=max(_REQUEST_TIMEOUT, read_timeout)),
            **({"root_certificate": ca} if ca else {}),
        },
    )


def _asked_for(options: BucketOptions) -> dict[str, Any]:
    said = {
        "request_payer": options.requester_pays or None,
        "server_side_encryption": options.encryption,
        "sse_kms_key_id": options.kms_key,
    }
    return {name: value for name, value in said.items() if value is not None}


def _endpoint(address: BucketAddress, url: str, virtual: bool) -> str:
    if not virtual:
        return url
    scheme, _, host = url.partition("://")
    return f"{scheme}://{address.bucket}.{host}"
