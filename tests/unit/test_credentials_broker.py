"""Sources that a broker asks, and how it keeps their lease fresh: real callables, files, profiles and clocks."""

from __future__ import annotations

import base64
import itertools
import json
import logging
import pickle
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, get_args
from unittest.mock import Mock

import pytest
from botocore.exceptions import ClientError

from ray_anystorage.credentials import broker as broker_module
from ray_anystorage.credentials.agent import Agent
from ray_anystorage.credentials.agent_address import new_address
from ray_anystorage.credentials.broker import Broker, broker_of, own_broker, without_gone
from ray_anystorage.credentials.lease import Kind, Lease
from ray_anystorage.credentials.memory_folder import MemoryFolder, memory_root
from ray_anystorage.credentials.providers import BotocoreSource, Callback, GoogleFile, StaticKeys, renew_in
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.errors import CredentialsAgentError, CredentialsError
from tests.harness.waiting import wait_until

SECRET, TOKEN = "planted/Secret+Value", "plantedSessionToken"
LATER = datetime(2099, 1, 1, tzinfo=timezone.utc)
VALUES = {"AccessKeyId": "AKPLANTED", "SecretAccessKey": SECRET, "Token": TOKEN}


def values(lease: Lease) -> dict[str, str]:
    return lease.values.reveal()


# --- leases -----------------------------------------------------------------------------------------


def test_a_lease_neither_prints_nor_pickles_but_can_be_sent() -> None:
    lease = Lease("aws", Secrets(VALUES), 4070908800.0)
    assert not any(value in repr(lease) + str(lease) for value in VALUES.values())
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(lease)
    again = Lease.from_message(pickle.loads(pickle.dumps(lease.to_message())))
    assert (values(again), again) == (VALUES, lease)
    assert json.loads(lease.document())["Expiration"] == "2099-01-01T00:00:00Z"


def test_it_is_asked_for_again_when_half_of_it_is_over_and_each_minute() -> None:
    for left, expected in ((15.0, 7.5), (3600.0, 60.0), (0.1, 0.5)):
        assert renew_in(Lease("aws", Secrets(VALUES), time.time() + left)) == pytest.approx(expected, abs=0.1)
    assert renew_in(Lease("aws", Secrets(VALUES))) == 60.0


# --- a user's callable ------------------------------------------------------------------------------

OBSTORE = {"access_key_id": "AKPLANTED", "secret_access_key": SECRET, "token": TOKEN}
STS = {"AccessKeyId": "AKPLANTED", "SecretAccessKey": SECRET, "SessionToken": TOKEN}


@pytest.mark.parametrize(
    ("answer", "expires_at"),
    [
        ({**OBSTORE, "expires_at": LATER}, LATER.timestamp()),
        ({**OBSTORE, "expires_at": LATER.timestamp()}, LATER.timestamp()),
        ({**OBSTORE, "expires_at": None}, None),
        (OBSTORE, None),
        ({**STS, "Expiration": LATER}, LATER.timestamp()),
        ({**STS, "Expiration": "2099-01-01T00:00:00Z"}, LATER.timestamp()),
        ({**VALUES, "Expiration": "2099-01-01T01:00:00+01:00"}, LATER.timestamp()),
    ],
)
def test_a_callable_answers_in_the_words_of_obstore_or_of_aws(answer: dict[str, Any], expires_at: float | None) -> None:
    lease = Callback(lambda: answer).lease()
    assert (values(lease), lease.expires_at) == (VALUES, expires_at)


def test_a_callable_may_give_googles_file() -> None:
    content = {"type": "service_account", "private_key": SECRET}
    assert json.loads(Callback(lambda: content).lease().files()["google.json"]) == content


SAS = "sp=rwdl&sv=2020-12-06&sr=c&sig=planted%2FSecret"
KEY = base64.b64encode(SECRET.encode()).decode()


@pytest.mark.parametrize(
    ("answer", "given", "expires_at"),
    [
        ({"sas_token": SAS, "expires_at": LATER}, {"sas_token": SAS}, LATER.timestamp()),
        ({"sas_token": f"?{SAS}&se=2098-01-01T00:00:00Z", "expires_at": LATER}, None, 4039372800.0),
        ({"sas_token": f"{SAS}&se=2199-01-01", "expires_at": LATER}, None, LATER.timestamp()),
        ({"sas_token": SAS}, {"sas_token": SAS}, None),
        ({"account_key": KEY}, {"access_key": KEY}, None),
        ({"access_key": KEY, "expires_at": None}, {"access_key": KEY}, None),
        ({"token": TOKEN, "expires_at": LATER}, {"token": TOKEN}, LATER.timestamp()),
        ({"sas_token": SAS, "account_name": "acc"}, {"sas_token": SAS}, None),
    ],
)
def test_a_callable_may_give_what_azure_takes(
    answer: dict[str, Any], given: dict[str, str] | None, expires_at: float | None
) -> None:
    lease = Callback(lambda: answer).lease()
    assert (lease.kind, lease.expires_at) == ("azure", expires_at)
    assert given is None or values(lease) == given
    assert json.loads(lease.files()["azure.json"]) == {**values(lease), "expires_at": expires_at}
    assert lease.document() == b""
    assert SECRET not in repr(lease)


WRONG = {
    "no secret_access_key; there is access_key_id": {"access_key_id": "AKPLANTED"},
    "no SecretAccessKey; there is AccessKeyId": {"AccessKeyId": "AKPLANTED"},
    "no access_key_id; there is nothing": {},
    "a int as secret_access_key": {**OBSTORE, "secret_access_key": 17},
    "a expires_at that is not an ISO 8601 time": {**OBSTORE, "expires_at": SECRET},
    "expires_at without a time zone": {**OBSTORE, "expires_at": datetime(2099, 1, 1)},
    "a list as expires_at": {**OBSTORE, "expires_at": [SECRET]},
    "credentials that have expired": {**OBSTORE, "expires_at": 1000.0},
    "a str$": f"{SECRET}",
    "sas_token that cannot be used: it has no signature": {"sas_token": SECRET},
    "sas_token that cannot be used: it expired at 2001": {"sas_token": f"{SAS}&se=2001-01-01"},
    "sas_token that expired": {"sas_token": SAS, "expires_at": 1000.0},
    "account_key that cannot be used: it is not in base64": {"account_key": f"{SECRET}!"},
    "returned sas_token and account_key": {"sas_token": SAS, "account_key": KEY},
    "returned no value\n.*for Azure, one of sas_token, account_key and token": {"token": ""},
    "gives no service_account": {"type": "external_account", "x": SECRET},
}


@pytest.mark.parametrize("what", list(WRONG))
def test_what_is_wrong_with_an_answer_is_said_without_its_values(what: str) -> None:
    def my_credentials() -> Any:
        return WRONG[what]

    with pytest.raises(CredentialsError, match=what.rstrip("$")) as caught:
        Callback(my_credentials).lease()
    assert "my_credentials" in str(caught.value)
    assert not [secret for secret in (SECRET, SAS, KEY, TOKEN) if secret in str(caught.value)]


def test_what_a_callable_raises_is_its_cause_and_not_quoted() -> None:
    def broken() -> Any:
        raise RuntimeError(f"refused {SECRET}")

    with pytest.raises(CredentialsError, match="broken raised RuntimeError") as caught:
        Callback(broken).lease()
    assert SECRET not in str(caught.value)
    assert f"{__file__}, line " in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)


# --- files and profiles -----------------------------------------------------------------------------


def test_a_google_file_is_read_each_time(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    source = GoogleFile(str(path), "service_account file")
    with pytest.raises(CredentialsError, match="No such file"):
        source.lease()
    path.write_text(f'{{"type": "authorized_user", "secret": "{SECRET}"')
    with pytest.raises(CredentialsError, match="is not JSON") as caught:
        source.lease()
    assert caught.value.__cause__ is None
    for secret in ("first", "second"):
        path.write_text(json.dumps({"type": "authorized_user", "secret": secret}))
        assert json.loads(values(source.lease())["document"])["secret"] == secret


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], BotocoreSource]:
    """Writes an AWS config file and gives the source of its profile ``team``; other keys are in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    def write(text: str) -> BotocoreSource:
        (tmp_path / "config").write_text(f"[profile team]\n{text}\n")
        empty = tmp_path / "empty"
        empty.touch()
        variables = {
            "AWS_PROFILE": "team",
            "AWS_CONFIG_FILE": str(tmp_path / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(empty),
        }
        return BotocoreSource(variables, "profile 'team'")

    return write


def test_the_keys_of_a_profile_are_read_each_time(profiles: Callable[[str], BotocoreSource]) -> None:
    for secret in ("first", "second"):
        source = profiles(f"aws_access_key_id = A\naws_secret_access_key = {secret}")
        lease = source.lease()
        assert (values(lease)["SecretAccessKey"], lease.expires_at) == (secret, None)
    profiles("region = eu-west-1")
    with pytest.raises(CredentialsError, match="profile 'team' holds no credentials"):
        source.lease()


def test_a_credential_process_is_run_again_before_its_keys_end(
    profiles: Callable[[str], BotocoreSource], tmp_path: Path
) -> None:
    script, count = tmp_path / "process.py", tmp_path / "count"
    script.write_text(f"""
import datetime, json, pathlib
count = pathlib.Path({str(count)!r})
count.write_text((count.read_text() if count.exists() else "") + "x")
end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=30)
print(json.dumps({{"Version": 1, "AccessKeyId": "A", "SecretAccessKey": "s" + count.read_text(),
                  "SessionToken": "t", "Expiration": end.isoformat()}}))
""")
    source = profiles(f"credential_process = {sys.executable} {script}")
    first, second = source.lease(), source.lease()
    assert len(values(second)["SecretAccessKey"]) > len(values(first)["SecretAccessKey"])
    assert 25 < second.seconds_left() <= 30


def test_what_a_credential_process_printed_is_in_no_error(profiles: Callable[[str], BotocoreSource]) -> None:
    with pytest.raises(CredentialsError, match="credential process of profile 'team' printed no JSON") as caught:
        profiles("credential_process = echo planted").lease()
    assert (caught.value.__cause__, caught.value.__suppress_context__) == (None, True)


def test_a_login_that_ended_says_so(
    profiles: Callable[[str], BotocoreSource], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    source = profiles(
        "sso_start_url = https://corp.awsapps.com/start\nsso_region = eu-west-1\nsso_account_id = 1\nsso_role_name = r"
    )
    with pytest.raises(CredentialsError, match=r"profile 'team' gives no credentials: .*SSO"):
        source.lease()


ROLE = "role_arn = arn:aws:iam::123456789012:role/x\nsource_profile = base"
STS_DENIES = ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "AssumeRole")


def test_what_the_token_service_answers_is_an_error_of_ours(
    profiles: Callable[[str], BotocoreSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> Any:
        raise STS_DENIES

    monkeypatch.setattr("botocore.client.BaseClient._make_api_call", denied)
    source = profiles(f"{ROLE}\n[profile base]\naws_access_key_id = A\naws_secret_access_key = b")
    with pytest.raises(CredentialsError, match=r"profile 'team' gives no credentials: .*AccessDenied"):
        source.lease()


def test_a_file_or_a_program_that_is_gone_is_an_error_of_ours(
    profiles: Callable[[str], BotocoreSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    variables = {"AWS_WEB_IDENTITY_TOKEN_FILE": str(gone), "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/x"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for source in (profiles(f"credential_process = {gone}"), BotocoreSource(variables, "the role")):
        with pytest.raises(CredentialsError, match=r"gives no credentials: .*No such file"):
            source.lease()


# --- brokers ----------------------------------------------------------------------------------------


def made(lifetime: float) -> tuple[list[int], Callable[[], dict[str, Any]]]:
    """How often it was asked, and a source whose keys are numbered."""
    asked: list[int] = []

    def source() -> dict[str, Any]:
        asked.append(len(asked))
        end = datetime.now(timezone.utc) + timedelta(seconds=lifetime)
        return {"access_key_id": "A", "secret_access_key": f"secret-{asked[-1]}", "expires_at": end}

    return asked, source


def test_a_lease_is_kept_fresh_and_handed_on_before_it_ends() -> None:
    asked, source = made(lifetime=1.2)
    broker, taken = Broker(Callback(source)), []
    stop = broker.hand_to(lambda lease: taken.append((time.time(), lease)))
    broker.serve_here()
    wait_until(lambda: len(taken) >= 4, 30, "three renewals")
    for (_, old), (at, _) in itertools.pairwise(taken):
        assert old.expires_at is not None
        assert at < old.expires_at, "it came too late"
    stop()
    count = len(taken)
    wait_until(lambda: len(asked) >= count + 2, 30, "two more renewals")
    assert len(taken) == count


def test_a_source_that_fails_is_asked_again_and_what_there_is_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    _, good = made(lifetime=3.0)
    fails: list[int] = []

    def source() -> dict[str, Any]:
        if fails and len(fails) < 3:
            fails.append(1)
            raise ConnectionError("refused secret-0")
        return good()

    broker, taken = Broker(Callback(source)), []
    broker.hand_to(taken.append)
    broker.serve_here()
    fails.append(1)
    wait_until(lambda: len(taken) == 2, 30, "the source is back")
    assert len(fails) == 3
    (warning, *_) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "could not be renewed: the callable" in warning
    assert "raised ConnectionError at " in warning
    assert "; they hold for another" in warning
    assert "secret-0" not in caplog.text


def test_a_source_that_fails_for_good_is_an_error_once_its_keys_have_ended(caplog: pytest.LogCaptureFixture) -> None:
    answers = [{"access_key_id": "A", "secret_access_key": SECRET, "expires_at": time.time() + 0.3}]
    broker = Broker(Callback(lambda: answers.pop()))
    lease = broker.lease()
    wait_until(lambda: lease.seconds_left() <= 0, 30, "the keys have ended")
    wait_until(lambda: time.time() > broker._due, 30, "the source is asked again")
    with pytest.raises(CredentialsError, match="raised IndexError"):
        broker.lease()
    assert "they have expired" in caplog.text


def test_what_has_expired_is_given_to_nobody_until_the_source_is_back() -> None:
    answers = [{"access_key_id": "A", "secret_access_key": SECRET, "expires_at": time.time() + 0.3}]
    broker = Broker(Callback(lambda: answers.pop()))
    lease = broker.lease()
    wait_until(lambda: lease.seconds_left() <= 0, 30, "the keys have ended")
    for _ in range(3):
        with pytest.raises(CredentialsError, match="raised IndexError"):
            broker.lease()
    assert broker._failures < 3, "the source is asked each time"


class Odd:
    """A source that fails as no source should, after its first answer."""

    description, identity = "the odd source", "odd"

    def __init__(self, lifetime: float) -> None:
        self.answers = [Lease("aws", Secrets(VALUES), time.time() + lifetime)]

    def lease(self) -> Lease:
        if not self.answers:
            raise TypeError(f"unexpected {SECRET}")
        return self.answers.pop()


def test_the_broker_outlives_what_no_source_should_raise(caplog: pytest.LogCaptureFixture) -> None:
    source = Odd(lifetime=1.0)
    broker, taken = Broker(source), []
    broker.hand_to(taken.append)
    broker.serve_here()
    wait_until(lambda: "the odd source failed with TypeError" in caplog.text, 30, "the failure is logged")
    source.answers.append(Lease("aws", Secrets({**VALUES, "Token": "another"})))
    wait_until(lambda: len(taken) == 2, 30, "it is asked again")
    assert SECRET not in caplog.text


def test_a_taker_that_fails_keeps_the_lease_from_no_other_and_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    answers = [*"21111"]

    def source() -> dict[str, Any]:
        end = time.time() + 1.0
        return {"access_key_id": "A", "secret_access_key": answers.pop(), "expires_at": end if answers else None}

    def full(lease: Lease) -> None:
        tried.append(values(lease)["SecretAccessKey"])
        if len(tried) in (2, 3):
            raise OSError(28, f"no space for {SECRET}")

    broker, tried, taken = Broker(Callback(source)), [], []
    broker.hand_to(full)
    broker.hand_to(taken.append)
    broker.serve_here()
    wait_until(lambda: len(taken) == 5, 30, "the last answer came to the other")
    wait_until(lambda: len(tried) == 5, 30, "it came to the one that failed as well")
    assert tried[-1] == "2"
    assert "could not be handed on, which is tried again: OSError" in caplog.text
    assert SECRET not in caplog.text


def test_who_could_not_take_the_same_lease_gets_it_again() -> None:
    broker, tried = Broker(StaticKeys(Secrets({"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "b"}), "keys")), []

    def take(lease: Lease) -> None:
        tried.append(lease)
        if len(tried) == 2:
            raise OSError("full")

    stop = broker.hand_to(take)
    broker._lease = None  # so that it counts as another
    for _ in range(3):
        broker._due = 0.0
        broker.lease()
    assert len(tried) == 3, "the failure, and one more"
    stop()


def test_a_source_that_hangs_holds_up_nobody_who_has_a_lease() -> None:
    asked, go_on = threading.Event(), threading.Event()

    def source() -> dict[str, Any]:
        if asked.is_set():
            go_on.wait(30)
        asked.set()
        return {"access_key_id": "A", "secret_access_key": SECRET, "expires_at": time.time() + 60}

    broker = Broker(Callback(source))
    first = broker.lease()
    broker._due = 0.0
    asking = threading.Thread(target=broker.lease)
    asking.start()
    wait_until(broker._asking.locked, 30, "the source is asked")
    began = time.monotonic()
    assert broker.lease() is first
    broker.hand_to(lambda lease: None)()
    broker.serve_here()
    assert time.monotonic() - began < 10
    go_on.set()
    asking.join()
    assert broker.lease() is not first


def test_who_waits_for_a_source_that_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "_ANSWER_WITHIN", 0.1)
    broker = Broker(Callback(dict))
    with broker._asking, pytest.raises(CredentialsError, match=r"has not answered for 0\.1 s"):
        broker.lease()


def test_an_agent_that_cannot_start_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    _, source = made(60)
    broker = Broker(Callback(source))
    with monkeypatch.context() as patched:
        patched.setattr(MemoryFolder, "_write", Mock(side_effect=OSError(28, "No space left on device")))
        for _ in range(2):
            with pytest.raises(CredentialsAgentError, match="cannot be written: No space left"):
                broker.serve_here()
            assert not Path(broker.address.folder).exists()
    broker.serve_here()
    assert broker.address.serves()


def test_a_closed_broker_asks_no_more_until_it_serves_again() -> None:
    asked, source = made(lifetime=1.2)
    broker, taken = Broker(Callback(source)), []
    broker.hand_to(taken.append)
    for _ in range(2):
        others = threading.enumerate()
        broker.serve_here()
        (keeping,) = (thread for thread in set(threading.enumerate()) - {*others} if thread.name == "anystorage-broker")
        count = len(asked)
        wait_until(lambda count=count: len(asked) > count, 30, "a renewal")
        assert broker.address.serves()
        broker.close()
        broker.close()
        keeping.join(10)
        assert not keeping.is_alive()
        assert not broker.address.serves()
        assert not Path(broker.address.folder).exists()
    assert len(taken) == len(asked), "who else takes the lease goes on doing so"


def test_one_source_has_one_broker() -> None:
    _, source = made(60)
    broker = broker_of(Callback(source))
    assert broker_of(Callback(source)) is broker
    keys = {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "b"}
    static = broker_of(StaticKeys(Secrets(keys), "keys"))
    assert broker_of(StaticKeys(Secrets(keys), "keys")) is static
    assert broker_of(StaticKeys(Secrets({**keys, "AWS_SECRET_ACCESS_KEY": "c"}), "keys")) is not static
    assert own_broker(broker.address.variables("aws")) is broker
    assert own_broker(static.address.variables("aws")) is static
    assert own_broker({}) is None
    assert "planted" not in repr(vars(broker.provider))
    planted = StaticKeys(Secrets({**keys, "AWS_SECRET_ACCESS_KEY": SECRET}), "keys")
    assert SECRET not in repr(planted.identity)


def test_a_callable_may_serve_two_kinds_of_store() -> None:
    answers = [{"sas_token": SAS}, OBSTORE]
    source = Callback(lambda: answers.pop())
    aws, azure = broker_of(source), broker_of(source, "azure")
    assert aws is not azure
    assert (aws.lease().kind, azure.lease().kind) == ("aws", "azure")


def test_the_answer_for_another_kind_of_store_is_refused() -> None:
    with pytest.raises(CredentialsError, match="gives aws credentials, not azure ones"):
        broker_of(Callback(lambda: OBSTORE), "azure").lease()


def test_a_driver_is_not_led_to_the_agents_of_an_earlier_one() -> None:
    _, source = made(60)
    own = broker_of(Callback(source)).address.variables("aws")
    gone, held = new_address(memory_root())
    held.close()
    for kind in get_args(Kind):
        assert without_gone({"AWS_REGION": "r", **gone.variables(kind)}) == {"AWS_REGION": "r"}
    assert without_gone({"AWS_REGION": "r", **own}) == {"AWS_REGION": "r", **own}
    agent = Agent(gone, "token")
    agent.start()
    agent.take(Lease("aws", Secrets(VALUES)))
    assert without_gone(gone.variables("aws")) == gone.variables("aws")
    agent.close()
