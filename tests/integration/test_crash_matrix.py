"""A fault at every I/O step of a run, one after the other: it resumes from the previous or the new checkpoint, whole.

Nobody lists the steps. A first run without a fault has the kernel and a proxy tell them; then one run for each step and
kind of fault begins from the same state, breaks off or fails there, and a new controller takes over.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any, get_args

import pytest

from ray_anystorage.checkpoint.cache_entry import TRASH
from ray_anystorage.checkpoint.cache_room import PROMISED
from ray_anystorage.recipe import StorageRecipe
from ray_anystorage.testing.s3_server import S3Server
from tests.harness import crash_scenes as scenes
from tests.harness.crash_kernel import cannot_watch
from tests.harness.crash_lab import Lab, Run, fork_server
from tests.harness.crash_points import READS, WITHOUT_TRACE, Fault, Kind, Points, Step
from tests.harness.crash_scenes import Files, whole
from tests.harness.crash_site import Site, crash_site
from tests.harness.ray_cluster import clean_environment

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(cannot_watch() is not None, reason=str(cannot_watch())),
]

OLD, BEFORE, NEXT, AFTER, GARBAGE = "checkpoint_1", "checkpoint_2", "checkpoint_3", "checkpoint_4", "checkpoint_0"
_AT_ONCE = 2  # runs, each on a site of its own
_STORING = ("create", "write", "fsync", "rename")
_TRIES = 3  # threads take turns as they like: a step may not come by each time

Allowed = list[tuple[str | None, Files]]  # checkpoints to resume from; no name where a clear error does as well
Choice = Callable[[list[Step]], list[Fault]]
Ground = Callable[[str], list[tuple[Site, StorageRecipe]]]


@dataclass(frozen=True, slots=True)
class Scene:
    """What is broken off, on what ground, and what must be true afterwards.

    Attributes
    ----------
    prepare
        Makes the state to begin from; returns the arguments of ``role``.
    role
        The piece of work that meets the faults.
    verify
        Says what is wrong after it, in words.
    tells
        Whether a write that fails must fail the work; it may not where another place takes the data.
    reads
        Whether reading files and folders counts as a step.
    """

    prepare: Callable[[Lab, StorageRecipe], tuple[Any, ...]]
    role: Callable[..., None]
    verify: Callable[[Rig, Run], Iterable[str]]
    tells: bool = True
    reads: bool = False


@dataclass(slots=True)
class Rig:
    """A site in the state to begin from.

    Attributes
    ----------
    began, clean
        Where nothing fails: what the work resumes from, and what lies there when all is over.
    """

    site: Site
    scene: Scene
    recipe: StorageRecipe
    arguments: tuple[Any, ...] = ()
    began: list[str] = field(default_factory=list)
    clean: Counter[str] = field(default_factory=Counter)

    def count(self) -> list[Step]:
        """The steps of a run without a fault."""
        points = Points()
        run = self._play(points)
        assert [*self._problems(run, None)] == []
        assert not {"failed", "gave up"} & run.words
        self.began, self.clean = _began(run), self.site.listing()
        return points.seen

    def meet(self, fault: Fault) -> list[str]:
        """What is wrong after a fault, in words."""
        for _ in range(_TRIES):
            self.site.set_back()
            points = Points(fault)
            run = self._play(points)
            if points.fired:
                return [f"{fault}: {problem}" for problem in self._problems(run, fault)]
        return [f"{fault}: the step did not come by"]

    def _play(self, points: Points) -> Run:
        return self.site.lab.run(self.scene.role, *self.arguments, points=points, reads=self.scene.reads)

    def _problems(self, run: Run, fault: Fault | None) -> Iterable[str]:
        if run.failure:
            yield f"the work ended by {run.failure}"
        if run.killed != (fault is not None and fault.kind == "kill"):
            yield f"killed: {run.killed}"
        if fault is not None and _began(run) not in ([], self.began):
            yield f"it began from {_began(run)}, not from {self.began}"
        if (
            fault is not None
            and self.scene.tells
            and _loses_what_was_written(fault)
            and not {"failed", "gave up"} & run.words
        ):
            yield f"nobody heard of it: {run.told}"
        yield from self.scene.verify(self, run)

    def left(self, orphans: set[tuple[str, str]]) -> Iterable[str]:
        """What lies there that nothing refers to, after the sweeps of a whole life of a controller."""
        for kind, name in orphans:
            if kind != "not in the snapshot":
                yield f"left after two sweeps: {kind} {name}"
        whole_ones = [name for kind, name in orphans if kind == "not in the snapshot"]
        listing = self.site.listing()
        for path in (listing - self.clean) if self.clean else ():
            if not any(f"/{name}/" in path for name in whole_ones):
                yield f"left, and nothing refers to it: {path}"
        for path in self.clean - listing:
            yield f"gone: {path}"


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> Iterator[Ground]:
    """Sites of each kind, made when they are first asked for."""
    folder = tmp_path_factory.mktemp("ground")
    with contextlib.ExitStack() as stack:
        forks = [stack.enter_context(fork_server(folder / str(n), clean_environment())) for n in range(_AT_ONCE)]

        @cache
        def sites(place: str) -> list[tuple[Site, StorageRecipe]]:
            roots = [folder / f"{place}-{n}" for n in range(_AT_ONCE)]
            made = [stack.enter_context(crash_site(*of, s3_server)) for of in zip(roots, repeat(place), forks)]
            return [(site, _planned(site, place)) for site in made]

        yield sites


def _planned(site: Site, place: str) -> StorageRecipe:
    recipe: StorageRecipe = site.lab.result(scenes.plan, "artifact" if place == "bucket" else "cluster")
    assert (recipe.spill is not None) == (place in ("spill", "detour"))
    return recipe


def play(sites: list[tuple[Site, StorageRecipe]], scene: Scene, choose: Choice) -> None:
    """Have every chosen fault happen, on several sites at once."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        rigs = [*pool.map(lambda site: _rigged(*site, scene), sites)]
        steps, *_ = pool.map(Rig.count, rigs)
        faults = choose(steps)
        assert faults, f"no such steps among {[*map(str, steps)]}"
        shares = [faults[n::_AT_ONCE] for n in range(_AT_ONCE)]
        found = pool.map(lambda rig, share: [rig.meet(fault) for fault in share], rigs, shares)
        problems = [problem for share in found for some in share for problem in some]
    print(f"{len(steps)} steps, {len(faults)} faults, {len(problems)} problems")
    assert not problems, "\n".join(problems)


def _rigged(site: Site, recipe: StorageRecipe, scene: Scene) -> Rig:
    site.clear()
    rig = Rig(site, scene, recipe, scene.prepare(site.lab, recipe))
    site.keep()
    return rig


def _began(run: Run) -> list[str]:
    return [name for word, *rest in run.told if word == "began" for name in rest]


def _loses_what_was_written(fault: Fault) -> bool:
    step = fault.step
    return (
        fault.kind == "EIO"
        and step.where == "mount"
        and step.verb in ("write", "fsync")
        and "checkpoint" in step.target
    )


def is_kept(step: Step) -> bool:
    """Whether it changes what outlives the process: not what is tried, counted or locked on the node."""
    return is_change(step) and (step.where != "node" or "/cache/" in step.target or "/journals/" in step.target)


def is_change(step: Step) -> bool:
    return step.verb not in READS


def at_each(kinds: str, where: str, of: Callable[[Step], bool] = is_change) -> Choice:
    """Every fault of these kinds that can happen at the steps of these places, both separated by blanks."""

    def can(step: Step, kind: Kind) -> bool:
        if kind == "kill":
            return step.verb not in WITHOUT_TRACE
        return (step.where == "bucket") == (kind in ("refuse", "lose"))

    def choose(steps: list[Step]) -> list[Fault]:
        here = sorted({step for step in steps if step.where in where.split() and of(step)})
        return [
            Fault(step, kind) for kind in get_args(Kind) if kind in kinds.split() for step in here if can(step, kind)
        ]

    return choose


def resumes(allowed: Callable[[Run], Allowed], keep: int = 1) -> Callable[[Rig, Run], Iterable[str]]:
    """See that a new controller resumes from one of these, goes on, and leaves nothing behind."""

    def verify(rig: Rig, run: Run) -> Iterable[str]:
        choices = allowed(run)
        after = rig.site.lab.run(scenes.resume, rig.recipe, keep, AFTER)
        if "nothing to resume" in after.words and (None, {}) in choices:
            return
        if after.failure or "orphans" not in after.words:
            yield f"no new controller could go on: {after.failure or after.told}"
            return
        (_, name, files), (_, orphans) = after.told
        if (name, files) not in choices:
            yield f"resumed from {name} with {_described(files)}; right would be {_described_all(choices)}"
        yield from rig.left(orphans)

    return verify


def _described(files: Files) -> str:
    return ", ".join(f"{path} ({len(data)} bytes, {data[:4].hex()}…)" for path, data in sorted(files.items()))


def _described_all(choices: Allowed) -> str:
    return " or ".join(f"{name} with {_described(files)}" for name, files in choices)


# --- a whole life of a controller -----------------------------------------------------------------


def two_reports_and_garbage(lab: Lab, recipe: StorageRecipe) -> tuple[Any, ...]:
    lab.result(scenes.first_report, recipe, OLD, 1, 2)
    storage = lab.result(scenes.first_report, recipe, BEFORE, 1, 2)
    lab.result(scenes.save_one, storage, GARBAGE, 0, 1)
    return (recipe, NEXT, NEXT, 1)


def last_or_next(run: Run) -> Allowed:
    """The checkpoint that was reported last, or the one whose report had begun."""
    before, after = (BEFORE, whole(BEFORE)), (NEXT, whole(NEXT))
    return [after] if "reported" in run.words else [before, after] if "reporting" in run.words else [before]


LIFE = Scene(two_reports_and_garbage, scenes.live, resumes(last_or_next))


def test_a_controller_that_is_killed_on_a_mount(ground: Ground) -> None:
    play(ground("mount"), LIFE, at_each("kill", where="mount node", of=is_kept))


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("EIO", "mount"),
        *(pytest.param(*more, marks=pytest.mark.soak) for more in [("EIO", "node"), ("ENOSPC", "mount")]),
    ],
)
def test_a_controller_that_meets_errors_on_a_mount(ground: Ground, kind: Kind, where: str) -> None:
    play(ground("mount"), LIFE, at_each(kind, where=where))


@pytest.mark.soak
@pytest.mark.parametrize("place", ["mount", "spill"])
def test_a_controller_that_cannot_read(ground: Ground, place: str) -> None:
    scene = replace(LIFE, reads=True)
    play(ground(place), scene, at_each("EIO", where="mount", of=lambda step: step.verb in READS))


@pytest.mark.parametrize(
    ("place", "kinds"),
    [
        ("spill", "kill refuse lose"),
        ("bucket", "kill"),
        pytest.param("bucket", "refuse lose", marks=pytest.mark.soak),
    ],
)
def test_a_controller_with_a_bucket(ground: Ground, place: str, kinds: str) -> None:
    play(ground(place), LIFE, at_each(kinds, where="bucket"))


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
def test_one_of_two_ranks_on_a_mount(ground: Ground, rank: int, kinds: str) -> None:
    play(ground("mount"), two_ranks(rank, NEXT), at_each(kinds, where="mount"))


@pytest.mark.parametrize("place", [pytest.param("spill", marks=pytest.mark.soak), "bucket"])
def test_one_of_two_ranks_with_a_bucket(ground: Ground, place: str) -> None:
    scene = two_ranks(0, "large_checkpoint")  # one of its files goes in parts
    play(ground(place), scene, at_each("kill refuse lose", where="bucket"))


# --- a mount that fails, and a bucket beside it ---------------------------------------------------


def one_report(lab: Lab, recipe: StorageRecipe) -> tuple[Any, ...]:
    lab.result(scenes.first_report, recipe, BEFORE, 1, 1)
    return (recipe, NEXT, NEXT, 1)


def is_data(step: Step) -> bool:
    own = "/.anystorage/" in f"{step.target}/"
    return f"/{NEXT}/" in step.target and not own and step.verb in _STORING


@pytest.mark.parametrize("kind", ["EIO", pytest.param("ENOSPC", marks=pytest.mark.soak)])
def test_data_that_a_mount_does_not_take(ground: Ground, kind: Kind) -> None:
    def at_once(run: Run) -> Allowed:
        return [(NEXT, whole(NEXT))] if "reported" in run.words and "failed" not in run.words else []

    scene = Scene(one_report, scenes.live, resumes(at_once), tells=False)
    play(ground("detour"), scene, at_each(kind, where="mount", of=is_data))


# --- a name that is used again --------------------------------------------------------------------


def named_again(*earlier: str) -> Callable[[Lab, StorageRecipe], tuple[Any, ...]]:
    """Two ranks have reported "best" before; now one rank does, in another attempt."""

    def prepare(lab: Lab, recipe: StorageRecipe) -> tuple[Any, ...]:
        for name in earlier:
            lab.result(scenes.first_report, recipe, name, 1, 2)
        lab.result(scenes.first_report, recipe, "best", 2, 2)
        return (recipe, "best", "best again", 2)

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
def test_a_name_that_is_used_again(ground: Ground, place: str) -> None:
    scene = Scene(named_again(BEFORE), scenes.live, resumes(old_older_or_new(BEFORE), keep=2))
    play(ground(place), scene, at_each("kill", where="mount bucket", of=is_of_best))


def test_the_only_name_is_used_again(ground: Ground) -> None:
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
def test_filling_the_cache(ground: Ground, kind: Kind) -> None:
    scene = Scene(one_of_two_cached, scenes.restore, reads_right)
    play(ground("bucket"), scene, at_each(kind, where="node"))
