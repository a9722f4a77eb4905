"""Clocks an hour off, of a node, a file server and a store: nothing wrong is returned, nothing live is removed."""

from __future__ import annotations

import contextlib
import http.server
import os
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import ray_anystorage as anystorage
from ray_anystorage.checkpoint import node
from ray_anystorage.checkpoint.cache import NodeCache
from ray_anystorage.checkpoint.read import commit
from ray_anystorage.checkpoint.retention import find_orphans
from ray_anystorage.errors import BucketError
from ray_anystorage.home.atomic import TEMPORARY_SUFFIX, sweep_temporaries
from tests.harness.bad_endpoints import HOST, running, s3_error
from tests.harness.run_homes import Site, site
from tests.harness.saved import NAME, PART, content_of, home_in, opened, put

__all__ = ["site"]

HOUR = 3600.0  # seconds


def set_clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Put this process's clock so many seconds off, for everything here that asks Python for the time."""
    real, real_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: real() + seconds)
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(seconds * 1e9))


@pytest.mark.parametrize("off", [HOUR, -HOUR])
def test_a_clock_an_hour_off_loses_nothing_and_finds_what_is_damaged(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    put(tmp_path / "source", file=b"right", other=b"other")
    home, saver = home_in(site, "spilled")
    saver.save(str(tmp_path / "source"), PART)
    commit(home.store, NAME, "a1")
    home.snapshot(NAME)
    home.begin_only("checkpoint_2")  # a save that is under way
    with opened(home).as_directory():
        pass
    orphans = find_orphans(home.store, home.spill, named=[NAME])
    assert [(orphan.kind, orphan.name) for orphan in orphans] == [("unfinished save", "checkpoint_2")]
    set_clock(monkeypatch, off)
    for path in (*site.root.joinpath("node").rglob("*"), *site.cluster.rglob("*")):
        os.utime(path, (time.time(), time.time()))
    assert find_orphans(home.store, home.spill, named=[NAME]) == orphans
    node.current().forget_old()
    with opened(home).as_directory() as directory:
        assert content_of(directory) == content_of(tmp_path / "source")
        cached = Path(directory, "file")
        times = cached.stat()
        cached.write_bytes(b"wrong")
        os.utime(cached, ns=(times.st_atime_ns, times.st_mtime_ns))
    with opened(home).as_directory() as directory:
        assert content_of(directory) == content_of(tmp_path / "source")


@pytest.mark.parametrize("off", [HOUR, -HOUR])
def test_an_entry_that_is_read_stays_whatever_its_times_say(tmp_path: Path, off: float) -> None:
    cache = NodeCache(str(tmp_path / "cache"), share=0.0)
    used, other = cache.entry("run", "used", "a"), cache.entry("run", "other", "a")
    for entry in (used, other):
        with entry.filling():
            Path(entry.directory, "file").write_bytes(b"12345")
        for mark in ("made", "used"):
            os.utime(Path(entry.folder, mark), (time.time() + off,) * 2)
    with used.reading():
        os.utime(Path(used.folder, "used"), (time.time() + 2 * off,) * 2)
        with cache.room(cache.entry("run", "new", "a"), 10) as fits:
            assert not fits
        assert Path(used.directory, "file").read_bytes() == b"12345"
    assert not os.path.exists(other.folder)


def test_a_temporary_file_of_now_is_not_swept_by_a_clock_that_is_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, off in (("fresh", 0.0), ("stale", -HOUR)):
        path = tmp_path / f".{name}{TEMPORARY_SUFFIX}"
        path.touch()
        os.utime(path, (time.time() + off,) * 2)
    set_clock(monkeypatch, HOUR)
    assert sweep_temporaries(str(tmp_path)) == [f".stale{TEMPORARY_SUFFIX}"]


@contextlib.contextmanager
def store_an_hour_ahead() -> Iterator[str]:
    """An S3 endpoint that compares the time of each request with its own clock, which is an hour ahead, as AWS does."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            signed = datetime.strptime(self.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
            now = datetime.now(timezone.utc) + timedelta(hours=1)
            late = now - signed > timedelta(minutes=15)
            said = "The difference between the request time and the current time is too large."
            body = s3_error("RequestTimeTooSkewed" if late else "InternalError", said).encode()
            self.send_response_only(403 if late else 500)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815 - names of the base class

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with running(http.server.ThreadingHTTPServer((HOST, 0), Handler)) as url:
        yield url


def test_a_store_whose_clock_is_an_hour_off_is_a_clear_error(site: Site, tmp_path: Path) -> None:
    put(tmp_path / "source", file=b"small")
    with store_an_hour_ahead() as endpoint:
        site.environment.setenv("RAY_ANYSTORAGE_ENDPOINT", endpoint)
        home, saver = home_in(site, "bucket")
        for action in (
            lambda: anystorage.run_config("run", tier="artifact", credentials="env"),
            lambda: saver.save(str(tmp_path / "source"), PART),
            opened(home).contents,
            lambda: home.store.begin("large", 100).part(0, 0, b"x" * 100),
        ):
            with pytest.raises(BucketError, match=r"RequestTimeTooSkewed(.|\n)*Set this node's clock"):
                action()
