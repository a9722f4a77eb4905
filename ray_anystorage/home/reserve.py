"""A little space kept back on the run home, given up when a small but vital file finds none."""

from __future__ import annotations

import contextlib
import logging
import os

from ray_anystorage.home.atomic import is_full

logger = logging.getLogger(__name__)

STATE_FOLDER = ".anystorage"
RESERVE_BYTES = 1 << 20  # a snapshot of some thousand checkpoints
_NAME = "reserve"


class Reserve:
    """The reserve of one run home: a file in its ``.anystorage`` folder."""

    def __init__(self, home: str) -> None:
        self._path = os.path.join(home, STATE_FOLDER, _NAME)

    def fill(self) -> bool:
        """Keep the space back; false, with a warning, where there is no room for it."""
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        try:
            with open(self._path, "wb") as file:
                file.write(os.urandom(RESERVE_BYTES))  # zeros would shrink to nothing where the disk compresses
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
            if not is_full(error):
                raise
            logger.warning("no room for the reserve of %d bytes at %s: %s", RESERVE_BYTES, self._path, error)
            return False
        return True

    def held(self) -> bool:
        """True while the space is kept back."""
        try:
            return os.stat(self._path).st_size >= RESERVE_BYTES
        except FileNotFoundError:
            return False

    def give_up(self) -> bool:
        """Free the space; false when there was none."""
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            return False
        logger.warning("the run home is full: gave up the reserve %s; free some space there soon", self._path)
        return True
