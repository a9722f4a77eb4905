"""From the bytes of ``torch.save`` to a tensor, or to the part of it that is wanted, of which alone bytes are read."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._shard._utils import narrow_tensor_by_index

from ray_anystorage.dcp.stored_range import StoredRange
from ray_anystorage.transfer.digest import CHUNK_BYTES

_FRAME_BYTES = 2 * CHUNK_BYTES  # the first and the last segment are read for torch.save's frame
_WORTH = 0.75  # of a range, at most, to be read in part


def load_part(stream: io.BytesIO | StoredRange, offsets: Sequence[int], lengths: Sequence[int]) -> torch.Tensor:
    """The part of a stored tensor from ``offsets`` on, so many elements long in each dimension.

    Of a large one only the bytes between the part's first and last are read, where that spares a good deal: resharded
    by its first dimension, each rank reads its rows.
    """
    if isinstance(stream, StoredRange):
        found = _read_part(stream, offsets, lengths)
        if found is not None:
            return found
        stream.seek(0)
    return narrow_tensor_by_index(_watched(stream, lambda: _load(stream)), offsets, lengths)


def _read_part(stream: StoredRange, offsets: Sequence[int], lengths: Sequence[int]) -> torch.Tensor | None:
    """``None`` where all of it has to be read, or has better be."""
    if math.prod(lengths) + _FRAME_BYTES > _WORTH * stream.size:  # an element has a byte at least
        return None
    with FakeTensorMode():  # reads no data, but knows where it lies
        stored = _watched(stream, lambda: _load(stream))
        part = narrow_tensor_by_index(stored, offsets, lengths)
        start = getattr(stored.untyped_storage(), "_checkpoint_offset", None)
        plain = stored.layout == torch.strided and not (stored.is_quantized or stored.is_conj() or stored.is_neg())
        shape, strides, first = tuple(part.shape), part.stride(), part.storage_offset()
        width, dtype = part.element_size(), part.dtype
    if start is None or not plain or 0 in shape:
        return None
    count = 1 + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if count * width + _FRAME_BYTES > _WORTH * stream.size:
        return None
    data = bytearray(count * width)
    stream.seek(start + first * width)
    _watched(stream, lambda: stream.readinto(data))
    return torch.frombuffer(data, dtype=dtype).as_strided(shape, strides)


def _load(stream: io.BytesIO | StoredRange) -> Any:
    return torch.load(stream, map_location="cpu", weights_only=True)


def _watched(stream: io.BytesIO | StoredRange, act: Callable[[], Any]) -> Any:
    """What ``act`` gives; where reading failed, what it failed with: torch makes something else of it."""
    try:
        return act()
    except Exception as error:
        failure = getattr(stream, "failure", None)
        if failure is not None and failure is not error:
            raise failure from error
        raise
