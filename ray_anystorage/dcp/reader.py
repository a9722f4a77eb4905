"""Reading: each rank fetches the ranges that hold what it wants, verifies them, and gives them to torch."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
import threading
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader as TorchReader
from torch.futures import Future

from ray_anystorage.checkpoint.opened import Located
from ray_anystorage.dcp.batches import BATCH_BYTES, Batch, Wanted, batches
from ray_anystorage.dcp.places import Place, is_place, place_of
from ray_anystorage.dcp.sealing import unsealed
from ray_anystorage.dcp.stored_range import StoredRange
from ray_anystorage.dcp.tensors import load_part
from ray_anystorage.errors import (
    CheckpointCorruptedError,
    CheckpointIncompleteError,
    CheckpointMissingError,
    DigestMismatchError,
    ManifestError,
    ManifestTooNewError,
    ObjectMissingError,
    RequestError,
    ShortReadError,
)
from ray_anystorage.transfer.budget import Budget, Cancel
from ray_anystorage.transfer.engine import moving
from ray_anystorage.transfer.segments import Segment, Segments, read_segments
from ray_anystorage.transfer.session import Session
from ray_anystorage.transfer.workers import run_tasks

if TYPE_CHECKING:
    from ray_anystorage.train.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

_MEMORY_BYTES = 256 << 20  # of ranges that are held at once; a larger one is alone
_DAMAGE = (DigestMismatchError, ShortReadError, ObjectMissingError)


class StorageReader(TorchReader):  # type: ignore[misc]
    """For ``load`` of ``torch.distributed.checkpoint``, with any number of ranks: each fetches only what it needs.

    What :class:`StorageWriter` wrote, and what a run's checkpoint holds, is verified. What torch's own writers left in
    a folder is read as it is.

    Parameters
    ----------
    place
        The folder, as for :class:`StorageWriter`, or an :class:`anystorage.Checkpoint`, as in a run
        ``ray.train.get_checkpoint()`` gives. ``checkpoint_id``, where ``load`` is told one, comes before it.
    folder
        Below that.

    Raises
    ------
    RequestError
        The place cannot be meant.
    CredentialsError
        This process has no credentials for the bucket.
    CheckpointMissingError, CheckpointIncompleteError
        Of a run: it is not there, or not whole.
    CheckpointCorruptedError, StorageError
        From ``load``, which wraps what happens in a rank in torch's ``CheckpointException`` (see its ``failures``), and
        makes an ``AssertionError`` of what is wrong with the metadata, which it quotes. Damage is named by file.
    """

    def __init__(self, place: str | os.PathLike[str] | Checkpoint, *, folder: str = "") -> None:
        super().__init__()
        self._segments: dict[str, Segments] | None = None
        self._storage_data: dict[Any, Any] = {}
        self._failure: Exception | None = None
        self._go_to(place_of(place, folder))

    @property
    def checkpoint_id(self) -> str:
        """The place's path or URI."""
        return self._place.uri

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Whether it names a place."""
        return is_place(checkpoint_id)

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Begin anew, at another place where one is named."""
        self._go_to(place_of(checkpoint_id) if checkpoint_id else self._place)

    def read_metadata(self, *_: Any, **kwargs: Any) -> Metadata:  # torch looks for this name
        """What the checkpoint holds.

        Raises
        ------
        CheckpointMissingError, CheckpointIncompleteError
            There is no checkpoint, or one whose save did not end.
        CheckpointCorruptedError
            Its metadata is damaged.
        """
        rank = kwargs.get("rank")
        name = ".metadata" if rank is None else f"__{rank}.metadata"
        if rank is None:
            self._failure = None
        try:
            metadata, self._segments = self._place.small(name, partial(_parsed, name))
        except ManifestTooNewError:
            raise
        except ManifestError as error:
            self._failure = CheckpointCorruptedError(f"{self._place.uri}: {error}")
            raise self._failure from error
        except (CheckpointMissingError, CheckpointIncompleteError) as error:
            # torch looks for a rank's own metadata when it has failed with that of all.
            self._failure = self._failure or error
            raise self._failure from None
        metadata.storage_meta = getattr(metadata, "storage_meta", None) or StorageMeta()
        metadata.storage_meta.load_id = self._load_id
        return metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *_: Any, **__: Any) -> None:
        """Know where things lie."""
        self._storage_data = metadata.storage_data
        if is_coordinator and self._segments is None and not self._place.verifiable:
            logger.warning("%s was not stored by ray_anystorage: what it holds cannot be verified", self._place.uri)

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """The plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """The plans as they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Fetch what this rank needs."""
        wanted = [self._wanted(item) for item in plan.items]
        lying = {name: self._place.file(name) for name in sorted({one.name for one in wanted})}
        with _Loading(planner) as loading:
            loading.run(list(batches(wanted, lambda name: self._segments_of(name, lying[name]))), lying)
        answer: Future[None] = Future()
        answer.set_result(None)
        return answer

    def _go_to(self, place: Place) -> None:
        self._place = place
        self._segments, self._storage_data, self._failure = None, {}, None
        self._load_id = str(uuid4())

    def _wanted(self, item: ReadItem) -> Wanted:
        info = self._storage_data[item.storage_index]
        if getattr(info, "transform_descriptors", None):
            raise RequestError(
                f"{info.relative_path} in {self._place.uri} was written with {list(info.transform_descriptors)}, which "
                "this reader does not know: load it with torch's FsspecReader and anystorage://TIER/path"
            )
        return Wanted(item, info.relative_path, info.offset, info.length)

    def _segments_of(self, name: str, lying: Located) -> Segments | None:
        """The finest that can be verified: what this package's writer noted, else the chunks of a run's manifest."""
        if self._segments is not None:
            if name not in self._segments:
                raise CheckpointCorruptedError(f"the metadata of {self._place.uri} has no digests of {name}")
            return self._segments[name]
        file = lying.file
        return None if file.chunks is None else Segments.of_chunks(file.size, file.chunks)


class _Loading:
    """One call of ``read_data``. torch's planners are asked by one thread at a time."""

    def __init__(self, planner: LoadPlanner) -> None:
        self._planner = planner
        self._lock = threading.Lock()
        self._budget, self._cancel = Budget(memory_bytes=_MEMORY_BYTES), Cancel()
        self._stack = contextlib.ExitStack()
        self._sessions: dict[int, Session] = {}

    def __enter__(self) -> _Loading:
        self._stack.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def run(self, found: Sequence[Batch], lying: dict[str, Located]) -> None:
        tasks = [partial(self._load, batch, lying[batch.name], self._session(lying[batch.name])) for batch in found]
        threads = max((session.threads(len(tasks)) for session in self._sessions.values()), default=1)
        run_tasks(tasks, threads, self._cancel, self._budget.wanted)

    def _session(self, where: Located) -> Session:
        """One for each store."""
        which = id(where.store)
        if which not in self._sessions:
            opened = moving("fetched", where.store, self._budget, self._cancel)
            self._sessions[which] = self._stack.enter_context(opened)
        return self._sessions[which]

    def _load(self, batch: Batch, where: Located, session: Session) -> None:
        def read(segments: Sequence[Segment], into: memoryview) -> None:
            try:
                read_segments(session, where.key, segments, into)
            except _DAMAGE as error:
                damaged = CheckpointCorruptedError(f"{batch.name} is damaged: {error}")
                where.on_damage(damaged)
                raise damaged from error

        with self._budget.room(batch.size, session.cancel):
            if batch.size > BATCH_BYTES:
                for one in batch.items:
                    self._give(one, StoredRange(read, batch.segments, one.offset, one.size))
            else:
                data = memoryview(bytearray(batch.size))
                read(batch.segments, data)
                for one in batch.items:
                    begin = one.offset - batch.offset
                    self._give(one, io.BytesIO(data[begin : begin + one.size]))

    def _give(self, one: Wanted, stream: io.BytesIO | StoredRange) -> None:
        if one.item.type == LoadItemType.BYTE_IO:
            whole = bytearray(one.size)
            stream.readinto(whole)
            with self._lock:
                self._planner.load_bytes(one.item, io.BytesIO(whole))
            return
        tensor = load_part(stream, one.item.storage_offsets, one.item.lengths)
        with self._lock:
            target = self._planner.resolve_tensor(one.item).detach()
            if target.size() != tensor.size():
                here, there = tuple(target.size()), tuple(tensor.size())
                raise RequestError(f"{one.item.dest_index.fqn} has the size {here} here, and {there} in the checkpoint")
            target.copy_(tensor)
            self._planner.commit_tensor(one.item, target)


def _parsed(name: str, content: bytes) -> tuple[Metadata, dict[str, Segments] | None]:
    pickled, segments = unsealed(name, content)
    stream = io.BytesIO(pickled)
    metadata = pickle.load(stream)  # noqa: S301 - it is torch's format
    if stream.read(1):
        raise ManifestError(f"{name} is torn, or not what was written there")
    return metadata, segments
