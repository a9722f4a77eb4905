"""What stands against bits that flip on their way to an S3 store without TLS, for as little work as the store allows.

At first every payload goes with its SHA-256, of which a store compares one use or another. A store that says that it
compares a cheaper checksum gets that alone: hashing costs both sides more than all else that a small object needs.
"""

from __future__ import annotations

import base64
import threading
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

from botocore.config import Config

from ray_anystorage.transfer.digest import BytesLike
from ray_anystorage.transfer.store import Limits

_CRC64, _CRC32 = "ChecksumCRC64NVME", "ChecksumCRC32"
CRC64_OF_NOTHING = {_CRC64: "AAAAAAAAAAA="}  # as botocore's argument: it is 0, and takes a library for anything else


def crc32_of(body: BytesLike) -> dict[str, str]:
    """botocore's argument that sends the checksum of a body."""
    return {_CRC32: base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()}


class PayloadChecks:
    """What one store, and every folder of it, has said of the checksums that it compares.

    Parameters
    ----------
    make_client
        Gives an obstore client whose puts carry their CRC-64 alone.
    """

    def __init__(self, make_client: Callable[[], Any]) -> None:
        self._make_client, self._lock = make_client, threading.Lock()
        self._parts = threading.Event()
        self.small: Any = None  # such a client, from when the store has said that it compares
        self.asked = False  # whether the store has been asked about small objects

    def answered_part(self, answer: dict[str, Any]) -> None:
        """Take note of the answer to a part; a store that does not know the checksum says nothing of it."""
        if _CRC32 in answer:
            self._parts.set()

    def answered_nothing(self, answer: dict[str, Any]) -> None:
        """Take note of the answer to an empty object."""
        with self._lock:
            if not self.asked and answer.get(_CRC64) == CRC64_OF_NOTHING[_CRC64]:
                self.small = self._make_client()
            self.asked = True

    def spare(self, client: Any) -> None:
        """Have a botocore client leave a part's payload out of its signature once the store compares its checksum."""
        client.meta.events.register("before-sign.s3.UploadPart", partial(_spare_hashing, self._parts))


def configure(session: Any, *, secure: bool) -> None:
    """Have the clients of a botocore session make each request once, as many at a time as the engine does."""
    config = Config(
        max_pool_connections=Limits().requests,
        retries={"total_max_attempts": 1},
        # Over TLS nothing on the way can alter a payload; without it the store must compare it with its hash.
        s3={"payload_signing_enabled": not secure},
    )
    session.set_default_client_config(session.get_default_client_config().merge(config))


def _spare_hashing(compares: threading.Event, request: Any, **_: Any) -> None:
    if compares.is_set():
        config = request.context["client_config"]
        request.context["client_config"] = config.merge(Config(s3={**config.s3, "payload_signing_enabled": False}))
