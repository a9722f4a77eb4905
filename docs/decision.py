"""How a place is chosen, as a ladder of questions: the picture in places.md, drawn when the site is built.

``tests/docs/test_decision.py`` puts every question to the policy itself: an answer that differs fails it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

from ray_anystorage.environment import NFS_TIERS, Environment, Place, Tier
from ray_anystorage.errors import AnyStorageError, HomeElsewhereError, NoStorageError, SeveralHomesError, StorageError
from ray_anystorage.policy import Request, StoragePlan
from ray_anystorage.policy.space import fits, too_large
from ray_anystorage.policy.wording import TIER_OF
from ray_anystorage.settings import DEFAULT_THRESHOLD
from ray_anystorage.units import format_size

Answer = StoragePlan | AnyStorageError
_LIMIT = format_size(DEFAULT_THRESHOLD)
_WIDTH, _ROW, _BOX = 760, 78, 56
_LEFT, _MIDDLE, _RIGHT = 28, 404, 452


@dataclass(frozen=True, slots=True)
class Step:
    """One rung: a question, and what follows from a yes.

    ``holds`` answers it; ``follows`` tells whether the policy's answer is the one that is drawn.
    """

    question: tuple[str, ...]
    answer: tuple[str, ...]
    kind: Literal["place", "error"]
    holds: Callable[[Environment, Request], bool]
    follows: Callable[[Answer, Environment, Request], bool]


def _runs(environment: Environment, request: Request) -> list[Tier]:
    return [home.tier for home in environment.homes if home.is_run and home.name == request.name]


def _own(environment: Environment, request: Request) -> Place | None:
    return environment.place(TIER_OF[request.audience])


def _serves(environment: Environment, request: Request, tier: Tier) -> bool:
    place = environment.place(tier)
    if place is None or not place.usable:
        return False
    seen_by_all = place.network or place.location.explicit or (environment.nodes or 1) == 1
    return tier == "artifact" or (seen_by_all and fits(place, request))


def _works(environment: Environment, request: Request, tier: Tier) -> bool:
    """Whether a tier that nobody would choose otherwise can be used all the same."""
    place = environment.place(tier)
    several = (environment.nodes or 1) > 1
    return place is not None and place.usable and fits(place, request) and not (tier == "local" and several)


def _wider(environment: Environment, request: Request) -> list[Tier]:
    wider = NFS_TIERS[NFS_TIERS.index(TIER_OF[request.audience]) + 1 :]
    return [] if too_large(environment, request) else [t for t in wider if _serves(environment, request, t)]


def _unseen(environment: Environment, request: Request) -> bool:
    own = _own(environment, request)
    silent = own is not None and own.tier in environment.unsearched and own.problem is not None
    return request.name is not None and silent


def _disk_serves(environment: Environment, request: Request) -> bool:
    wanted = ("artifact",) if too_large(environment, request) else ("artifact", *_from_own(request))
    broken = any(p.problem is not None for p in environment.places if p.tier in wanted)
    return (environment.nodes or 1) == 1 and not broken and _serves(environment, request, "local")


def _from_own(request: Request) -> tuple[Tier, ...]:
    return NFS_TIERS[NFS_TIERS.index(TIER_OF[request.audience]) :]


def _in(*tiers: Tier) -> Callable[[Answer, Environment, Request], bool]:
    return lambda answer, environment, request: isinstance(answer, StoragePlan) and answer.tier in tiers


def _continued(answer: Answer, environment: Environment, request: Request) -> bool:
    runs = _runs(environment, request)
    if len(runs) > 1:
        return isinstance(answer, SeveralHomesError)
    if not _works(environment, request, runs[0]):
        return isinstance(answer, AnyStorageError)
    return isinstance(answer, StoragePlan) and answer.resumes and answer.tier == runs[0]


def _forced(answer: Answer, environment: Environment, request: Request) -> bool:
    runs = _runs(environment, request)
    if runs and request.tier not in runs:
        return isinstance(answer, HomeElsewhereError)
    fails = request.tier is None or not _works(environment, request, request.tier)
    if fails and isinstance(answer, AnyStorageError):
        return True
    return isinstance(answer, StoragePlan) and answer.tier == request.tier


def _own_error(answer: Answer, environment: Environment, request: Request) -> bool:
    own = _own(environment, request)
    return own is not None and own.problem is not None and isinstance(answer, own.problem.error_type)


LADDER = (
    Step(
        ("Did you say tier=… ?",),
        ("that tier", "or an error that says why it cannot"),
        "place",
        lambda environment, request: request.tier is not None,
        _forced,
    ),
    Step(
        ("Is there a run of this name already?",),
        ("it continues where it is", "two of them: an error that shows both"),
        "place",
        lambda environment, request: bool(_runs(environment, request)),
        _continued,
    ),
    Step(
        ("Does the audience's mount not answer,", "so that a run of this name may be there?"),
        ("the mount's own error", "a second run of the name must not begin"),
        "error",
        _unseen,
        _own_error,
    ),
    Step(
        (f"Checkpoints not known to be over {_LIMIT}, and", "the audience's NFS serves and has room?"),
        ("cluster, user or shared storage", f"each checkpoint over {_LIMIT} goes to the bucket"),
        "place",
        lambda environment, request: (
            not too_large(environment, request) and _serves(environment, request, TIER_OF[request.audience])
        ),
        lambda answer, environment, request: _in(TIER_OF[request.audience])(answer, environment, request),
    ),
    Step(
        ("Is there a bucket that answers?",),
        ("artifact storage", "the run's state and its checkpoints"),
        "place",
        lambda environment, request: _serves(environment, request, "artifact"),
        _in("artifact"),
    ),
    Step(
        (f"Checkpoints not known to be over {_LIMIT}, and", "a wider NFS (user, then shared) serves?"),
        ("the next wider NFS", "the run's line says why"),
        "place",
        lambda environment, request: bool(_wider(environment, request)),
        lambda answer, environment, request: _in(_wider(environment, request)[0])(answer, environment, request),
    ),
    Step(
        ("One node, nothing broken,", "and room on its own disk?"),
        ("local storage", "nobody else sees it, and the plan says so"),
        "place",
        _disk_serves,
        _in("local"),
    ),
    Step(
        ("Otherwise",),
        ("an error: what was looked for,", "what is broken, and how to set it"),
        "error",
        lambda environment, request: True,
        lambda answer, environment, request: isinstance(answer, NoStorageError | StorageError),
    ),
)


def draw(ladder: tuple[Step, ...] = LADDER) -> str:
    """The ladder as one line of SVG, coloured by the page's own style."""
    height = _ROW * len(ladder)
    said = "; ".join(f"{' '.join(step.question)}: {', '.join(step.answer)}" for step in ladder)
    parts = [
        f'<svg class="decision" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(said)}">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="head" d="M0 0 8 4 0 8z"/></marker></defs>',
    ]
    for number, step in enumerate(ladder):
        parts += _row(step, number, last=number == len(ladder) - 1)
    return "".join([*parts, "</svg>"])


def _row(step: Step, number: int, *, last: bool) -> list[str]:
    top = number * _ROW + 8
    middle = top + _BOX // 2
    parts = [
        f'<text class="number" x="4" y="{middle + 4}">{number + 1}</text>',
        _box("question", _LEFT, _MIDDLE - _LEFT, top),
        *_text(step.question, (_LEFT + _MIDDLE) // 2, middle),
        f'<path class="arrow" marker-end="url(#head)" d="M{_MIDDLE} {middle}H{_RIGHT - 2}"/>',
        f'<text class="yes" x="{_MIDDLE + 10}" y="{middle - 6}">{"" if last else "yes"}</text>',
        _box(step.kind, _RIGHT, _WIDTH - 4 - _RIGHT, top),
        *_text(step.answer, (_RIGHT + _WIDTH - 4) // 2, middle, bold=True),
    ]
    if not last:
        x = (_LEFT + _MIDDLE) // 2
        parts.append(f'<path class="arrow" marker-end="url(#head)" d="M{x} {top + _BOX}V{top + _ROW - 2}"/>')
        parts.append(f'<text class="yes" x="{x + 8}" y="{top + _BOX + 15}">no</text>')
    return parts


def _box(kind: str, x: int, width: int, y: int) -> str:
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{_BOX}" rx="6"/>'


def _text(lines: tuple[str, ...], x: int, middle: int, *, bold: bool = False) -> list[str]:
    first = middle + 4 - 9 * (len(lines) - 1)
    weights = [' class="lead"' if bold and number == 0 else "" for number in range(len(lines))]
    return [
        f'<text x="{x}" y="{first + 18 * number}" text-anchor="middle"{weight}>{escape(line)}</text>'
        for number, (line, weight) in enumerate(zip(lines, weights, strict=True))
    ]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """What mkdocs calls for each page: the picture takes the place of its mark."""
    return markdown.replace("<!-- decision -->", draw())
