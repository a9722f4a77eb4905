"""Links where folders should be: what is written below one lands elsewhere."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator

logger = logging.getLogger(__name__)


def planted_links(directory: str, paths: Iterable[str]) -> Iterator[str]:
    """Links among the folders between a directory and files below it; of several on one way the first.

    Parameters
    ----------
    paths
        Of the files, relative. One that ends with a slash is a folder's, which is looked at too.
    """
    for folder in sorted({os.path.dirname(path) for path in paths}):
        at = directory
        for segment in folder.split("/"):
            at = os.path.join(at, segment)
            if os.path.islink(at):
                yield at
                break


def unlink_planted(directory: str, paths: Iterable[str]) -> None:
    """Remove them, from a directory of this package's own.

    Raises
    ------
    OSError
        One cannot be removed.
    """
    for link in planted_links(directory, paths):
        logger.warning("removed %s: it is a link, and no folder", link)
        os.unlink(link)
