"""``ray-anystorage verify`` and ``prune`` on run homes in a directory and in a real S3 server."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ray_anystorage.checkpoint.audit import Finding, audit
from ray_anystorage.checkpoint.ownership import Owner, own_spill
from ray_anystorage.checkpoint.quarantine import quarantine
from ray_anystorage.checkpoint.read import read_contents
from ray_anystorage.checkpoint.restore import Sources
from ray_anystorage.checkpoint.retention import delete_checkpoint
from ray_anystorage.cli.main import main
from ray_anystorage.errors import CheckpointCorruptedError, ManifestError, RequestError, RunTakenOverError
from ray_anystorage.runs import find_run
from ray_anystorage.transfer.posix_store import PosixStore
from tests.harness.run_homes import FOLDER, SNAPSHOT, Home, Site, site

__all__ = ["site"]


def run(*arguments: str, expect: int = 0, answer: Any = None) -> str:
    done = CliRunner().invoke(main, arguments, input=answer)
    assert done.exit_code == expect, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.output if expect else done.stdout  # Ray, too, writes into the other, at any time


def run_json(*arguments: str, expect: int = 0) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(run(*arguments, "--json", expect=expect))
    return answer


def unwrapped(text: str) -> str:
    return " ".join(text.split())


def states(answer: dict[str, Any]) -> dict[str, str]:
    return {finding["checkpoint"]: finding["state"] for finding in answer["checkpoints"]}


def found(answer: dict[str, Any], what: str = "found") -> set[tuple[str, str]]:
    return {(orphan["kind"], f"{orphan['place']}/{orphan['name']}") for orphan in answer[what]}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[50_000] ^= 1
    path.write_bytes(content)


# --- finding a run --------------------------------------------------------------------------------


def test_a_run_is_found_by_its_name_path_and_uri(site: Site) -> None:
    mount, bucket = site.on_mount("on-mount"), site.in_bucket("in-bucket")
    for home in (mount, bucket):
        home.save("checkpoint_1")
        home.snapshot("checkpoint_1")
    by_name = find_run("on-mount")
    assert mount.spill is not None
    assert (by_name.tier, by_name.uri) == ("cluster", str(site.cluster / "on-mount"))
    assert by_name.spill is not None
    assert by_name.spill.uri == mount.spill.uri
    assert find_run(by_name.uri) == by_name
    in_bucket = find_run("in-bucket")
    assert (in_bucket.tier, in_bucket.spill) == ("artifact", None)
    assert in_bucket.uri == f"s3://{site.bucket}/{FOLDER}/in-bucket"
    assert find_run(in_bucket.uri) == in_bucket


def test_a_run_that_is_not_there_is_said_with_the_places(site: Site) -> None:
    text = run("verify", "none", expect=2)
    assert f"cluster: {site.cluster}/none" in text
    assert f"artifact: s3://{site.bucket}/{FOLDER}/none" in text
    assert "nowhere/USER" in text
    assert "there is no run at" in run("prune", str(site.cluster / "none"), expect=2)


def test_two_homes_are_told_apart_by_their_paths(site: Site) -> None:
    for home in (site.on_mount(), site.in_bucket()):
        home.save("checkpoint_1")
        home.snapshot("checkpoint_1")
    said = unwrapped(run("verify", "run", expect=1))
    assert f"s3://{site.bucket}/{FOLDER}/run (artifact storage)" in said
    run("verify", str(site.cluster / "run"))


def test_a_checkpoint_is_no_run(site: Site) -> None:
    site.on_mount().save("checkpoint_1")
    with pytest.raises(RequestError, match="is a checkpoint: expected the home of a run"):
        find_run(str(site.cluster / "run" / "checkpoint_1"))
    with pytest.raises(RequestError, match="expected a name, an absolute path"):
        find_run("run/checkpoint_1")


# --- verify ---------------------------------------------------------------------------------------


def test_good_checkpoints_are_good_wherever_they_lie(site: Site) -> None:
    home = site.on_mount()
    home.save("checkpoint_inline", ranks=2)
    home.save("checkpoint_spilled", spilled=True, detour="the run home failed: no space")
    home.snapshot("checkpoint_inline", "checkpoint_spilled")
    answer = run_json("verify", home.store.uri)
    assert states(answer) == {"checkpoint_inline": "ok", "checkpoint_spilled": "ok"}
    assert answer["totals"] == {
        "checkpoints": 2, "ok": 2, "not_verifiable": 0, "bad": 0, "bytes": 300_000, "detours": 1
    }  # fmt: skip
    inline, spilled = answer["checkpoints"]
    assert home.spill is not None
    assert (inline["ranks"], inline["bytes_per_second"]) == (2, 400_000)
    assert spilled["places"] == [f"{home.spill.uri}/checkpoint_spilled"]
    text = run("verify", home.store.uri)
    assert "run home" in text
    assert "bucket" in text
    assert "the data of a rank lies elsewhere than planned: the run home failed: no space" in unwrapped(text)
    assert "400 kB/s" in text
    bucket = site.in_bucket("other")
    bucket.save("checkpoint_1", ranks=2)
    bucket.snapshot("checkpoint_1")
    assert states(run_json("verify", bucket.store.uri)) == {"checkpoint_1": "ok"}


def test_a_flipped_bit_is_found_marked_and_the_mark_is_lifted_when_it_is_mended(site: Site) -> None:
    home = site.on_mount()
    home.save("checkpoint_1")
    home.save("checkpoint_2")
    home.snapshot("checkpoint_1", "checkpoint_2")
    path = site.cluster / "run" / "checkpoint_2" / "rank-0.bin"
    flip(path)
    assert states(run_json("verify", home.store.uri, "--sizes"))["checkpoint_2"] == "ok"
    answer = run_json("verify", home.store.uri, expect=1)
    assert states(answer) == {"checkpoint_1": "ok", "checkpoint_2": "damaged"}
    assert answer["checkpoints"][1]["mark"] == "set"
    assert "rank-0.bin" in answer["checkpoints"][1]["reason"]
    with pytest.raises(CheckpointCorruptedError):
        read_contents(home.store, "checkpoint_2")
    flip(path)
    assert states(run_json("verify", home.store.uri, "--sizes", expect=1))["checkpoint_2"] == "damaged", (
        "sizes prove nothing"
    )
    text = run("verify", home.store.uri)
    assert "checkpoint_2: was marked as damaged before and is good: the mark is lifted" in unwrapped(text)
    assert read_contents(home.store, "checkpoint_2").size == 100_000
    assert "lifted" not in run("verify", home.store.uri)


@pytest.mark.parametrize("spilled", [False, True], ids=["home in the bucket", "spilled"])
def test_what_is_wrong_in_a_bucket_is_found(site: Site, spilled: bool) -> None:
    home = site.on_mount() if spilled else site.in_bucket()
    for name in ("checkpoint_1", "checkpoint_2", "checkpoint_3"):
        home.save(name, spilled=spilled)
    home.snapshot("checkpoint_1", "checkpoint_2", "checkpoint_3")
    data = home.spill if spilled else home.store
    assert data is not None
    content = bytearray(home.saved["checkpoint_1"]["rank-0.bin"])
    content[7] ^= 1
    data.write_small("checkpoint_1/rank-0.bin", bytes(content))
    data.delete(["checkpoint_2/rank-0.bin"])
    sizes = states(run_json("verify", home.store.uri, "--sizes", expect=1))
    assert sizes == {"checkpoint_1": "ok", "checkpoint_2": "damaged", "checkpoint_3": "ok"}
    content_too = states(run_json("verify", home.store.uri, expect=1))
    assert content_too == {"checkpoint_1": "damaged", "checkpoint_2": "damaged", "checkpoint_3": "ok"}


def test_what_is_no_whole_checkpoint_is_told_apart(site: Site) -> None:
    home = site.on_mount()
    home.save("uncommitted", committed=False)
    home.save("unnamed")
    site.plant(["run/stock/model.bin"])
    home.snapshot("gone", "stock", "uncommitted")
    answer = run_json("verify", home.store.uri, expect=1)
    expected = {"gone": "damaged", "stock": "not verifiable", "uncommitted": "never committed", "unnamed": "ok"}
    assert states(answer) == expected
    assert answer["totals"]["bad"] == 2
    run("verify", home.store.uri, "stock")


def test_one_checkpoint_can_be_named(site: Site) -> None:
    home = site.on_mount()
    home.save("checkpoint_1")
    home.save("checkpoint_2")
    home.snapshot("checkpoint_1", "checkpoint_2")
    flip(site.cluster / "run" / "checkpoint_1" / "rank-0.bin")
    assert states(run_json("verify", home.store.uri, "checkpoint_2")) == {"checkpoint_2": "ok"}
    assert states(run_json("verify", home.store.uri, "checkpoint_1", expect=1)) == {"checkpoint_1": "damaged"}
    for name in ("checkpoint_3", "../run", ".anystorage", "checkpoint_2/empty", "checkpoint_2/", "a/../checkpoint_2"):
        assert "has no checkpoint" in run("verify", home.store.uri, name, expect=2)


def test_a_checkpoint_whose_name_has_slashes_is_verified_alone(site: Site) -> None:
    home = site.on_mount()
    home.save("epoch/1")
    home.snapshot("epoch/1")
    (site.cluster / "run" / "exports").mkdir()
    (site.cluster / "run" / "exports" / "model").write_bytes(b"no checkpoint")
    assert states(run_json("verify", home.store.uri, "epoch/1")) == {"epoch/1": "ok"}
    assert "has no checkpoint" in run("verify", home.store.uri, "epoch/2", expect=2)
    assert "has no checkpoint" in run("verify", home.store.uri, "exports/model", expect=2)


@pytest.mark.parametrize("left", ["a save", "data", "nothing"])
def test_what_a_live_run_deletes_while_it_is_verified_is_nothing_bad(
    site: Site, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    home, folder = site.on_mount(), site.cluster / "run" / "checkpoint_2"
    for name in ("checkpoint_1", "checkpoint_2"):
        home.save(name)
    home.snapshot("checkpoint_1", "checkpoint_2")

    def audit_meanwhile(sources: Sources, name: str, directory: str | None, *, content: bool) -> Finding:
        finding = audit(sources, name, directory, content=content)
        if name == "checkpoint_1":
            home.snapshot("checkpoint_1")
            shutil.rmtree(folder / ".anystorage" if left == "data" else folder)
            if left == "a save":
                home.save("checkpoint_2", committed=False)
        return finding

    monkeypatch.setattr("ray_anystorage.checkpoint.audit.audit", audit_meanwhile)
    answer = run_json("verify", home.store.uri)
    assert states(answer)["checkpoint_1"] == "ok"
    assert states(answer)["checkpoint_2"] == ("not verifiable" if left == "data" else "deleted meanwhile")


def test_what_is_deleted_between_two_looks_at_it_ends_no_verification(site: Site) -> None:
    home = site.on_mount()

    class Deleted(PosixStore):
        """Retention comes in when its own files have been listed so many times."""

        looks = 0

        def list(self, prefix: str) -> Iterator[tuple[str, int]]:
            listed = [*super().list(prefix)]
            if prefix.endswith("/.anystorage"):
                self.looks -= 1
                if self.looks == 0:
                    self.delete([key for key, _ in super().list("checkpoint_1")])
            return iter(listed)

    for looks in (1, 2):
        home.save("checkpoint_1")
        store = Deleted(str(site.cluster / "run"))
        store.looks = looks
        assert audit(Sources(store, site.folder), "checkpoint_1", None).state == "deleted meanwhile"
        assert list(home.store.list("checkpoint_1")) == []


def test_a_bucket_that_cannot_be_reached_says_nothing_about_the_data(site: Site) -> None:
    home = site.on_mount()
    home.save("checkpoint_1", spilled=True)
    home.snapshot("checkpoint_1")
    site.environment.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret-0123456789abcdef")
    site.environment.setenv("RAY_ANYSTORAGE_REGION", "another-1")  # a process keeps the clients that it has
    answer = run("verify", home.store.uri, "--json", expect=1)
    assert states(json.loads(answer)) == {"checkpoint_1": "not readable"}
    assert "planted-secret" not in answer
    assert read_contents(home.store, "checkpoint_1").size == 100_000, "it was marked as damaged"


def test_a_checkpoint_that_is_deleted_while_it_is_read_is_not_damaged(site: Site) -> None:
    home = site.on_mount()
    home.save("checkpoint_1")

    class Deleted(PosixStore):
        """Retention comes in when the data is looked at."""

        def size(self, key: str) -> int:
            self.delete([key for key, _ in self.list("checkpoint_1")])
            return super().size(key)

    store = Deleted(str(site.cluster / "run"))
    assert audit(Sources(store, site.folder), "checkpoint_1", None).state == "deleted meanwhile"
    assert list(home.store.list("checkpoint_1")) == []


# --- prune ----------------------------------------------------------------------------------------

NEIGHBOURS = (
    "run-2/checkpoint_9/half.bin",
    "run-2/checkpoint_9/.anystorage/begun-a0-0-0-0",
    "runx/checkpoint_9/half.bin",
    "runx/checkpoint_9/.anystorage/begun-a0-0-0-0",
    "checkpoint_9/.anystorage/begun-a0-0-0-0",
    ".anystorage/begun-a0-0-0-0",
)
OWN_THINGS = (
    "run/notes.txt",
    "run/.anystorage-notes",
    "run/exports/model.bin",
    "run/exports/checkpoint_9/.anystorage/begun-a0-0-0-0",
    "run/checkpoint_stock/model.bin",
    "run/checkpoint_good/.anystorage-notes",
    "run/checkpoint_mine/.anystorage/todo.txt",
)
OTHER_SPILLS = (
    "spilled/run-2-00000000/checkpoint_9/half.bin",
    "spilled/run-00000000/checkpoint_9/half.bin",
    "spilled/run/checkpoint_9/half.bin",
    "spilled/checkpoint_9/half.bin",
    "elsewhere/half.bin",
)


def upload(site: Site, *keys: str) -> None:
    for key in keys:
        site.client.create_multipart_upload(Bucket=site.bucket, Key=f"{FOLDER}/{key}")


def uploads(site: Site) -> set[str]:
    answer = site.client.list_multipart_uploads(Bucket=site.bucket)
    return {upload["Key"].removeprefix(f"{FOLDER}/") for upload in answer.get("Uploads", ())}


def crashed_on_mount(site: Site) -> tuple[Home, set[tuple[str, str]]]:
    """A run with a good checkpoint inline and one spilled, what crashes leave, and neighbours of many names."""
    home = site.on_mount()
    assert home.spill is not None
    home.save("checkpoint_good")
    home.save("checkpoint_spilled", spilled=True)
    home.save("epochs/5", spilled=True)
    home.save("epochs/late/6")
    site.plant([*NEIGHBOURS, *OWN_THINGS])
    folder = home.spill.uri.rpartition("/")[2]
    site.put([*NEIGHBOURS, *OTHER_SPILLS, f"spilled/{folder}x/checkpoint_9/half.bin", f"spilled/{folder}/notes.txt"])
    upload(site, f"spilled/{folder}/checkpoint_spilled/x", f"spilled/{folder}x/x", "spilled/x", "run/x", "x")
    home.begin_only("checkpoint_killed")
    home.begin_only("checkpoint_killed_spilled", spilled=True)
    home.begin_only("epochs/killed", spilled=True)
    home.spill.write_small("epochs/forgotten/model.bin", b"forgotten")
    home.spill.write_small("checkpoint_forgotten/model.bin", b"forgotten")
    temporary = ".anystorage-0123456789abcdef.part"
    site.plant([f"run/checkpoint_good/{temporary}"])
    home.snapshot("checkpoint_good", "checkpoint_spilled", "checkpoint_stock", "epochs/5", "epochs/late/6")
    return home, {
        ("unfinished save", f"{home.store.uri}/epochs/killed"),
        ("unfinished save", f"{home.spill.uri}/epochs/killed"),
        ("spilled data", f"{home.spill.uri}/epochs/forgotten"),
        ("unfinished save", f"{home.store.uri}/checkpoint_killed"),
        ("unfinished save", f"{home.store.uri}/checkpoint_killed_spilled"),
        ("unfinished save", f"{home.spill.uri}/checkpoint_killed_spilled"),
        ("spilled data", f"{home.spill.uri}/checkpoint_forgotten"),
        ("unfinished upload", f"{home.store.uri}/checkpoint_good/{temporary}"),
        ("unfinished upload", f"{home.spill.uri}/checkpoint_spilled/x"),
    }


def crashed_in_bucket(site: Site) -> tuple[Home, set[tuple[str, str]]]:
    home = site.in_bucket()
    home.save("checkpoint_good", ranks=2)
    site.put([*NEIGHBOURS, *OWN_THINGS, *OTHER_SPILLS])
    site.plant(NEIGHBOURS)
    upload(site, "run/checkpoint_good/x", "run/exports/x", "run/notes", "run-2/checkpoint_good/x", "runx/x", "x")
    home.begin_only("checkpoint_killed")
    home.snapshot("checkpoint_good", "checkpoint_stock")
    return home, {
        ("unfinished save", f"{home.store.uri}/checkpoint_killed"),
        ("unfinished upload", f"{home.store.uri}/checkpoint_good/x"),
    }


@pytest.mark.parametrize("crashed", [crashed_on_mount, crashed_in_bucket], ids=["mount", "bucket"])
def test_what_crashes_left_goes_and_nothing_else(
    site: Site, crashed: Callable[[Site], tuple[Home, set[tuple[str, str]]]]
) -> None:
    home, expected = crashed(site)
    before, others = site.everything(), uploads(site)
    answer = run_json("prune", home.store.uri, "--dry-run")
    assert found(answer) == expected
    assert (site.everything(), uploads(site)) == (before, others), "a dry run changed something"
    answer = run_json("prune", home.store.uri, "--yes")
    assert (found(answer, "removed"), answer["failed"]) == (expected, [])
    killed = (
        "/checkpoint_killed",
        "/checkpoint_forgotten/",
        "epochs/killed/",
        "epochs/forgotten/",
        "/.anystorage-0123456789abcdef.part",
    )
    lost = {key for key in before if any(part in key for part in killed)}
    kept = {key: content for key, content in before.items() if key not in lost}
    after = {key: content for key, content in site.everything().items() if not key.endswith("/controller.json")}
    assert after == kept
    ended = {key for key in others if key.endswith("/x") and "/checkpoint_" in key and not key.startswith("run-2/")}
    assert others - uploads(site) == ended
    assert not (site.cluster / "run" / "checkpoint_killed").exists()
    assert "Nothing to remove." in run("prune", home.store.uri)
    run("verify", home.store.uri)


def test_whole_checkpoints_that_ray_does_not_know_go_only_when_asked_for(site: Site) -> None:
    home = site.on_mount()
    assert home.spill is not None
    home.save("checkpoint_named")
    home.save("checkpoint_inline")
    home.save("checkpoint_spilled", spilled=True)
    quarantine(home.store, "checkpoint_inline", "for the test")
    home.snapshot("checkpoint_named")
    text = unwrapped(run("prune", home.store.uri, "--yes"))
    assert "Whole checkpoints that Ray's snapshot does not name, left alone without --unnamed:" in text
    assert "Nothing to remove." in text
    assert states(run_json("verify", home.store.uri)).keys() == {
        "checkpoint_named",
        "checkpoint_inline",
        "checkpoint_spilled",
    }
    answer = run_json("prune", home.store.uri, "--yes", "--unnamed")
    assert found(answer, "removed") == {
        ("not in the snapshot", f"{home.store.uri}/checkpoint_inline"),
        ("not in the snapshot", f"{home.store.uri}/checkpoint_spilled"),
        ("not in the snapshot", f"{home.spill.uri}/checkpoint_spilled"),
    }
    assert states(run_json("verify", home.store.uri)) == {"checkpoint_named": "ok"}
    assert list(home.spill.list("")) == []


def copied(site: Site, home: Home, *, moved: bool = False) -> Home:
    """A run home with all that is in it, at another place."""
    target = site.root / "backup" / home.name
    target.parent.mkdir()
    (shutil.move if moved else shutil.copytree)(home.store.uri, target)
    return Home(home.name, PosixStore(str(target)), None, site.root / "scratch" / "copy")


def test_prune_of_a_copy_takes_nothing_from_the_run_that_went_on(site: Site) -> None:
    home = site.on_mount()
    home.save("checkpoint_1", spilled=True)
    home.snapshot("checkpoint_1")
    copy = copied(site, home)
    home.save("checkpoint_2", spilled=True)
    home.snapshot("checkpoint_1", "checkpoint_2")
    assert home.spill is not None
    before = site.everything()
    answer = run_json("prune", copy.store.uri, "--yes", "--unnamed")
    assert (found(answer), found(answer, "removed")) == (set(), set())
    assert found(answer, "former") == {("of a former home", f"{home.spill.uri}/checkpoint_2")}
    assert f"{home.spill.uri}/checkpoint_2" in run("prune", copy.store.uri, "--yes")
    assert site.everything() == before
    assert states(run_json("verify", copy.store.uri)) == {"checkpoint_1": "ok"}


@pytest.mark.parametrize("moved", [False, True])
def test_a_home_that_lies_elsewhere_spills_to_a_folder_of_its_own(site: Site, moved: bool) -> None:
    home = site.on_mount()
    home.save("checkpoint_1", spilled=True)
    home.save("checkpoint_2", spilled=True)
    copy = copied(site, home, moved=moved)
    assert home.spill is not None
    for _ in range(2):  # once made up, it stays
        copy.spill = site.folder(f"spilled/{own_spill(copy.store)}")
    assert copy.spill is not None
    assert copy.spill.uri != home.spill.uri
    copy.save("checkpoint_3", spilled=True)
    copy.snapshot("checkpoint_1", "checkpoint_2", "checkpoint_3")
    found_again = find_run(copy.store.uri)
    assert found_again.spill is not None
    assert (found_again.spill.uri, [former.uri for former in found_again.former]) == (copy.spill.uri, [home.spill.uri])
    assert set(states(run_json("verify", copy.store.uri)).values()) == {"ok"}

    spilled = dict(home.spill.list(""))
    folder = copy.store.path("checkpoint_1")  # type: ignore[attr-defined]
    delete_checkpoint(copy.store, copy.spill, "checkpoint_1", lambda: shutil.rmtree(folder))
    copy.snapshot("checkpoint_2", "checkpoint_3")
    answer = run_json("prune", copy.store.uri, "--yes", "--unnamed")
    assert (found(answer), answer["removed"]) == (set(), [])
    assert found(answer, "former") == {("of a former home", f"{home.spill.uri}/checkpoint_1")}
    assert dict(home.spill.list("")) == spilled
    assert states(run_json("verify", copy.store.uri)) == {"checkpoint_2": "ok", "checkpoint_3": "ok"}


def test_a_note_of_where_a_home_spills_to_that_is_torn_is_an_error(site: Site) -> None:
    store = site.on_mount().store
    for torn in (b"", b"[]", b'{"id": "1"}'):
        store.write_small(".anystorage/run.json", torn)
        with pytest.raises(ManifestError):
            own_spill(store)


def test_it_asks_before_it_removes(site: Site) -> None:
    home = site.on_mount()
    home.begin_only("checkpoint_killed")
    home.snapshot()
    before = site.everything()
    assert "unfinished save" in run("prune", home.store.uri, answer="n\n")
    run("prune", home.store.uri, answer="", expect=1)
    assert site.everything() == before
    assert "Removed: 1, 4 B." in run("prune", home.store.uri, answer="y\n")
    assert not (site.cluster / "run" / "checkpoint_killed").exists()
    for flags in (["--dry-run", "--yes"], ["--json"]):
        run("prune", home.store.uri, *flags, expect=2)


def test_a_run_that_a_controller_holds_is_left_alone(site: Site) -> None:
    home = site.on_mount()
    home.begin_only("checkpoint_killed")
    home.snapshot()
    owner = Owner(home.store, "t1", "process 7 on node-7")
    owner.take()
    answer = run_json("prune", home.store.uri, "--yes", expect=1)
    assert answer["error"]["type"] == "RunInUseError"
    assert "process 7 on node-7" in answer["error"]["message"]
    assert (site.cluster / "run" / "checkpoint_killed").exists()
    run("prune", home.store.uri, "--yes", "--not-running")
    assert not (site.cluster / "run" / "checkpoint_killed").exists()
    with pytest.raises(RunTakenOverError, match="ray-anystorage prune"):
        owner.check()
    assert run_json("prune", home.store.uri, "--yes")["found"] == [], "prune did not let go of the run"


def test_a_controller_that_starts_while_it_asks_is_seen(site: Site) -> None:
    home = site.on_mount()
    home.begin_only("checkpoint_killed")
    home.snapshot()

    class Answer(io.BytesIO):
        """Says yes, after a controller started and ended."""

        def read1(self, size: int | None = -1, /) -> bytes:
            owner = Owner(home.store, "t2", "process 8 on node-8")
            owner.take()
            owner.release()
            return super().read1(-1 if size is None else size)

    assert "nothing was removed" in unwrapped(run("prune", home.store.uri, answer=Answer(b"y\n"), expect=1))
    assert (site.cluster / "run" / "checkpoint_killed").exists()


def test_a_torn_snapshot_names_nothing_so_nothing_is_removed(site: Site) -> None:
    home = site.on_mount()
    home.begin_only("checkpoint_killed")
    home.store.write_small(SNAPSHOT, b'{"checkpoint_results": [')
    before = site.everything()
    assert run_json("prune", home.store.uri, "--yes", expect=1)["error"]["type"] == "SnapshotDamagedError"
    assert site.everything() == before


def test_without_credentials_the_mount_is_pruned_and_the_bucket_is_said_not_to_be_searched(site: Site) -> None:
    home = site.on_mount()
    home.begin_only("checkpoint_killed", spilled=True)
    home.snapshot()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        site.environment.delenv(name)
    assert "The bucket was not searched for data of this run" in unwrapped(run("prune", home.store.uri, "--yes"))
    assert not (site.cluster / "run" / "checkpoint_killed").exists()
