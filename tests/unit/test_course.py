"""The timeline of checkpoints: what is kept of their times, and how it is drawn."""

from __future__ import annotations

import json
import time

import pytest

from ray_anystorage.checkpoint.course import Course, Handed
from ray_anystorage.checkpoint.manifest import Manifest, read_manifest
from ray_anystorage.checkpoint.record import Record, read_record
from ray_anystorage.checkpoint.sealed import seal
from ray_anystorage.cli.timeline import show, timeline_dict
from ray_anystorage.errors import ManifestError
from ray_anystorage.timeline import RankLine, Timeline
from ray_anystorage.transfer.digest import ALGORITHM, CHUNK_BYTES

NOON = 1_800_000_000.0


def manifest(course: Course | None) -> Manifest:
    return Manifest("a1", 0, 2, None, ALGORITHM, CHUNK_BYTES, (), course=course)


def resealed(content: bytes, **changes: object) -> bytes:
    values = {name: value for name, value in json.loads(content).items() if name != "sum"}
    for name, value in changes.items():
        if value is None:
            del values[name]
        else:
            values[name] = value
    return seal(values)


def test_times_read_back_to_the_millisecond() -> None:
    course = Course(NOON + 0.125, 0.0625, 1.5, 2.75)
    written = manifest(course)
    assert read_manifest(written.name, written.to_bytes()).course == Course(NOON + 0.125, 0.062, 1.5, 2.75)
    assert read_record(Record("a1", (0,), 1, 5, committed=NOON + 3).to_bytes()).committed == NOON + 3


def test_what_earlier_versions_wrote_has_no_times_and_is_read() -> None:
    written = manifest(Course(NOON, 0, 1, 2))
    old = resealed(written.to_bytes(), course=None)
    assert b"course" not in old
    assert read_manifest(written.name, old) == manifest(None)
    record = resealed(Record("a1", (0,), 1, 5, committed=NOON).to_bytes(), committed=None)
    assert read_record(record) == Record("a1", (0,), 1, 5)


@pytest.mark.parametrize(
    "course", [5, [1, 2], ["a", 1, 2, 3], {"queued": 1}, [1, 2, 3, -1], [1e12, 1, 2, 3], [float("nan"), 1, 2, 3]]
)
def test_times_that_are_none_are_no_manifest(course: object) -> None:
    written = manifest(Course(NOON, 0, 1, 2))
    with pytest.raises(ManifestError):
        read_manifest(written.name, resealed(written.to_bytes(), course=course))


def test_a_record_of_no_time_is_no_record() -> None:
    with pytest.raises(ManifestError):
        read_record(resealed(Record("a1", (0,), 1, 5).to_bytes(), committed=float("inf")))


def test_a_clock_that_is_set_changes_no_duration(monkeypatch: pytest.MonkeyPatch) -> None:
    handed = Handed.at(time.monotonic() - 2)
    assert handed.queued == pytest.approx(time.time() - 2, abs=0.5)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    course = handed.course(handed.since + 3, handed.since + 7)
    assert (course.begun, course.sent) == pytest.approx((3, 7))
    assert course.staged == pytest.approx(2, abs=0.5)


def two_ranks(committed: float) -> Timeline:
    near = RankLine(0, 8 << 20, "run home", None, Course(NOON, 1, 3, 6))
    far = RankLine(1, 8 << 20, "bucket", "the run home failed: no space", Course(NOON + 2, 0, 0, 6))
    return Timeline("checkpoint_1", 2, committed, (near, far))


def test_each_phase_is_drawn_on_one_scale(capsys: pytest.CaptureFixture[str]) -> None:
    show([two_ranks(NOON + 12), Timeline("checkpoint_0", 1, None, (RankLine(0, 5, "bucket", None, None),))])
    shown = capsys.readouterr().out
    near, far = (line for line in shown.splitlines() if "MB" in line and "rank" in line)
    assert "▒▒░░█████▓▓▓▓▓▓▓▓▓" in near
    assert "   █████████▓▓▓▓▓▓" in far, "two seconds later than the first"
    assert [near.split()[-8:], far.split()[-8:]] == [
        ["1.0", "s", "2.0", "s", "3.0", "s", "6.0", "s"],
        ["0", "ms", "0", "ms", "6.0", "s", "4.0", "s"],
    ]
    assert "bucket !" in far
    assert "no space" in shown
    assert "saved without times" in shown
    assert "clocks may differ" in " ".join(shown.split())
    assert "by at least" not in shown


def test_a_commit_before_what_it_commits_says_that_clocks_differ(capsys: pytest.CaptureFixture[str]) -> None:
    odd = two_ranks(NOON + 5)
    assert odd.skew == 3, "the far rank's data was sent eight seconds after the first one's was queued"
    assert odd.end == NOON + 8
    show([odd])
    assert "Some do by at least 3.0 s" in capsys.readouterr().out
    assert timeline_dict(odd)["clocks_differ_by"] == 3
    assert timeline_dict(odd)["ranks"][1] == {
        "rank": 1,
        "size": 8 << 20,
        "place": "bucket",
        "detour": "the run home failed: no space",
        "queued": "2027-01-15T08:00:02.000+00:00",
        "staged": 0,
        "begun": 0,
        "sent": 6,
    }


def test_without_any_times_nothing_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    show([Timeline("checkpoint_0", 1, None, (RankLine(0, 5, "bucket", None, None),))])
    assert "Nothing is known" in capsys.readouterr().out
