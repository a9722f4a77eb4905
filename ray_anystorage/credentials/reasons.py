"""Why a source was chosen, and what is wrong with the others, in words."""

from __future__ import annotations

from ray_anystorage.credentials.grant import Mode
from ray_anystorage.credentials.source import Source, usable


def why_not_better(chosen: Source, sources: tuple[Source, ...]) -> str:
    """Why nothing safer was taken, and what lies beside it unused."""
    broken = [source for source in sources if source.problem and source.description != chosen.description]
    passed = "; ".join(f"{source.description} passed over, {source.problem}" for source in broken)
    static = next((source for source in sources if source.mode == "env" and source.usable), None)
    unused = f'{static.description} not used, credentials="env" would carry them' if static else ""
    if chosen.mode == "ambient":
        named = next((source for source in usable(sources, "reference")), None)
        lead = "the safest, since no credentials travel"
        beside = f'{named.description} not used, credentials="reference" would name it' if named else ""
    elif chosen.mode == "env" or chosen.only_brokered:
        lead = "served to every node by an agent on loopback, since no identity of the nodes and no reference serves"
        beside, unused = "", ""
    else:
        lead = "the safest that works, since only names travel"
        beside = "" if any(source.mode == "ambient" for source in sources) else "no identity of the nodes was found"
    return "; ".join(part for part in (lead, beside, passed, unused) if part)


def problems(sources: tuple[Source, ...], mode: Mode | None = None) -> str:
    """A line for each source, of the mode where one is said, that was passed over."""
    lines = [
        f"\n  passed over: {source.description}: {source.problem}"
        for source in sources
        if source.problem and mode in (None, source.mode)
    ]
    return "".join(lines)
