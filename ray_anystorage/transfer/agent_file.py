"""What a broker's agent keeps in a file for Azure, as obstore asks for it."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta, timezone
from typing import Any

from ray_anystorage.errors import CredentialsError

_READ_EVERY = 5.0  # seconds at most: another lease may be there long before the last one ends


class AgentFile:
    """obstore's provider: it calls it when what it was given last has ended, before the request that needs it.

    Parameters
    ----------
    path
        The file, which the agent replaces as a whole.
    """

    refresh_threshold = timedelta(0)  # where it is not said, obstore calls for each request from five minutes before on

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self) -> dict[str, Any]:
        """The SAS, account key or token that is there now, given for some seconds.

        Raises
        ------
        CredentialsError
            There is no file, or what it holds has ended.
        """
        values, now = self._read(), time.time()
        end: float | None = values.pop("expires_at")
        if end is not None and end <= now:
            ended = datetime.fromtimestamp(end, timezone.utc)
            raise CredentialsError(
                f"the credentials in {self._path} expired at {ended:%Y-%m-%d %H:%M:%S} UTC; the driver's log says why "
                "there are no others"
            )
        until = min(now + _READ_EVERY, end or now + _READ_EVERY)
        return {**values, "expires_at": datetime.fromtimestamp(until, timezone.utc)}

    def _read(self) -> dict[str, Any]:
        try:
            with open(self._path, encoding="utf-8") as file:
                values: dict[str, Any] = json.load(file)
        except OSError as error:
            raise CredentialsError(
                f"{self._path} cannot be read: {error.strerror}; an agent keeps it there while the driver lives"
            ) from error
        return values
