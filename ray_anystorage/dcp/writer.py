"""Writing: torch makes the bytes, which go to the store by parallel parts as they are made."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, FileSystemWriter, _item_size, _StoragePrefix
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from ray_anystorage.checkpoint.small_files import patiently
from ray_anystorage.dcp.places import Folder, folder_of, is_place
from ray_anystorage.dcp.sealing import sealed
from ray_anystorage.errors import CheckpointExistsError, StorageError
from ray_anystorage.transfer.engine import sink
from ray_anystorage.transfer.segments import Segments
from ray_anystorage.transfer.sink import Sink

logger = logging.getLogger(__name__)

_OVERHEAD = 4096  # bytes that torch.save adds to a tensor, at most
_DATA = re.compile(r"__\d+_.*\.distcp")


class StorageWriter(FileSystemWriter):  # type: ignore[misc]
    """For ``save`` and ``async_save`` of ``torch.distributed.checkpoint``: each rank sends its part while it is made.

    A checkpoint becomes visible as a whole, with its ``.metadata``, which also holds the digests of everything. Where
    one is replaced, that one can be loaded until then. Memory: 128 MiB of parts under way for each rank. A writer makes
    one save at a time.

    Parameters
    ----------
    place
        The folder: ``TIER:path`` (``local``, ``cluster``, ``user``, ``shared``, ``artifact``),
        ``anystorage://TIER/path``, a path, or a URI. All ranks must name the same. ``checkpoint_id``, where ``save`` is
        told one, comes before it.
    overwrite
        Whether a checkpoint that is there is replaced.
    cache_staged_state_dict
        Keep what ``async_save`` copies the state to, for the next time.

    Raises
    ------
    RequestError
        The place cannot be meant, or its tier has no place here.
    CredentialsError
        This process has no credentials for the bucket.
    CheckpointExistsError, StorageError
        From ``save``, which wraps what happens in a rank in torch's ``CheckpointException`` (see its ``failures``).
    """

    def __init__(
        self, place: str | os.PathLike[str], *, overwrite: bool = True, cache_staged_state_dict: bool = False
    ) -> None:
        super().__init__(
            os.fspath(place),
            sync_files=False,  # a sink is durable
            thread_count=1,  # parts go in parallel; and torch loses what fails in other threads
            overwrite=overwrite,
            cache_staged_state_dict=cache_staged_state_dict,
        )
        self.fs = _Sinks()
        self.path = self.fs.init_path(place)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Look whether a checkpoint is there already, if that matters."""
        if not self.overwrite and self._metadata_exists():
            raise CheckpointExistsError(f"a checkpoint lies at {self.path} already, and overwrite=False")
        if self.rank is not None and not self.use_collectives:
            return replace(plan, storage_data=_StoragePrefix(f"__{self.rank}_"))
        return plan

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Send this rank's part, under names that no other save has."""
        results: list[WriteResult] = []
        if plan.items:
            prefix = _StoragePrefix(f"{plan.storage_data.prefix}{secrets.token_hex(4)}_")
            self.fs.about = sum(_bytes(item) for item in plan.items)
            named = replace(plan, storage_data=prefix)
            written = super().write_data(named, planner).value()
            results = [replace(one, storage_data=_Sent(one.storage_data)) for one in written]
            results[0].storage_data.files = self.fs.take({one.storage_data.relative_path for one in written})
        answer: Future[list[WriteResult]] = Future()
        answer.set_result(results)
        return answer

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Make the checkpoint visible, and remove what it replaces."""
        sent = [(one.index, one.storage_data) for rank in results for one in rank]
        files = {name: segments for _, part in sent for name, segments in part.files.items()}
        metadata.version = CURRENT_DCP_VERSION
        metadata.storage_data = {index: part.info for index, part in sent}
        metadata.storage_meta = self.storage_meta()
        content = sealed(pickle.dumps(metadata), files)
        folder, name = self.fs.folder, self._metadata_name()
        with sink(folder.store, name, len(content)) as file:
            file.write(content)
        if self.use_collectives:
            _remove_others(folder, files)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether it names a place."""
        return is_place(checkpoint_id)

    def _metadata_name(self) -> str:
        alone = self.rank is not None and not self.use_collectives
        return str(self._get_metadata_path(self.rank if alone else None))


@dataclass
class _Sent:
    """What torch notes of an item, and with one item of each rank the rank's files."""

    info: Any
    files: dict[str, Segments] = field(default_factory=dict)


class _Sinks:
    """The part of torch's ``FileSystemBase`` that writing uses. Paths are names in the folder."""

    folder: Folder

    def __init__(self) -> None:
        self.about = 0
        self._written: dict[str, Segments] = {}

    def init_path(self, path: str | os.PathLike[str], **_: Any) -> str:
        """Go to another folder; its path or URI."""
        self.folder = folder_of(path)
        return self.folder.uri

    def concat_path(self, _: Any, suffix: str) -> str:
        return suffix

    def exists(self, path: str) -> bool:
        return self.folder.has(path)

    @contextlib.contextmanager
    def create_stream(self, path: str, _: str) -> Iterator[Sink]:
        """A file that is visible after the block."""
        with sink(self.folder.store, path, self.about) as stream:
            yield stream
        if stream.segments is not None:
            self._written[path] = stream.segments

    def take(self, names: Iterable[str]) -> dict[str, Segments]:
        """What was written under these names, once."""
        return {name: self._written.pop(name) for name in names}


def _bytes(item: WriteItem) -> int:
    return (_item_size(item) if item.tensor_data is not None else 0) + _OVERHEAD


def _remove_others(folder: Folder, kept: Iterable[str]) -> None:
    """Remove the data of the checkpoint that was there before, and of saves that did not end."""
    try:
        others: Sequence[str] = sorted({name for name in folder.names() if _DATA.fullmatch(name)} - set(kept))
        patiently(lambda: folder.store.delete(others))
    except StorageError as error:
        logger.warning("%s is saved; what lay there before could not be removed: %s", folder.uri, error)
