"""Secret values stay where they are: no repr, no pickle, no text."""

from __future__ import annotations

import copy
import pickle

import cloudpickle
import pytest

from ray_anystorage.credentials.grant import Grant
from ray_anystorage.credentials.redact import MASK, Secrets, redact, sounds_secret
from ray_anystorage.credentials.sources import Source

PLANTED = "planted/Secret+Value=="


@pytest.fixture
def secrets() -> Secrets:
    return Secrets({"AWS_SECRET_ACCESS_KEY": PLANTED, "AWS_ACCESS_KEY_ID": "AKPLANTED"})


def test_names_show_and_values_do_not(secrets: Secrets) -> None:
    assert secrets.names == ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    for text in (repr(secrets), str(secrets), f"{secrets}", f"{[secrets]}"):
        assert PLANTED not in text
        assert "AKPLANTED" not in text
        assert f"AWS_SECRET_ACCESS_KEY={MASK}" in text


def test_reveal_gives_a_copy(secrets: Secrets) -> None:
    secrets.reveal()["AWS_SECRET_ACCESS_KEY"] = "changed"
    assert secrets.reveal()["AWS_SECRET_ACCESS_KEY"] == PLANTED


@pytest.mark.parametrize("dump", [pickle.dumps, cloudpickle.dumps, copy.deepcopy])
@pytest.mark.parametrize("wrap", ["bare", "grant", "source"])
def test_pickling_raises_and_names_only_the_variables(secrets: Secrets, dump, wrap: str) -> None:  # type: ignore[no-untyped-def]
    value = {
        "bare": secrets,
        "grant": Grant("env", "static keys", "asked for", (), secrets),
        "source": Source("static keys", "env", "static keys", secrets=secrets),
    }[wrap]
    with pytest.raises(TypeError, match=r"never pickled.*AWS_SECRET_ACCESS_KEY") as caught:
        dump(value)
    assert PLANTED not in str(caught.value)


@pytest.mark.parametrize("type_of", [Grant, Source])
def test_reprs_of_what_holds_secrets_are_safe(secrets: Secrets, type_of: type) -> None:
    value = (
        Grant("env", "static keys", "asked for", (("AWS_REGION", "r"),), secrets)
        if type_of is Grant
        else Source("static keys", "env", "static keys", secrets=secrets)
    )
    assert PLANTED not in repr(value) + str(value)
    assert "AKPLANTED" not in repr(value)


def test_redact_masks_every_occurrence_longest_first() -> None:
    assert redact("a=abcdef b=abc c=abcdef", ["abc", "abcdef", ""]) == f"a={MASK} b={MASK} c={MASK}"


@pytest.mark.parametrize(
    "value", ["-----BEGIN\nplanted\n-----END", "a\\planted", "it's planted", '"planted\'s"', "é\x00"]
)
def test_redact_masks_a_value_as_a_repr_shows_it(value: str) -> None:
    assert redact(repr({"env_vars": {"KEY": value}}), [value]).count(MASK) == 1
    assert value.encode("unicode_escape").decode() not in redact(repr([value]), [value])


def test_names_that_sound_secret_and_names_of_files_and_addresses() -> None:
    for name in ("AZURE_STORAGE_CONNECTION_STRING", "GIT_CREDENTIALS", "MY_CREDENTIAL", "aws_secret_access_key"):
        assert sounds_secret(name)
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "RAY_ANYSTORAGE_CREDENTIALS",
                 "AWS_SHARED_CREDENTIALS_FILE", "AWS_REGION"):  # fmt: skip
        assert not sounds_secret(name)


def test_redact_leaves_other_text_alone() -> None:
    assert redact("nothing here", []) == "nothing here"
    assert redact("nothing here", [""]) == "nothing here"


def test_secrets_redact_their_own_values(secrets: Secrets) -> None:
    assert secrets.redact(f"key {PLANTED} of AKPLANTED") == f"key {MASK} of {MASK}"
