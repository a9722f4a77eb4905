"""Sizes and names: what is taken, what is refused, and that the refusal says why."""

from __future__ import annotations

import contextlib
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ray_anystorage.errors as errors_module
from ray_anystorage.errors import AnyStorageError, InvalidNameError, InvalidSizeError, RequestError, StorageError
from ray_anystorage.policy import Request
from ray_anystorage.units import format_size, parse_size

ORDINARY_SIZE = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*([kmgtp]i?)?b?\s*", re.IGNORECASE | re.ASCII)
UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15} | {
    f"{letter}iB": 2 ** (10 * (index + 1)) for index, letter in enumerate("KMGTP")
}


@given(st.integers(0, 10**6), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " ", "  "]))
def test_every_unit_means_what_it_says(number: int, unit: str, blank: str) -> None:
    assert parse_size(f"{number}{blank}{unit}") == number * UNITS[unit]
    assert parse_size(f"{number}{blank}{unit}".lower()) == number * UNITS[unit]


@given(st.integers(0, 2**80))
def test_bytes_pass_through(size: int) -> None:
    assert parse_size(size) == parse_size(str(size)) == size


@given(st.decimals(0, 10**6, allow_nan=False, allow_infinity=False, places=4))
def test_fractions_round_up(number: object) -> None:
    exact = parse_size(f"{number}GiB") - float(str(number)) * 2**30
    assert -1e-3 * 2**20 < exact < 1 + 1e-3 * 2**20


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_an_error_that_names_it(text: str) -> None:
    with contextlib.ExitStack() as stack:
        if not ORDINARY_SIZE.fullmatch(text):
            stack.enter_context(pytest.raises(InvalidSizeError, match=re.escape(repr(text))))
        assert parse_size(text) >= 0


@pytest.mark.parametrize("value", [-1, True, 1.5, None, "-1", "nan", "1iB", "12 gigs", "1e3", ""])
def test_what_is_not_a_size_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="checkpoint_size="):
        parse_size(value)  # type: ignore[arg-type]


@given(st.integers(0, 10**18))
def test_shown_sizes_read_back_within_their_digits(size: int) -> None:
    shown = format_size(size)
    assert abs(parse_size(shown) - size) <= size * 0.006 + 0.5


@pytest.mark.parametrize(
    "name", ["", " ", "a/b", "..", ".", ".hidden", "a\\b", "a\nb", "x" * 256, "ü" * 128, " a", "artifacts", "\ud800", 7]
)
def test_a_name_that_is_no_path_segment_is_refused_and_named(name: object) -> None:
    with pytest.raises(InvalidNameError) as raised:
        Request.of(name)  # type: ignore[arg-type]
    assert isinstance(raised.value, ValueError)
    assert repr(name) in str(raised.value)


@pytest.mark.parametrize("name", ["llama-ft", "run 7", "größe", "a.b", "x" * 255, "s3:odd"])
def test_ordinary_names_are_taken(name: str) -> None:
    assert Request.of(name).name == name


@pytest.mark.parametrize(
    "arguments", [{"num_to_keep": 0}, {"num_to_keep": True}, {"num_to_keep": "2"}, {"audience": "all"}, {"tier": "nfs"}]
)
def test_other_bad_arguments_name_value_and_choices(arguments: dict[str, object]) -> None:
    with pytest.raises(RequestError) as raised:
        Request.of("r", **arguments)  # type: ignore[arg-type]
    assert repr(next(iter(arguments.values()))) in str(raised.value)


def _all_errors() -> list[type[AnyStorageError]]:
    return [
        kind for kind in vars(errors_module).values() if isinstance(kind, type) and issubclass(kind, AnyStorageError)
    ]


@pytest.mark.parametrize("kind", _all_errors(), ids=lambda kind: kind.__name__)
def test_every_error_pickles_with_its_fields_and_is_a_built_in_too(kind: type[AnyStorageError]) -> None:
    if issubclass(kind, StorageError):
        error: AnyStorageError = kind("is odd", tier="cluster", place="/x", tried="a write", remedy="a look")
    else:
        error = kind("is odd")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    if isinstance(error, StorageError):
        assert isinstance(again, OSError)
        assert again.errno
        for words in ("cluster", "/x", "a write", "a look"):
            assert words in str(again)
    elif kind is not AnyStorageError:
        assert len([base for base in kind.__mro__ if base.__module__ == "builtins"]) > 3
