"""Sharded checkpoints of ``torch.distributed.checkpoint`` on any tier, sent in parallel and verified when read.

>>> from torch.distributed import checkpoint as dcp  # doctest: +SKIP
>>> dcp.save(state, storage_writer=anystorage.dcp.StorageWriter("artifact:llama/step-1000"))  # doctest: +SKIP
>>> dcp.load(state, storage_reader=anystorage.dcp.StorageReader("artifact:llama/step-1000"))  # doctest: +SKIP

The format is torch's own. Its readers open what is written here, and what they wrote is read here, without being
verified.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ray_anystorage.errors import LibraryMissingError

if TYPE_CHECKING:
    from ray_anystorage.dcp.reader import StorageReader
    from ray_anystorage.dcp.writer import StorageWriter

_HOME_OF = {"StorageReader": "reader", "StorageWriter": "writer"}

__all__ = ["StorageReader", "StorageWriter"]


def __getattr__(name: str) -> Any:
    """Import torch when it is first needed."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import torch.distributed.checkpoint
    except ImportError as error:
        raise LibraryMissingError(f"anystorage.dcp.{name} needs PyTorch: pip install torch") from error
    try:
        return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    except ImportError as error:
        raise LibraryMissingError(
            f"anystorage.dcp.{name} was made for PyTorch 2.13, and {torch.__version__} lacks something: {error}"
        ) from error


def __dir__() -> list[str]:
    return sorted(__all__)
