"""``ray.train.report`` without the wait: the directory is taken over, and saved behind the training."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import ray.train
from ray.train import CheckpointUploadMode

from ray_anystorage.checkpoint.staging import Staged, Staging, of_process
from ray_anystorage.errors import ConfigClashError, OutsideRunError, RequestError, UnknownArgumentError
from ray_anystorage.train.hooks import get_train_context
from ray_anystorage.train.storage_context import AnyStorageContext

logger = logging.getLogger("ray.train.anystorage")

_DECIDED = ("checkpoint", "checkpoint_upload_mode", "delete_local_checkpoint_after_upload", "checkpoint_upload_fn")


def report(
    metrics: Mapping[str, Any], checkpoint_dir: str | os.PathLike[str] | None, *, keep: bool, **ray_arguments: Any
) -> None:
    """See :func:`ray_anystorage.api.report`."""
    context, storage = _own_context()
    _check_arguments(ray_arguments)
    home = storage.experiment_fs_path if storage.on_mount else None
    staging = of_process(storage.recipe.name, context.get_local_world_size(), home)
    staging.check()
    if checkpoint_dir is None:
        # Asynchronous too: a synchronous one would wait for all saves before it.
        ray.train.report(dict(metrics), checkpoint_upload_mode=CheckpointUploadMode.ASYNC, **ray_arguments)
        return
    directory = os.path.abspath(checkpoint_dir)
    if not os.path.isdir(directory):
        raise RequestError(f"checkpoint_dir={os.fspath(checkpoint_dir)!r} is not a directory")
    with staging.claim(directory, context.report_call_index, shared=keep):
        staged = staging.stage(directory, keep=keep)
        if staged is None:
            logger.warning("%s does not fit into %s: its report waits for its save", directory, staging.folder)
            ray.train.report(
                dict(metrics),
                checkpoint=ray.train.Checkpoint.from_directory(directory),
                delete_local_checkpoint_after_upload=False,
                **ray_arguments,
            )
            return
        with _handing_over(staging, staged, context):
            ray.train.report(
                dict(metrics),
                checkpoint=ray.train.Checkpoint.from_directory(staged.directory),
                checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
                delete_local_checkpoint_after_upload=False,  # staging does, before others take the room
                **ray_arguments,
            )
    if _preempted(context):
        staging.wait(staged)


@contextlib.contextmanager
def _handing_over(staging: Staging, staged: Staged, context: Any) -> Iterator[None]:
    """Put the directory back where Ray does not take it: it raises, or skips a report whose barrier was reset."""
    before = context.report_call_index
    try:
        yield
    except BaseException:
        staging.give_back(staged)
        raise
    if context.report_call_index == before:
        staging.give_back(staged)


def _own_context() -> tuple[Any, AnyStorageContext]:
    try:
        context = get_train_context()
    except RuntimeError as error:  # Ray's word for "not in a training function"
        raise OutsideRunError(
            "anystorage.report() was called outside of a training function: it works in one that a Ray Train trainer "
            "runs with anystorage.run_config()"
        ) from error
    storage = context.get_storage()
    if not isinstance(storage, AnyStorageContext):
        raise OutsideRunError(
            "anystorage.report() was called in a run with a plain ray.train.RunConfig: give its trainer "
            "anystorage.run_config(), or call ray.train.report()"
        )
    return context, storage


def _preempted(context: Any) -> bool:
    """True where Ray said that a node of the run goes away: what is saved now has to be there before that.

    Training goes on until then, but a save may stand behind others, and Ray does not wait for saves at the deadline.
    """
    preemption = getattr(context, "preemption_context", None)  # Ray 2.54 has none
    return preemption is not None and preemption.preemption_info is not None


def _check_arguments(ray_arguments: Mapping[str, Any]) -> None:
    for name, value in ray_arguments.items():
        if name in _DECIDED:
            raise ConfigClashError(
                f"{name}={value!r} clashes with anystorage.report(), which decides it: leave it out, or call "
                "ray.train.report()"
            )
        if name not in _ray_parameters():
            known = ("metrics", "checkpoint_dir", "keep", *_ray_parameters())
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise UnknownArgumentError(
                f"{name}={value!r} is an argument neither of anystorage.report() nor of ray.train.report(); did you "
                f"mean {nearest}?"
            )


@functools.cache
def _ray_parameters() -> tuple[str, ...]:
    return tuple(name for name in inspect.signature(ray.train.report).parameters if name not in ("metrics", *_DECIDED))
