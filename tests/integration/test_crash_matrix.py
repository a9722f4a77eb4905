"""A fault at every I/O step of a run, one after the other: it resumes from the previous or the new checkpoint, whole.

Nobody lists the steps. A first run without a fault has the kernel and a proxy tell them; then one run for each step and
kind of fault begins from the same state, breaks off or fails there, and a new controller takes over. `make soak` takes
each step, `make test` each seventh.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_anystorage.checkpoint.cache_entry import TRASH
from ray_anystorage.checkpoint.cache_room import PROMISED
from ray_anystorage.recipe import StorageRecipe
from tests.harness import crash_scenes as scenes
from tests.harness.crash_kernel import cannot_watch
from tests.harness.crash_lab import Lab, Run
from tests.harness.crash_matrix import Allowed, Choice, Ground, Rig, Scene, at_each, ground, is_kept, play, resumes
from tests.harness.crash_points import READS, Kind, Step
from tests.harness.crash_scenes import whole

__all__ = ["at_each", "ground"]

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(cannot_watch() is not None, reason=str(cannot_watch())),
]

OLD, BEFORE, NEXT, GARBAGE = "checkpoint_1", "checkpoint_2", "checkpoint_3", "checkpoint_0"
_STORING = ("create", "write", "fsync", "rename")


# --- a whole life of a controller -----------------------------------------------------------------


def life(ranks: int = 1) -> Scene:
    """A controller's life, with something to sweep away and something to delete."""

    def two_reports_and_garbage(lab: Lab, recipe: StorageRecipe) -> tuple[Any, ...]:
        lab.result(scenes.first_report, recipe, OLD, ranks, 2)
        storage = lab.result(scenes.first_report, recipe, BEFORE, ranks, 2)
        lab.result(scenes.save_one, storage, GARBAGE, 0, ranks)
        return (recipe, NEXT, NEXT, 1, ranks)

    def last_or_next(run: Run) -> Allowed:
        """The checkpoint that was reported last, or the one whose report had begun."""
        before, after = (BEFORE, whole(BEFORE, ranks)), (NEXT, whole(NEXT, ranks))
        return [after] if "reported" in run.words else [before, after] if "reporting" in run.words else [before]

    return Scene(two_reports_and_garbage, scenes.live, resumes(last_or_next))


def test_a_controller_that_is_killed_on_a_mount(ground: Ground, at_each: Callable[..., Choice]) -> None:
    play(ground("mount"), life(), at_each("kill", where="mount node", of=is_kept))


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("EIO", "mount"),
        *(pytest.param(*more, marks=pytest.mark.soak) for more in [("EIO", "node"), ("ENOSPC", "mount")]),
    ],
)
def test_a_controller_that_meets_errors_on_a_mount(
    ground: Ground, at_each: Callable[..., Choice], kind: Kind, where: str
) -> None:
    play(ground("mount"), life(), at_each(kind, where=where))


@pytest.mark.soak
@pytest.mark.parametrize("place", ["mount", "spill"])
def test_a_controller_that_cannot_read(ground: Ground, at_each: Callable[..., Choice], place: str) -> None:
    scene = replace(life(), reads=True, older=(OLD,))
    play(ground(place), scene, at_each("EIO", where="mount", of=lambda step: step.verb in READS))


@pytest.mark.parametrize(
    ("place", "kinds"),
    [
        ("spill", "kill refuse lose"),
        ("bucket", "kill"),
        pytest.param("bucket", "refuse lose", marks=pytest.mark.soak),
    ],
)
def test_a_controller_with_a_bucket(ground: Ground, at_each: Callable[..., Choice], place: str, kinds: str) -> None:
    play(ground(place), life(), at_each(kinds, where="bucket"))


@pytest.mark.soak
@pytest.mark.parametrize(("place", "kind"), [("spill", "kill"), ("spill", "EIO"), ("bucket", "kill")])
def test_a_controller_with_a_bucket_and_its_files(
    ground: Ground, at_each: Callable[..., Choice], place: str, kind: Kind
) -> None:
    play(ground(place), life(), at_each(kind, where="mount node", of=is_kept))


@pytest.mark.soak
@pytest.mark.parametrize(
    ("place", "kinds"), [("mount", "kill EIO"), ("spill", "kill EIO refuse lose"), ("bucket", "kill refuse lose")]
)
def test_a_controller_of_two_ranks(ground: Ground, at_each: Callable[..., Choice], place: str, kinds: str) -> None:
    play(ground(place), life(2), at_each(kinds, where="mount bucket"))


# --- one of two ranks -----------------------------------------------------------------------------


def two_ranks(rank: int, name: str) -> Scene:
    """A rank saves its part when the other one has saved its own."""

    def prepare(lab: Lab, recipe: StorageRecipe) -> tuple[Any, ...]:
        storage = lab.result(scenes.first_report, recipe, BEFORE, 2, 1)
        lab.result(scenes.save_one, storage, name, 1 - rank, 2)
        return (storage, name, rank, 2)

    return Scene(prepare, scenes.save_one, resumes(lambda run: [(BEFORE, whole(BEFORE, 2))]))


_OTHER_WAY = ((0, "EIO"), (1, "kill"))


@pytest.mark.parametrize(
    ("rank", "kinds"), [(0, "kill"), (1, "EIO"), *(pytest.param(*more, marks=pytest.mark.soak) for more in _OTHER_WAY)]
)
def test_one_of_two_ranks_on_a_mount(ground: Ground, at_each: Callable[..., Choice], rank: int, kinds: str) -> None:
    play(ground("mount"), two_ranks(rank, NEXT), at_each(kinds, where="mount"))


@pytest.mark.parametrize("place", [pytest.param("spill", marks=pytest.mark.soak), "bucket"])
def test_one_of_two_ranks_with_a_bucket(ground: Ground, at_each: Callable[..., Choice], place: str) -> None:
    scene = two_ranks(0, "large_checkpoint")  # one of its files goes in parts
    play(ground(place), scene, at_each("kill refuse lose", where="bucket"))


# --- a mount that fails, and a bucket beside it ---------------------------------------------------


def one_report(lab: Lab, recipe: StorageRecipe) -> tuple[Any, ...]:
    lab.result(scenes.first_report, recipe, BEFORE, 1, 1)
    return (recipe, NEXT, "bare data", 1, 1)


def is_data(step: Step) -> bool:
    own = "/.anystorage/" in f"{step.target}/"
    return f"/{NEXT}/" in step.target and not own and step.verb in _STORING


@pytest.mark.parametrize("kind", ["EIO", pytest.param("ENOSPC", marks=pytest.mark.soak)])
def test_data_that_a_mount_does_not_take(ground: Ground, at_each: Callable[..., Choice], kind: Kind) -> None:
    def at_once(run: Run) -> Allowed:
        return [(NEXT, whole("bare data"))] if "reported" in run.words and "failed" not in run.words else []

    scene = Scene(one_report, scenes.live, resumes(at_once), tells=False)
    play(ground("detour"), scene, at_each(kind, where="mount", of=is_data))


# --- a name that is used again --------------------------------------------------------------------


def named_again(*earlier: str) -> Callable[[Lab, StorageRecipe], tuple[Any, ...]]:
    """Two ranks have reported "best" before; now one rank does, in another attempt."""

    def prepare(lab: Lab, recipe: StorageRecipe) -> tuple[Any, ...]:
        for name in earlier:
            lab.result(scenes.first_report, recipe, name, 1, 2)
        lab.result(scenes.first_report, recipe, "best", 2, 2)
        return (recipe, "best", "best again", 2, 1)

    return prepare


def is_of_best(step: Step) -> bool:
    return "/best" in step.target or step.verb == "POST delete"  # which names what it deletes in its body


def old_older_or_new(older: str | None) -> Callable[[Run], Allowed]:
    """What was there under the name as long as nothing was written over it; then the one before it; then the new."""
    fallback = (older, whole(older) if older else {})

    def allowed(run: Run) -> Allowed:
        if "reported" in run.words:
            return [("best", whole("best again"))]
        if "reporting" in run.words:
            return [fallback, ("best", whole("best again"))]
        return [("best", whole("best", 2)), fallback]

    return allowed


@pytest.mark.parametrize("place", ["mount", *(pytest.param(p, marks=pytest.mark.soak) for p in ("spill", "bucket"))])
def test_a_name_that_is_used_again(ground: Ground, at_each: Callable[..., Choice], place: str) -> None:
    scene = Scene(named_again(BEFORE), scenes.live, resumes(old_older_or_new(BEFORE), keep=2))
    play(ground(place), scene, at_each("kill", where="mount bucket", of=is_of_best))


def test_the_only_name_is_used_again(ground: Ground, at_each: Callable[..., Choice]) -> None:
    scene = Scene(named_again(), scenes.live, resumes(old_older_or_new(None)))
    play(ground("mount"), scene, at_each("kill", where="mount", of=is_of_best))


# --- the node's cache -----------------------------------------------------------------------------


def one_of_two_cached(lab: Lab, recipe: StorageRecipe) -> tuple[Any, ...]:
    """The node has an older checkpoint, which has to make room."""
    lab.result(scenes.first_report, recipe, OLD, 1, 2)
    storage = lab.result(scenes.first_report, recipe, BEFORE, 1, 2)
    for folder, names, _ in os.walk(recipe.local_root or ""):
        for name in (name for name in names if BEFORE in name):
            shutil.rmtree(Path(folder, name))
    return (storage, BEFORE, 1e-12)


def reads_right(rig: Rig, run: Run) -> Iterable[str]:
    """See that what was read is right, also by another process, which leaves nothing half done."""
    again = rig.site.lab.run(scenes.restore, *rig.arguments)
    for reader in (run, again):
        found = [content for word, *content in reader.told if word == "read"]
        if found != [[whole(BEFORE)]] and not (reader is run and run.killed):
            yield f"read {found}, told {reader.told} {reader.failure}"
    rig.site.lab.result(scenes.make_room, rig.recipe)
    for path in rig.site.node.rglob("*"):
        if path.name.endswith(".part") or path.parent.name in ("new", TRASH, PROMISED):
            yield f"left: {path.relative_to(rig.site.node)}"


@pytest.mark.parametrize("kind", ["kill", pytest.param("EIO", marks=pytest.mark.soak)])
def test_filling_the_cache(ground: Ground, at_each: Callable[..., Choice], kind: Kind) -> None:
    scene = Scene(one_of_two_cached, scenes.restore, reads_right)
    play(ground("bucket"), scene, at_each(kind, where="node"))
