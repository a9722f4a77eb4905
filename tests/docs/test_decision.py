"""The picture of how a place is chosen: every rung is put to the policy, in every situation that is told apart."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from docs.decision import LADDER, Answer, draw
from ray_anystorage.environment import Environment, Location, Place, Problem, RunHome, Space, Tier
from ray_anystorage.errors import AnyStorageError, MountTimeoutError
from ray_anystorage.policy import Request, decide
from ray_anystorage.policy.request import AUDIENCES

GB = 10**9
ROOMY = Space(1000 * GB, 1000 * GB, 10**6, 10**6)
STATES = ("absent", "failed", "full", "own disk", "usable")


def place(tier: Tier, state: str) -> Place:
    location = Location(tier, "s3://b/f" if tier == "artifact" else f"/mnt/{tier}", "test", False)
    if state == "absent":
        return Place(location, "absent")
    if state == "failed":
        problem = Problem(MountTimeoutError, "does not answer", tier, location.root, "wrote", "mount it")
        return Place(location, "failed", problem=problem)
    space = replace(ROOMY, free_bytes=3 * GB) if state == "full" else ROOMY
    network = state != "own disk" and tier != "local"
    return Place(location, "usable", "nfs" if network else "disk", "nfs4", network, space=space)


def situations() -> Iterator[tuple[Environment, Request]]:
    states = itertools.product(
        STATES, STATES, ("absent", "usable"), ("failed", "usable"), ("absent", "failed", "usable")
    )
    homes: tuple[tuple[Tier, ...], ...] = ((), ("cluster",), ("artifact",), ("cluster", "artifact"))
    for own, user, shared, local, artifact in states:
        by_tier: dict[Tier, str] = {
            "local": local, "cluster": own, "user": user, "shared": shared, "artifact": artifact
        }  # fmt: skip
        places = tuple(place(tier, state) for tier, state in by_tier.items())
        asked = itertools.product(
            (1, 3), (None, 2 * GB, 60 * GB), AUDIENCES, (None, "run"), (None, "cluster", "artifact"), homes
        )
        for nodes, size, audience, name, tier, there in asked:
            if there and (name is None or tier or size):
                continue  # a run that is there settles it, whatever the size
            found = tuple(RunHome("run", where, f"/{where}/run") for where in there)
            silent = tuple(p.tier for p in places if p.state == "failed") if not there else ()
            yield Environment(places, nodes, found, silent), Request(name, size, None, audience, tier)


def answer(environment: Environment, request: Request) -> Answer:
    try:
        return decide(environment, request)
    except AnyStorageError as error:
        return error


def test_what_is_drawn_is_what_the_policy_does() -> None:
    taken = Counter[int]()
    for environment, request in situations():
        rung = next(number for number, step in enumerate(LADDER) if step.holds(environment, request))
        taken[rung] += 1
        given = answer(environment, request)
        assert LADDER[rung].follows(given, environment, request), (LADDER[rung].question, environment, request, given)
    assert min(taken[number] for number in range(len(LADDER))) > 100, taken


def test_the_picture_is_an_image_with_every_word() -> None:
    picture = ElementTree.fromstring(draw())
    drawn = " ".join(text.text or "" for text in picture.iter("text"))
    for step in LADDER:
        assert all(line in drawn for line in (*step.question, *step.answer))
        assert all(len(line) <= 48 for line in (*step.question, *step.answer)), "too long for its box"
