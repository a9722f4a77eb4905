"""What the checkpoints of real jobs look like, and the same made smaller."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from ray_anystorage.errors import RequestError

_KB, _MB, _GB = 1e3, 1e6, 1e9
SMALL_BYTES = 1 << 20  # of a file: smaller ones cost a request each rather than time on the link
_KEPT = 2 << 20  # a file of this size or less is not made smaller: tokenizers, metadata
_FEWEST = 50  # files that are left of many small ones
_POOL_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Shape:
    """Files of one checkpoint.

    Attributes
    ----------
    name
        As the command takes it.
    what
        In a phrase.
    files
        Relative path and bytes of each.
    full_bytes
        Of all files of the real one, which this may be smaller than.
    """

    name: str
    what: str
    files: tuple[tuple[str, int], ...]
    full_bytes: int = 0

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(size for _, size in self.files)

    @property
    def small(self) -> bool:
        """Whether it is its number of files that makes it what it is."""
        return all(size <= SMALL_BYTES for _, size in self.files)


def _shape(name: str, what: str, *files: tuple[str, float]) -> Shape:
    whole = tuple((path, int(size)) for path, size in files)
    return Shape(name, what, whole, sum(size for _, size in whole))


# Sizes: Llama 2 7B as Hugging Face stores it; AdamW in single precision keeps 12 bytes for each of 6.74e9 parameters.
SHAPES = (
    _shape(
        "dense-7b",
        "a dense 7B model in safetensors shards",
        ("model-00001-of-00003.safetensors", 4.94 * _GB),
        ("model-00002-of-00003.safetensors", 4.95 * _GB),
        ("model-00003-of-00003.safetensors", 3.59 * _GB),
        ("model.safetensors.index.json", 26.8 * _KB),
        ("tokenizer.json", 1.84 * _MB),
        ("tokenizer.model", 500 * _KB),
        ("config.json", 609),
        ("generation_config.json", 188),
    ),
    _shape(
        "fsdp-7b",
        "a 7B model and its optimizer in eight FSDP shards",
        *((f"__{rank}_0.distcp", 10.1 * _GB) for rank in range(8)),
        (".metadata", 1.2 * _MB),
    ),
    _shape(
        "lora",
        "a LoRA adapter with its optimizer",
        ("adapter_model.safetensors", 33.6 * _MB),
        ("optimizer.pt", 67.3 * _MB),
        ("adapter_config.json", 730),
        ("trainer_state.json", 12 * _KB),
        ("rng_state.pth", 14.2 * _KB),
        ("scheduler.pt", 1.1 * _KB),
    ),
    _shape("lightgbm", "a LightGBM model", ("model.txt", 6.2 * _MB)),
    _shape(
        "small-files",
        "10,000 small files",
        *((f"part-{number // 100:02d}/{number:05d}.bin", 4096) for number in range(10_000)),
    ),
)


def shapes_of(names: tuple[str, ...]) -> tuple[Shape, ...]:
    """The shapes of these names, all where none is given.

    Raises
    ------
    RequestError
        One is not known.
    """
    known = {shape.name: shape for shape in SHAPES}
    for name in names:
        if name not in known:
            raise RequestError(f"shape {name!r} is not known: expected one of {', '.join(known)}")
    return tuple(known[name] for name in known if not names or name in names)


def scaled(shape: Shape, most: int) -> Shape:
    """The same, of ``most`` bytes at most: large files get smaller, many small ones fewer."""
    if shape.bytes <= most:
        return shape
    if shape.small and len(shape.files) > 1:
        count = max(_FEWEST, int(len(shape.files) * most / shape.bytes))
        return replace(shape, files=shape.files[:count])
    fixed = sum(size for _, size in shape.files if size <= _KEPT)
    if fixed == shape.bytes:
        return shape
    share = max(0.0, most - fixed) / (shape.bytes - fixed)
    files = tuple((path, size if size <= _KEPT else max(SMALL_BYTES, int(size * share))) for path, size in shape.files)
    return replace(shape, files=files)


def write(shape: Shape, directory: str) -> None:
    """Write a checkpoint with new content: every chunk differs from every one before, and nothing can compress it."""
    pool = memoryview(os.urandom(min(_POOL_BYTES, max(1, shape.bytes))))
    for number, (path, size) in enumerate(shape.files):
        target = os.path.join(directory, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb", buffering=0) as file:
            _fill(file.fileno(), pool, number, size)


def _fill(descriptor: int, pool: memoryview, number: int, size: int) -> None:
    """Write ``size`` bytes, each block begun at another place of the pool and marked with where it is."""
    at = 0
    while at < size:
        start = (number * 4099 + at // len(pool) * 65537) % len(pool)
        block = pool[start : start + min(size - at, len(pool) - start)]
        os.pwrite(descriptor, block, at)
        if len(block) >= 16:
            os.pwrite(descriptor, number.to_bytes(8, "little") + at.to_bytes(8, "little"), at)
        at += len(block)
