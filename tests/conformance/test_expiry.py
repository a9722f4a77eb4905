"""Keys that end in the middle of a transfer: what renews itself goes on, what does not ends at once and says so."""

from __future__ import annotations

import contextlib
import itertools
import json
import pickle
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ray_anystorage import errors
from ray_anystorage.checkpoint.retention import find_orphans, remove
from ray_anystorage.credentials.grant import Grant
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.environment import BucketAddress
from ray_anystorage.testing.s3_server import S3Server
from ray_anystorage.testing.store_files import incoming, same_content, transfer_threads, write_files
from ray_anystorage.transfer.budget import Budget
from ray_anystorage.transfer.digest import CHUNK_BYTES
from ray_anystorage.transfer.engine import download, upload
from ray_anystorage.transfer.posix_store import PosixStore
from ray_anystorage.transfer.retry import Patience
from ray_anystorage.transfer.s3_store import S3Store
from tests.harness.faulty_proxy import Fault, FaultyProxy
from tests.harness.faulty_store import proxy

__all__ = ["proxy"]

QUICK = Patience(first_delay=0.01, longest_delay=0.1)
SIZES = {f"small/{i}": 10_000 + i for i in range(6)} | {"large.bin": 3 * CHUNK_BYTES + 17}
LATER = "2099-01-01T00:00:00Z"
Session = dict[str, str]


def soon() -> str:
    return (datetime.now(timezone.utc) + timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Source:
    """Where a store gets its keys: what it holds now, how often it was asked, and the variables that lead to it."""

    variables: tuple[tuple[str, str], ...]
    hold: Callable[[Session], None]
    asked: list[int] = field(default_factory=list)


@contextlib.contextmanager
def agent(expiration: str, made: Iterator[Session] | None = None) -> Iterator[Source]:
    """What a container's credentials endpoint is: keys over HTTP on loopback, and when they expire.

    It gives those that it holds, or with ``made`` others each time.
    """
    held: Session = {}
    asked: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(1)
            held.update(next(made) if made is not None else {})
            names = {"AccessKeyId": "ACCESS_KEY_ID", "SecretAccessKey": "SECRET_ACCESS_KEY", "Token": "SESSION_TOKEN"}
            body = {name: held[f"AWS_{variable}"] for name, variable in names.items()} | {"Expiration": expiration}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/keys"
        yield Source((("AWS_CONTAINER_CREDENTIALS_FULL_URI", url),), held.update, asked)
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def profile(folder: Path) -> Iterator[Source]:
    """A file of keys that something outside keeps fresh."""
    file = folder / "credentials"

    def hold(session: Session) -> None:
        names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
        file.write_text("[default]\n" + "".join(f"{name} = {session[name.upper()]}\n" for name in names))

    yield Source((("AWS_SHARED_CREDENTIALS_FILE", str(file)), ("AWS_CONFIG_FILE", str(folder / "none"))), hold)


@pytest.fixture(params=["agent", "agent that tells", "profile"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    """A source of keys that renews itself."""
    kinds = {
        "agent": lambda: agent(LATER),
        "agent that tells": lambda: agent(soon()),
        "profile": lambda: profile(tmp_path),
    }
    with kinds[request.param]() as opened:
        yield opened


def store_of(proxy: FaultyProxy, server: S3Server, bucket: str, grant: Grant) -> S3Store:
    return S3Store(BucketAddress("s3", bucket, "run", server.region, proxy.endpoint), grant)


def after(method: str, count: int, act: Callable[[], None]) -> Callable[[str, str], Fault | None]:
    """A rule that fails nothing, and acts when so many requests with bodies to move have come."""
    numbers = itertools.count(1)

    def rule(seen: str, path: str) -> Fault | None:
        if seen == method and next(numbers) == count:
            act()
        return None

    return rule


def test_a_source_that_renews_itself_carries_a_transfer_over_the_end_of_its_keys(
    source: Source, proxy: FaultyProxy, s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    sessions = [s3_server.session_env(lifetime=3600) for _ in range(3)]
    source.hold(sessions[0])
    store = store_of(proxy, s3_server, bucket, Grant("reference", "the test's source", "test", source.variables))
    files = write_files(tmp_path / "source", SIZES)

    def end(number: int) -> None:
        source.hold(sessions[number + 1])
        proxy.expired.add(sessions[number]["AWS_ACCESS_KEY_ID"])

    budget = Budget(first_requests=2)
    proxy.rule = after("PUT", 3, lambda: end(0))
    stored = upload(store, files, budget=budget, patience=QUICK)
    assert sessions[0]["AWS_ACCESS_KEY_ID"] in proxy.expired
    proxy.rule = after("GET", 3, lambda: end(1))
    download(store, incoming(stored, tmp_path / "target"), budget=budget, patience=QUICK)
    assert sessions[1]["AWS_ACCESS_KEY_ID"] in proxy.expired
    assert proxy.faults["expired"] > 0
    assert same_content(files, tmp_path / "target")
    assert list(store.unfinished("")) == []
    store.close()


def test_a_source_that_makes_keys_each_time_is_believed_once(
    proxy: FaultyProxy, s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    sessions = [s3_server.session_env(lifetime=3600) for _ in range(4)]
    proxy.expired |= {session["AWS_ACCESS_KEY_ID"] for session in sessions}
    with agent(LATER, iter(sessions)) as source:
        store = store_of(proxy, s3_server, bucket, Grant("reference", "the test's source", "test", source.variables))
        with pytest.raises(errors.ExpiredTokenError):
            upload(store, write_files(tmp_path / "source", {"f": 1000}), patience=QUICK)
        assert len(source.asked) == 2
        assert proxy.requests["PUT"] < 20  # obstore signs with the first ones for another moment
    store.close()


def test_keys_that_nobody_renews_end_it_at_once_and_a_later_sweep_removes_what_is_left(
    proxy: FaultyProxy, s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    session = s3_server.session_env(lifetime=3600)
    keys = {name: value for name, value in session.items() if name.startswith("AWS_") and sounds_like_a_key(name)}
    store = store_of(proxy, s3_server, bucket, Grant("env", "the test's session", "test", (), Secrets(keys)))
    proxy.rule = after("PUT", 3, lambda: proxy.expired.add(session["AWS_ACCESS_KEY_ID"]))
    budget = Budget(requests=2)
    files = write_files(tmp_path / "source", {"checkpoint_1/large.bin": 6 * CHUNK_BYTES})
    with pytest.raises(errors.ExpiredTokenError, match="Get a new session") as caught:
        upload(store, files, budget=budget)
    assert isinstance(caught.value, PermissionError)
    assert budget.retries == 0
    assert proxy.faults["expired"] <= 3, "more than the two requests under way and the abort"
    assert transfer_threads() == []
    said = f"{caught.value!s} {caught.value!r}".encode() + pickle.dumps(caught.value)
    assert not [name for name, value in keys.items() if value.encode() in said]
    store.close()

    good = {"AWS_ACCESS_KEY_ID": s3_server.access_key, "AWS_SECRET_ACCESS_KEY": s3_server.secret_key}
    spill = store_of(proxy, s3_server, bucket, Grant("env", "the test's keys", "test", (), Secrets(good)))
    home = PosixStore(str(tmp_path / "home"))
    (orphan,) = find_orphans(home, spill, named=())
    assert (orphan.kind, orphan.name, orphan.certain) == ("unfinished upload", "checkpoint_1/large.bin", True)
    remove(orphan, [home, spill])
    assert list(spill.unfinished("")) == []
    spill.close()


def sounds_like_a_key(name: str) -> bool:
    return name.endswith(("_KEY_ID", "_ACCESS_KEY", "_TOKEN"))
