"""Sizes in bytes, read from and shown to people; sentences that join."""

from __future__ import annotations

import re
from fractions import Fraction

from ray_anystorage.errors import InvalidSizeError

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


def sentence(text: str) -> str:
    """The text with a full stop at its end, so that another sentence can follow."""
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."
