"""The agent of a broker, over real HTTP: who gets the lease, who does not, and what is left after its end."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from ray_anystorage.credentials import agent as agent_module
from ray_anystorage.credentials import guardian
from ray_anystorage.credentials.agent import Agent, is_ours
from ray_anystorage.credentials.agent_address import AgentAddress, address_in, new_address
from ray_anystorage.credentials.lease import UNLIMITED_FOR, Kind, Lease
from ray_anystorage.credentials.memory_folder import MemoryFolder, memory_root
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.errors import CredentialsAgentError
from tests.harness.waiting import wait_until

TOKEN = "the-token-of-this-broker"
KEYS = {"AccessKeyId": "AKPLANTED", "SecretAccessKey": "planted/Secret+Value"}
GOOGLE = Lease("google", Secrets({"document": '{"type": "service_account", "private_key": "planted"}'}))
AZURE = Lease("azure", Secrets({"sas_token": "sig=planted"}), 4070908800.0)


def lease(expires_in: float | None = None) -> Lease:
    return Lease("aws", Secrets(KEYS), None if expires_in is None else time.time() + expires_in)


@pytest.fixture
def address() -> AgentAddress:
    free, held = new_address(memory_root())
    held.close()
    return free


@pytest.fixture
def agent(address: AgentAddress) -> Iterator[Agent]:
    served = Agent(address, TOKEN)
    served.start()
    yield served
    served.close()


def talk(port: int, said: bytes, host: str = "127.0.0.1") -> bytes:
    """What comes back until the agent closes the connection."""
    with socket.create_connection((host, port), timeout=5) as connection:
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def request(
    address: AgentAddress, *fields: str, method: str = "GET", path: str | None = None, host: str = "127.0.0.1:80"
) -> bytes:
    lines = [f"{method} {path or address.path} HTTP/1.1", *([f"Host: {host}"] if host else []), *fields]
    return "\r\n".join([*lines, "", ""]).encode()


def status(answer: bytes) -> int:
    return int(answer.split(b" ")[1])


def test_who_has_the_token_gets_the_lease(agent: Agent, address: AgentAddress) -> None:
    agent.take(lease(expires_in=90))
    answer = talk(address.port, request(address, f"Authorization: {TOKEN}"))
    given = json.loads(answer.partition(b"\r\n\r\n")[2])
    left = time.mktime(time.strptime(given.pop("Expiration"), "%Y-%m-%dT%H:%M:%SZ")) - time.timezone - time.time()
    assert 80 < left <= 90
    assert (status(answer), given) == (200, {**KEYS, "Token": ""})


def test_keys_without_an_end_are_given_for_a_while(agent: Agent, address: AgentAddress) -> None:
    agent.take(lease())
    answer = talk(address.port, request(address, f"Authorization: {TOKEN}"))
    end = json.loads(answer.partition(b"\r\n\r\n")[2])["Expiration"]
    left = time.mktime(time.strptime(end, "%Y-%m-%dT%H:%M:%SZ")) - time.timezone - time.time()
    assert UNLIMITED_FOR - 10 < left <= UNLIMITED_FOR


REFUSED = {
    "no token": (401, {"fields": ()}),
    "another token": (401, {"fields": ("Authorization: another",)}),
    "its beginning": (401, {"fields": (f"Authorization: {TOKEN[:-1]}",)}),
    "as bearer": (401, {"fields": (f"Authorization: Bearer {TOKEN}",)}),
    "twice": (400, {"fields": (f"Authorization: {TOKEN}", "Authorization: other")}),
    "another path": (404, {"path": "/"}),
    "a path below": (404, {"below": "/x"}),
    "a query": (404, {"below": "?x=1"}),
    "POST": (405, {"method": "POST"}),
    "HEAD": (405, {"method": "HEAD"}),
    "lower case": (405, {"method": "get"}),
    "a name that leads here": (404, {"host": "evil.example:80"}),
    "no host": (404, {"host": ""}),
    "a body": (400, {"fields": (f"Authorization: {TOKEN}", "Content-Length: 5")}),
    "chunks": (400, {"fields": (f"Authorization: {TOKEN}", "Transfer-Encoding: chunked")}),
}


@pytest.mark.parametrize("what", list(REFUSED))
def test_all_else_is_refused_without_a_word(what: str, agent: Agent, address: AgentAddress) -> None:
    agent.take(lease())
    expected, how = REFUSED[what]
    fields = how.pop("fields", (f"Authorization: {TOKEN}",))
    if "below" in how:
        how["path"] = address.path + str(how.pop("below"))
    answer = talk(address.port, request(address, *fields, **how))  # type: ignore[arg-type]
    assert status(answer) == expected
    assert answer.partition(b"\r\n\r\n")[2] == b""
    assert status(talk(address.port, request(address, f"Authorization: {TOKEN}"))) == 200, "the control"


def test_it_is_on_one_address_alone(agent: Agent, address: AgentAddress) -> None:
    agent.take(lease())
    others = {"127.0.0.2", "::1", *(info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None))}
    for other in others - {"127.0.0.1"}:
        with pytest.raises(OSError, match=r"refused|unreachable|assign|not supported"):
            talk(address.port, b"GET / HTTP/1.1\r\n\r\n", str(other))


OTHER_USER = """
import http.client, sys
port, path, token_file = sys.argv[1:]
try:
    open(token_file).read()
except PermissionError:
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=5)
    connection.request("GET", path)
    answer = connection.getresponse()
    print(answer.status, len(answer.read()))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="to be another user takes root")
def test_another_user_of_the_host_reads_no_token_and_gets_nothing_without_one(
    agent: Agent, address: AgentAddress
) -> None:
    agent.take(lease())
    token_file = address.variables("aws")["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]
    assert Path(token_file).read_text() == TOKEN
    system_python = "/usr/bin/python3"  # one that another user may run
    if not os.access(system_python, os.X_OK):
        pytest.skip(f"there is no {system_python}, and this one may lie where another user does not come")
    done = subprocess.run(
        [system_python, "-I", "-c", OTHER_USER, str(address.port), address.path, token_file],
        user=65534,
        group=65534,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    code, _, size = done.stdout.partition(" ")
    assert code in ("401", "403", "404"), done.stdout + done.stderr
    assert KEYS["SecretAccessKey"] not in done.stdout
    assert int(size) < 50


@pytest.mark.parametrize("given", [None, -5.0])
def test_without_a_lease_that_holds_it_says_why(given: float | None, agent: Agent, address: AgentAddress) -> None:
    if given is not None:
        agent.take(lease(expires_in=given))
    answer = talk(address.port, request(address, f"Authorization: {TOKEN}"))
    assert status(answer) == 503
    assert (b"has not given any" if given is None else b"expired at") in answer
    assert b"planted" not in answer
    assert not address.serves()
    agent.take(lease())
    assert address.serves()


def test_a_connection_is_used_again(agent: Agent, address: AgentAddress) -> None:
    agent.take(lease())
    answer = talk(address.port, 5 * request(address, f"Authorization: {TOKEN}"))
    assert answer.count(b"HTTP/1.1 200 OK") == 5


def test_noise_does_not_end_it(agent: Agent, address: AgentAddress) -> None:
    agent.take(lease())
    chance = random.Random(4)
    right = request(address, f"Authorization: {TOKEN}")
    for number in range(400):
        noise = bytearray(right if number % 2 else chance.randbytes(chance.randrange(1, 2000)))
        for _ in range(chance.randrange(1, 6)):
            noise[chance.randrange(len(noise))] = chance.randrange(256)
        answer = talk(address.port, bytes(noise) + (b"\r\n\r\n" if number % 3 else b""))
        assert not answer or status(answer) in (200, 400, 401, 404, 405), answer
    assert talk(address.port, b"a" * 100_000 + b"\r\n\r\n") == b""
    assert status(talk(address.port, right)) == 200


def test_who_is_slow_is_let_go(agent: Agent, address: AgentAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "_PATIENCE", 0.2)
    monkeypatch.setattr(agent_module, "_CALLERS", 8)
    agent.take(lease())
    held = [socket.create_connection(("127.0.0.1", address.port), timeout=5) for _ in range(8)]
    for connection in held:
        with contextlib.suppress(ConnectionResetError), connection:
            connection.sendall(b"GET ")
            assert connection.recv(1) == b"", "it was not let go"
    wait_until(address.serves, 30, "the agent answers again")


CALLERS = """
import socket, sys, threading, time
port, text, until = int(sys.argv[1]), sys.argv[2].encode(), time.monotonic() + float(sys.argv[3])
counts, wrong = [], []

def call():
    count = 0
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        while time.monotonic() < until:
            connection.sendall(text)
            answer = connection.recv(65536)
            wrong.extend([] if b" 200 OK" in answer and b"Expiration" in answer else [answer])
            count += 1
    counts.append(count)

callers = [threading.Thread(target=call) for _ in range(4)]
for caller in callers:
    caller.start()
for caller in callers:
    caller.join()
print(sum(counts), len(wrong))
"""


@pytest.mark.parametrize("seconds", [1.0, pytest.param(10.0, marks=pytest.mark.soak)])
def test_a_thousand_requests_a_second(seconds: float, agent: Agent, address: AgentAddress) -> None:
    agent.take(lease())
    text = request(address, f"Authorization: {TOKEN}").decode()
    command = [sys.executable, "-c", CALLERS, str(address.port), text, str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    answered, wrong = map(int, done.stdout.split())
    assert wrong == 0
    assert answered > 1000 * seconds


def test_nothing_is_logged(agent: Agent, address: AgentAddress, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        agent.take(lease())
        for said in (request(address), request(address, f"Authorization: {TOKEN}"), b"\0" * 50 + b"\r\n\r\n"):
            talk(address.port, said)
    assert caplog.text == ""


def test_it_ends_without_a_word_about_who_is_still_connected(
    address: AgentAddress, caplog: pytest.LogCaptureFixture
) -> None:
    served = Agent(address, TOKEN)
    served.start(lease())
    with socket.create_connection(("127.0.0.1", address.port), timeout=5) as kept:
        kept.sendall(request(address, f"Authorization: {TOKEN}"))
        assert status(kept.recv(65536)) == 200
        served.close()
        assert kept.recv(1) == b""
    assert caplog.text == ""


# --- the folder -------------------------------------------------------------------------------------


def test_its_files_are_private_and_end_with_it(address: AgentAddress) -> None:
    agent = Agent(address, TOKEN)
    agent.start()
    agent.take(GOOGLE)
    folder = Path(address.folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {
        "token": 0o600,
        "google.json": 0o600,
    }
    assert (folder / "google.json").read_bytes() == GOOGLE.files()["google.json"]
    agent.take(AZURE)
    file = folder / "azure.json"
    assert (stat.S_IMODE(file.stat().st_mode), json.loads(file.read_text())) == (
        0o600,
        {"sas_token": "sig=planted", "expires_at": 4070908800.0},
    )
    before = file.stat().st_ino
    agent.take(AZURE)
    assert file.stat().st_ino != before, "a reader may have it open"
    assert talk(address.port, request(address, f"Authorization: {TOKEN}")).startswith(b"HTTP/1.1 204 ")
    assert address.serves()
    agent.close()
    assert not folder.exists()
    agent.close()


AGENT = """
import sys, time
from ray_anystorage.credentials.agent import Agent
from ray_anystorage.credentials.agent_address import AgentAddress
from ray_anystorage.credentials.lease import Lease
from ray_anystorage.credentials.redact import Secrets
agent = Agent(AgentAddress(sys.argv[1], sys.argv[2]), "token-by-argument")
agent.start()
agent.take(Lease("aws", Secrets({"AccessKeyId": "a", "SecretAccessKey": "b"})))
if "fork" in sys.argv:
    import os
    child = os.fork()
    if child == 0:
        time.sleep(60)
    print(child, flush=True)
print("ready", flush=True)
time.sleep(60)
"""


def start(address: AgentAddress, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", AGENT, address.broker, address.root, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_nothing_is_left_of_an_agent_that_is_killed(address: AgentAddress) -> None:
    process = start(address)
    assert said(process) == "ready"
    assert address.serves()
    guardians = guardians_of(address)
    assert len(guardians) == 1
    (environ, command) = guardians[0]
    assert (environ, TOKEN.encode() in command) == (b"", False)
    process.kill()
    process.wait()
    wait_until(lambda: not Path(address.folder).exists(), 30, "the folder is removed")
    wait_until(lambda: not guardians_of(address), 30, "the guardian has ended")


def guardians_of(address: AgentAddress) -> list[tuple[bytes, bytes]]:
    """Environment and command line of each process that guards the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if b"guardian.py" in command and address.folder.encode() in command:
                found.append(((entry / "environ").read_bytes(), command))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_an_agent_that_comes_back_keeps_the_folder(address: AgentAddress) -> None:
    for _ in range(3):
        process = start(address)
        assert said(process) == "ready"
        process.kill()
        process.wait()
    with_the_same = Agent(address, TOKEN)
    with_the_same.start()
    with_the_same.take(lease())
    wait_until(lambda: len(guardians_of(address)) == 1, 30, "the guardians of those that were killed are gone")
    assert address.serves(), "a guardian removed what was not its own's any more"
    with_the_same.close()


def test_a_child_that_was_forked_does_not_hold_it(address: AgentAddress) -> None:
    process = start(address, "fork")
    child = int(said(process))
    try:
        assert said(process) == "ready"
        process.kill()
        process.wait()
        wait_until(lambda: not Path(address.folder).exists(), 30, "the folder is removed")
        Agent(address, TOKEN).close()
    finally:
        os.kill(child, signal.SIGKILL)


def test_secrets_are_never_written_to_a_disk(tmp_path: Path) -> None:
    disk = Path(__file__).parent if str(tmp_path).startswith("/dev/shm") else tmp_path
    with pytest.raises(CredentialsAgentError, match="never written to a disk"):
        MemoryFolder(str(disk / "anystorage-1"))
    assert not (disk / "anystorage-1").exists()


def test_a_folder_that_others_could_read_is_refused(address: AgentAddress, tmp_path: Path) -> None:
    folder = Path(address.folder)
    folder.mkdir(mode=0o755)
    try:
        with pytest.raises(CredentialsAgentError, match="mode 755"):
            MemoryFolder(address.folder)
        folder.rmdir()
        folder.symlink_to(tmp_path)
        with pytest.raises(CredentialsAgentError, match="is not a folder of this package's"):
            MemoryFolder(address.folder)
    finally:
        folder.unlink() if folder.is_symlink() else folder.rmdir()
    assert list(tmp_path.iterdir()) == []


def descriptors() -> int:
    gc.collect()  # what earlier tests left may end at any time
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("what", ["__file__", "executable"])
def test_without_a_guardian_nothing_is_left_and_the_port_is_free(
    what: str, address: AgentAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = descriptors()
    monkeypatch.setattr(guardian if what == "__file__" else sys, what, "/nowhere/there")
    kept = []  # an error that is kept keeps what its frames hold
    for _ in range(2):
        with pytest.raises(CredentialsAgentError, match="no process can be started that would remove") as caught:
            Agent(address, TOKEN)
        kept.append(caught)
    assert not Path(address.folder).exists()
    assert descriptors() <= held


def test_a_folder_that_cannot_be_made_or_written_to_is_named(address: AgentAddress) -> None:
    with pytest.raises(CredentialsAgentError, match="cannot be made"):
        MemoryFolder(f"{address.folder}/deeper/still")
    folder = MemoryFolder(address.folder)
    os.rmdir(address.folder)
    with pytest.raises(CredentialsAgentError, match=r"token cannot be written: No such file(.|\n)*df /dev/shm"):
        folder.write("token", b"planted")
    folder.close()


def test_an_agent_that_cannot_start_is_closed(address: AgentAddress) -> None:
    held = descriptors()
    agent = Agent(address, TOKEN)
    os.rmdir(address.folder)
    with pytest.raises(CredentialsAgentError, match="cannot be written"):
        agent.start()
    assert descriptors() <= held
    Agent(address, TOKEN).close()


# --- ports ------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_named(agent: Agent, address: AgentAddress) -> None:
    with pytest.raises(CredentialsAgentError, match=f"port {address.port} of 127.0.0.1 on node {socket.gethostname()}"):
        Agent(address, TOKEN)
    assert Path(address.folder, "token").exists(), "the other's folder was touched"
    assert is_ours(address)


def test_a_stranger_on_the_port_is_not_shown_the_token(address: AgentAddress) -> None:
    if os.geteuid() != 0:
        pytest.skip("a port of another user's needs root")
    os.seteuid(65534)
    try:
        stranger = socket.create_server(("127.0.0.1", address.port))
    finally:
        os.seteuid(0)
    folder = MemoryFolder(address.folder)
    folder.write("token", TOKEN.encode())
    with stranger:
        stranger.setblocking(False)
        assert not is_ours(address)
        with pytest.raises(BlockingIOError):
            stranger.accept()
    folder.close()


def test_the_address_is_found_in_the_variables(address: AgentAddress) -> None:
    for kind in get_args(Kind):
        variables = {"AWS_REGION": "r", **address.variables(kind)}
        assert address_in(variables) == address
        assert [other for other in get_args(Kind) if address_in(variables, other)] == [kind]
    aws = address.variables("aws")
    assert address_in({}) is None
    assert address_in({**aws, "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.2/x"}) is None
    assert address_in({"GOOGLE_APPLICATION_CREDENTIALS": "/home/me/anystorage-key/google.json"}) is None


def test_the_port_follows_no_seed_of_the_users() -> None:
    random.seed(42)
    state, ports = random.getstate(), set()
    for _ in range(4):
        random.setstate(state)
        address, held = new_address("/nowhere")
        held.close()
        ports.add(address.port)
    assert len(ports) > 1
    assert random.getstate() == state
