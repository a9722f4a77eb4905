"""The crash matrix: each fault at each step of a piece of work, from the same state, and what must be true then."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import repeat
from typing import Any, get_args

import pytest

from ray_anystorage.recipe import StorageRecipe
from ray_anystorage.testing.s3_server import S3Server
from tests.harness import crash_scenes as scenes
from tests.harness.crash_lab import Lab, Run, fork_server
from tests.harness.crash_points import READS, WITHOUT_TRACE, Fault, Kind, Points, Step
from tests.harness.crash_scenes import Files
from tests.harness.crash_site import Site, crash_site
from tests.harness.ray_cluster import clean_environment

AFTER = "checkpoint_4"
_AT_ONCE = 2  # runs, each on a site of its own
_TRIES = 5  # threads take turns as they like: a step may not come by each time

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
    older
        What the work may begin from where the newest checkpoint cannot be read, which is passed over.
    """

    prepare: Callable[[Lab, StorageRecipe], tuple[Any, ...]]
    role: Callable[..., None]
    verify: Callable[[Rig, Run], Iterable[str]]
    tells: bool = True
    reads: bool = False
    older: tuple[str, ...] = ()


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

    def meet(self, fault: Fault, steady: Collection[Step]) -> list[str]:
        """What is wrong after a fault, in words; a step that is not among the steady ones need not come by."""
        for _ in range(_TRIES):
            self.site.set_back()
            points = Points(fault)
            run = self._play(points)
            if points.fired:
                return [f"{fault}: {problem}" for problem in self._problems(run, fault)]
        return [f"{fault}: the step did not come by"] if fault.step in steady else []

    def _play(self, points: Points) -> Run:
        return self.site.lab.run(self.scene.role, *self.arguments, points=points, reads=self.scene.reads)

    def _problems(self, run: Run, fault: Fault | None) -> Iterable[str]:
        if run.failure:
            yield f"the work ended by {run.failure}"
        if run.killed != (fault is not None and fault.kind == "kill"):
            yield f"killed: {run.killed}"
        if fault is not None and _began(run) not in ([], self.began, *([name] for name in self.scene.older)):
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
        steps, *others = pool.map(Rig.count, rigs)
        steady = set(steps).intersection(*others)  # threads that take turns make a step more now and then
        faults = choose(steps)
        assert faults, f"no such steps among {[*map(str, steps)]}"
        shares = [faults[n::_AT_ONCE] for n in range(_AT_ONCE)]
        found = pool.map(lambda rig, share: [rig.meet(fault, steady) for fault in share], rigs, shares)
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


def faults_at_each(kinds: str, where: str, of: Callable[[Step], bool] = is_change, *, nth: int) -> Choice:
    """Every n-th fault of these kinds that can happen at the steps of these places, both separated by blanks."""

    def can(step: Step, kind: Kind) -> bool:
        if kind == "kill":
            return step.verb not in WITHOUT_TRACE
        return (step.where == "bucket") == (kind in ("refuse", "lose"))

    def choose(steps: list[Step]) -> list[Fault]:
        here = sorted({step for step in steps if step.where in where.split() and of(step)})
        asked = [kind for kind in get_args(Kind) if kind in kinds.split()]
        return [Fault(step, kind) for kind in asked for step in here if can(step, kind)][::nth]

    return choose


@pytest.fixture(params=[pytest.param(7, id="each seventh"), pytest.param(1, id="each", marks=pytest.mark.soak)])
def at_each(request: pytest.FixtureRequest) -> Callable[..., Choice]:
    """:func:`faults_at_each`, less most of them where there is no time for all."""
    return partial(faults_at_each, nth=request.param)


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
