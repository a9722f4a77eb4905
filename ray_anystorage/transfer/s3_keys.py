"""The keys that an S3 store signs with, and others from their source where the store no longer takes them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from botocore.credentials import Credentials
from botocore.exceptions import CredentialRetrievalError, NoCredentialsError


class Keys(Credentials):  # type: ignore[misc]
    """The credentials of one store, for botocore's signer and for obstore.

    A source that says when its keys expire is asked again in time, by botocore. Keys that end before (a role whose
    sessions were revoked, a rotation, a node whose clock is wrong) are noticed when the store refuses them.

    Parameters
    ----------
    load
        Asks the source, each time anew; gives botocore's credentials, or ``None`` where there are none.

    Raises
    ------
    botocore.exceptions.BotoCoreError
        The source gives none.
    """

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load, self._lock = load, threading.Lock()
        self._source = self._loaded()
        self.method, self.account_id = self._source.method, None
        self.handed_to_obstore = self.get_frozen_credentials()
        self._on_trial: Any = None  # keys that were asked for because others were refused, until the store takes them

    def get_frozen_credentials(self) -> Any:
        """The keys to sign with now; botocore asks the source where they are about to expire."""
        return _frozen(self._source)

    def for_obstore(self) -> Any:
        """The same, remembered: obstore keeps them for a moment."""
        self.handed_to_obstore = frozen = self.get_frozen_credentials()
        return frozen

    def renewed(self, refused: Any) -> bool:
        """True where other keys than those that the store refused are in use by now, or can be had.

        A source that makes new keys each time it is asked is believed once: where the store refuses those as well, that
        they are old is not the reason.

        Raises
        ------
        botocore.exceptions.BotoCoreError
            The source gives none.
        """
        with self._lock:
            if self.get_frozen_credentials() != refused:
                return True
            if refused == self._on_trial:
                return False
            fresh = self._loaded()
            if _frozen(fresh) == refused:
                return False
            self._source, self._on_trial = fresh, _frozen(fresh)
            return True

    def taken(self, signed: Any) -> None:
        """The store took these keys."""
        if self._on_trial is not None and signed == self._on_trial:
            self._on_trial = None

    def _loaded(self) -> Any:
        loaded = self._load()
        if loaded is None:
            raise NoCredentialsError
        return loaded


def _frozen(source: Any) -> Any:
    try:
        return source.get_frozen_credentials()
    except RuntimeError as error:  # botocore's, of a source that gives keys that have expired
        raise CredentialRetrievalError(provider=source.method, error_msg=str(error)) from error
