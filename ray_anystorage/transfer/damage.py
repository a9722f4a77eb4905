"""Telling what is damaged in a store from what was altered on its way."""

from __future__ import annotations

from collections import Counter
from typing import NoReturn

from ray_anystorage.errors import DigestMismatchError, StoreUnavailableError
from ray_anystorage.transfer.retry import Transient

_TIMES = 3  # that the same wrong bytes come, before they are taken for what is stored


class Suspicion:
    """The wrong digests that one chunk came with.

    A bit that flips on the way is another one the next time. What is damaged in the store comes back the same.
    """

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def of(self, digest: str, error: DigestMismatchError) -> NoReturn:
        """Raise what a wrong digest means.

        Raises
        ------
        DigestMismatchError
            The same wrong bytes came several times.
        Transient
            They may be altered on the way; patience ends with a ``StoreUnavailableError``, which blames nobody's data.
        """
        self._seen[digest] += 1
        if self._seen[digest] == _TIMES:
            raise error
        problem = StoreUnavailableError(
            f"{error.reason}, and may have been altered on its way",
            tier=error.tier,
            place=error.place,
            tried=error.tried,
            remedy="see whether the network or a proxy alters what passes; read it again from another node",
        )
        raise Transient(problem) from error
