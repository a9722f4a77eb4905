"""The broker's threads in the driver and on the nodes, against a Ray that fails on cue: and what ends them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from ray_anystorage.cluster import broker as driver
from ray_anystorage.cluster import vault as nodes
from ray_anystorage.cluster.broker import _Feeder, ensure_agent
from ray_anystorage.cluster.vault import NodeAgent
from ray_anystorage.credentials.agent import Agent
from ray_anystorage.credentials.agent_address import AgentAddress, new_address
from ray_anystorage.credentials.broker import Broker
from ray_anystorage.credentials.lease import Lease
from ray_anystorage.credentials.memory_folder import MemoryFolder, memory_root
from ray_anystorage.credentials.providers import StaticKeys
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.errors import CredentialsAgentError, CredentialsError
from ray_anystorage.train import preflight
from tests.harness.waiting import wait_until

UNAVAILABLE = ray.exceptions.ActorUnavailableError("planted", b"0" * 16)
ENDED = ray.exceptions.ActorDiedError()
NODE_ID = "7" * 56
NODE = SimpleNamespace(get_node_id=lambda: NODE_ID)


@pytest.fixture
def address() -> AgentAddress:
    free, held = new_address(memory_root())
    held.close()
    return free


# --- a node's agent ---------------------------------------------------------------------------------


class Vault:
    """What a node's agent asks: answers or fails as told, in order, then waits for what is added."""

    def __init__(self, *answers: object) -> None:
        self.answers, self.asked = list(answers), []
        self.after = SimpleNamespace(remote=self.asked.append)

    def answer(self, _: object) -> Any:
        wait_until(lambda: self.answers, 20, "the test says what comes next")
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def message(number: int) -> tuple[int, str, dict[str, Any]]:
    return number, "token", Lease("aws", Secrets({"AccessKeyId": f"A{number}", "SecretAccessKey": "s"})).to_message()


@pytest.fixture
def follow(address: AgentAddress, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Vault], NodeAgent]]:
    """Makes the actor of a node, which follows a vault."""
    made: list[tuple[NodeAgent, Vault]] = []

    def start(vault: Vault) -> NodeAgent:
        fake = SimpleNamespace(get_actor=lambda *_, **__: vault, get=vault.answer, exceptions=ray.exceptions)
        monkeypatch.setattr(nodes, "ray", fake)
        made.append((NodeAgent(address), vault))
        return made[-1][0]

    monkeypatch.setattr(nodes, "_LOOK_EVERY", 0.05)
    yield start
    for actor, vault in made:
        vault.answers.append(ENDED)
        wait_until(lambda: not followers(), 30, "the thread has ended")
        if actor._agent is not None:
            actor._agent.close()


def followers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "anystorage-follow"]


def test_a_vault_that_is_out_of_reach_for_now_is_asked_again(
    address: AgentAddress, follow: Callable[[Vault], NodeAgent]
) -> None:
    vault = Vault(UNAVAILABLE, message(1), UNAVAILABLE)
    follow(vault).serving()
    assert address.serves()
    wait_until(lambda: vault.asked[-2:] == [1, 1], 30, "it asks once more for what comes after the first")
    vault.answers.append(message(2))
    wait_until(lambda: vault.asked[-1] == 2, 30, "it has the second")


@pytest.mark.parametrize("failing", ["_write", "__init__"])
def test_a_node_that_has_no_room_says_so_and_is_tried_again(
    failing: str, address: AgentAddress, follow: Callable[[Vault], NodeAgent], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> Any:
        raise OSError(28, "No space left on device")

    vault = Vault(message(1))
    with monkeypatch.context() as patched:
        patched.setattr(MemoryFolder, failing, full)
        actor = follow(vault)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                serving_within(actor, 5)
    vault.answers += [message(1), message(1)]
    wait_until(address.serves, 30, "the agent serves now that there is room")
    actor.serving()


def serving_within(actor: NodeAgent, seconds: float) -> None:
    assert actor._told.wait(seconds), "who waits for the agent is never told"
    actor.serving()


def test_an_agent_that_serves_goes_on_where_another_lease_finds_no_room(
    address: AgentAddress, follow: Callable[[Vault], NodeAgent], monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = Vault(message(1))
    actor = follow(vault)
    actor.serving()
    with monkeypatch.context() as patched:
        patched.setattr(Agent, "take", lambda *_: (_ for _ in ()).throw(CredentialsAgentError("full")))
        vault.answers.append(message(2))
        wait_until(lambda: actor._problem is not None, 30, "the failure is noted")
        assert actor._problem is not None
        assert actor._problem.__traceback__ is None, "its frames hold the lease"
        assert address.serves()
    vault.answers.append(message(2))
    wait_until(lambda: actor._problem is None, 30, "it was tried again")


def test_a_worker_is_told_whether_the_broker_is_gone_or_out_of_reach(
    address: AgentAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = SimpleNamespace(agent_on=SimpleNamespace(remote=lambda node: None))
    for failure, words in ((UNAVAILABLE, "does not reach the broker .* for now"), (ENDED, "is gone: it ends with")):

        def get(*_: object, failure: Exception = failure, **__: object) -> Any:
            raise failure

        fake = SimpleNamespace(
            get_runtime_context=lambda: NODE,
            util=SimpleNamespace(get_node_ip_address=lambda: "10.0.0.1"),
            get_actor=lambda *_, **__: vault,
            get=get,
            exceptions=ray.exceptions,
        )
        monkeypatch.setattr(driver, "ray", fake)
        with pytest.raises(CredentialsAgentError, match=words):
            ensure_agent(address.variables("aws"))


def test_a_node_without_an_agent_can_say_so_before_the_preflight_gives_it_up() -> None:
    assert driver._AGENT_WITHIN + 15 <= preflight._ANSWER_WITHIN


# --- the driver's feeder ----------------------------------------------------------------------------


class Cluster:
    """As much of Ray as a feeder calls, and what it did with it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.connected, self.made, self.killed, self.looks = True, [], [], 0
        self.ends: list[Future[None]] = []
        fake = SimpleNamespace(
            is_initialized=self._is_initialized,
            get_runtime_context=lambda: NODE,
            remote=lambda _: SimpleNamespace(options=lambda **__: SimpleNamespace(remote=self._make)),
            kill=self.killed.append,
            exceptions=ray.exceptions,
        )
        monkeypatch.setattr(driver, "ray", fake)

    def _is_initialized(self) -> bool:
        self.looks += 1
        return self.connected

    def _make(self, *arguments: object) -> Any:
        self.made.append(arguments)
        self.ends.append(Future())
        ends = SimpleNamespace(remote=lambda: SimpleNamespace(future=lambda: self.ends[-1]))
        return SimpleNamespace(until_it_ends=ends, put=SimpleNamespace(remote=lambda *_: None))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


@pytest.fixture
def broker() -> Broker:
    keys = Secrets({"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "b"})
    return Broker(StaticKeys(keys, "keys"))


def let_go(feeder: _Feeder) -> None:
    feeder.release()
    wait_until(lambda: not feeder._running, 30, "its thread has ended")


def test_a_feeder_without_a_connection_does_not_spin(cluster: Cluster, broker: Broker) -> None:
    cluster.connected = False
    feeder = _Feeder(broker)
    feeder.hold()
    feeder.hold()
    feeder.release()
    looks = cluster.looks
    time.sleep(1.2)  # so many looks are the measure
    assert cluster.looks - looks <= 5
    let_go(feeder)


@pytest.mark.parametrize("through_client", [False, True])
def test_a_driver_elsewhere_serves_no_node(
    through_client: bool, cluster: Cluster, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "client", SimpleNamespace(is_connected=lambda: through_client))
    feeder = _Feeder(broker)
    feeder.hold()
    wait_until(lambda: cluster.made, 30, "the vault is made")
    assert cluster.made == [(broker.address, "" if through_client else NODE_ID)]
    let_go(feeder)
    assert len(cluster.killed) == 1


def test_a_vault_that_cannot_be_fed_is_not_left_behind(
    cluster: Cluster, broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(driver, "_AFTER_SURPRISE", 0.05)
    failures: list[Exception] = [CredentialsError("expired"), KeyError("planted")]
    hand_to = broker.hand_to

    def fails(take: Callable[[Lease], None]) -> Any:
        if failures:
            raise failures.pop(0)
        return hand_to(take)

    monkeypatch.setattr(broker, "hand_to", fails)
    feeder = _Feeder(broker)
    feeder.hold()
    wait_until(lambda: len(cluster.made) == 3, 30, "it goes on after what no call should raise")
    assert len(cluster.killed) == 2
    assert "tried again: KeyError" in caplog.text
    assert "planted" not in caplog.text
    let_go(feeder)
    assert len(cluster.killed) == 3


def test_a_vault_that_is_out_of_reach_makes_room_for_another(cluster: Cluster, broker: Broker) -> None:
    feeder = _Feeder(broker)
    feeder.hold()
    wait_until(lambda: broker._takers[1:], 30, "the vault is fed")
    cluster.ends[0].set_exception(UNAVAILABLE)
    wait_until(lambda: len(cluster.made) == 2, 30, "another is made")
    assert len(cluster.killed) == 1, "the first lives on, with the name"
    let_go(feeder)


def test_without_a_lease_no_vault_is_made(cluster: Cluster, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.serve_here()
    asked: list[int] = []

    def expired() -> Lease:
        asked.append(1)
        raise CredentialsError("expired")

    monkeypatch.setattr(broker, "lease", expired)
    feeder = _Feeder(broker)
    feeder.hold()
    wait_until(lambda: len(asked) > 1, 30, "it was tried again")
    assert cluster.made == []
    let_go(feeder)
