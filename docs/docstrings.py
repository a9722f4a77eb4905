"""Several parameters that a docstring describes together: each has its own type, not that of the first."""

from __future__ import annotations

from typing import Any

from griffe import DocstringSectionKind, Extension, Function


class OwnTypes(Extension):
    """What mkdocstrings asks griffe to load."""

    def on_function(self, *, func: Function, **_: Any) -> None:
        """Correct what griffe's numpy parser took for the types."""
        for section in func.docstring.parsed if func.docstring else ():
            if section.kind is not DocstringSectionKind.parameters:
                continue
            for described in section.value:
                own = next((p for p in func.parameters if p.name == described.name.lstrip("*")), None)
                if own is not None:
                    described.annotation = own.annotation
                    described.value = own.default
