"""Sizes in bytes and times in seconds, read from and shown to people; sentences that join."""

from __future__ import annotations

import re
from fractions import Fraction

from ray_anystorage.errors import InvalidSizeError, RequestError

_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_BINARY = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40, "p": 2**50}
_PATTERN = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(?:([kmgtp]?)(i?)b?)\s*", re.IGNORECASE | re.ASCII)
_EXPECTED = 'a count of bytes (12_000_000_000) or a number with a unit ("12GB" decimal, "60GiB" binary)'


def parse_size(value: int | str, *, what: str = "checkpoint_size") -> int:
    """Turn a size into bytes.

    Parameters
    ----------
    value
        Bytes, or a number with a unit: ``k``, ``M``, ``G``, ``T``, ``P``, optionally with ``i`` for powers of 1024
        (IEC 80000-13) and ``B``. Without ``i`` the unit is decimal (SI). The case does not matter.
    what
        The argument's name, for the error.

    Returns
    -------
    int
        Bytes, rounded up, so that a plan never reserves too little.

    Raises
    ------
    InvalidSizeError
        The value is negative, not finite, of another type, or has an unknown unit.
    """
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise InvalidSizeError(f"{what}={value!r} ({type(value).__name__}) is not a size: expected {_EXPECTED}")
    if isinstance(value, int):
        if value < 0:
            raise InvalidSizeError(f"{what}={value!r} is negative: expected {_EXPECTED}")
        return value
    match = _PATTERN.fullmatch(value)
    if match is None or (match[3] and not match[2]):
        raise InvalidSizeError(f"{what}={value!r} is not a size: expected {_EXPECTED}")
    units = _BINARY if match[3] else _DECIMAL
    exact = Fraction(match[1]) * units[match[2].lower()]
    return -(-exact.numerator // exact.denominator)


def format_size(size: int) -> str:
    """Show bytes in decimal units with three significant digits, exact below 1 kB."""
    value, unit = Fraction(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if value < 1000 or unit == "PB":
            break
        value /= 1000
    if unit == "B":
        return f"{size} B"
    digits = 2 if value < 10 else 1 if value < 100 else 0
    text = f"{float(value):.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {unit}"


_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0, "y": 365.25 * 86400.0}
_TIME = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(ms|[smhdwy])", re.IGNORECASE | re.ASCII)


def parse_seconds(value: float | str, *, what: str) -> float:
    """Turn a time into seconds.

    Parameters
    ----------
    value
        Seconds, or numbers with units in any order: ``"90s"``, ``"1h30m"``, ``"25ms"``, ``"5y"`` (of 365.25 days).
    what
        The argument's name, for the error.

    Raises
    ------
    RequestError
        It is not finite, negative, or has no or an unknown unit.
    """
    expected = 'a number of seconds above 0, or one with units ("90s", "1h30m", "25ms", "30d", "5y")'
    if isinstance(value, str):
        text, seconds, at = value.strip(), 0.0, 0
        while match := _TIME.match(text, at):
            seconds, at = seconds + float(match[1]) * _SECONDS[match[2].lower()], match.end()
        if at == len(text) and seconds > 0:
            return seconds
        try:
            value = float(text)
        except ValueError:
            raise RequestError(f"{what}={text!r} is not a time: expected {expected}") from None
    if not 0 < value < float("inf"):
        raise RequestError(f"{what}={value!r} is not a time: expected {expected}")
    return float(value)


def format_seconds(seconds: float) -> str:
    """Show a time with about three digits, in the unit that suits it."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= (2 if unit != "s" else 1) * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1000:.3g} ms"


def sentence(text: str) -> str:
    """The text with a full stop at its end, so that another sentence can follow."""
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."
