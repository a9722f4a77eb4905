"""How many requests at once, and how large: found by trying, from what the store does, whatever its distance.

Far from the store a request waits, and twice as many requests move twice as much; near it the processor, the server or
the link is the limit, and more of them only take memory. So the number doubles, a round at a time, as long as that
helps. A store that throttles halves it, and it then grows slowly, by one for each round.
"""

from __future__ import annotations

from ray_anystorage.transfer.digest import CHUNK_BYTES

_HELPS = 1.25  # times as many requests per second: less is noise, or not worth twice the memory
_ROUNDS_BETWEEN = 16  # that a number is kept before the next one is tried again
_AIM = 0.2  # seconds that a request should take: enough to make what it costs by itself small
_MOST_CHUNKS = 4


class Pace:
    """The number of requests at once; not thread-safe.

    Parameters
    ----------
    first, most
        At once, to begin with and at the end.

    Attributes
    ----------
    limit, lowest
        At once now, and at the worst moment.
    cuts
        How often it was halved.
    """

    def __init__(self, first: int, most: int) -> None:
        self.most = most
        self.limit = self.lowest = float(min(first, most))
        self.cuts = 0
        self._rate = 0.0  # requests per second with half as many, where this number is on trial
        self._since: float | None = None
        self._done = 0.0  # requests of this round
        self._rounds_kept = 0

    def began(self, now: float) -> None:
        """A request begins; ``now`` in seconds of a monotonic clock."""
        if self._since is None:
            self._since = now

    def succeeded(self, now: float) -> None:
        """A request has ended well."""
        if self.cuts:
            self.limit = min(self.most, self.limit + 1 / self.limit)
        else:
            self.moved(now, 1)

    def moved(self, now: float, share: float) -> None:
        """So much of a request is done: what takes long is judged on its way, and counts once more at its end."""
        self._done += share
        if not self.cuts and self._done >= self.limit and self._since is not None:
            self._judge(self._done / max(now - self._since, 1e-6))
            self._since, self._done = now, 0.0

    def throttled(self) -> None:
        """The store asked for fewer."""
        self.limit = max(1.0, self.limit / 2)
        self.lowest = min(self.lowest, self.limit)
        self.cuts += 1

    def _judge(self, rate: float) -> None:
        if self._rate and rate < _HELPS * self._rate:  # the last doubling did not help
            self.limit = max(1.0, self.limit // 2)
            self._rate, self._rounds_kept = 0.0, _ROUNDS_BETWEEN
        elif self._rounds_kept:
            self._rounds_kept -= 1
        elif self.limit < self.most:
            self._rate = rate
            self.limit = min(self.most, 2 * self.limit)


class Stride:
    """How many chunks one request fetches: more where they come quickly, fewer towards the end, for all to share."""

    def __init__(self) -> None:
        self._chunks = 1

    def chunks(self, left: int, requests: float) -> int:
        """For the next request, where so many chunks are left for so many requests at once."""
        return max(1, min(self._chunks, left // int(2 * requests)))

    def took(self, size: int, seconds: float) -> None:
        """A request moved ``size`` bytes in this time."""
        self._chunks = max(1, min(_MOST_CHUNKS, int(_AIM * size / max(seconds, 1e-6)) // CHUNK_BYTES))
