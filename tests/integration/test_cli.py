"""The command line as a person or a program uses it: a process of its own on real directories and a real S3 server."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ray_anystorage.testing.s3_server import S3Server
from tests.harness.ray_cluster import clean_environment
from tests.harness.s3 import artifact_env, keys_of

COMMAND = str(Path(sys.executable).parent / "ray-anystorage")
PLANTED = "planted-secret-9f8e7d6c5b4a"
SNAPSHOT = "checkpoint_manager_snapshot.json"


@pytest.fixture
def site(tmp_path: Path) -> dict[str, str]:
    """A home directory, local and cluster storage of this test's own; what else is there is found by nobody."""
    for name in ("home", "local", "cluster"):
        (tmp_path / name).mkdir()
    nowhere = {f"RAY_ANYSTORAGE_{tier}_STORAGE": "" for tier in ("USER", "SHARED")}
    return {
        **nowhere,
        "HOME": str(tmp_path / "home"),
        "RAY_ANYSTORAGE_LOCAL_STORAGE": str(tmp_path / "local"),
        "RAY_ANYSTORAGE_CLUSTER_STORAGE": str(tmp_path / "cluster"),
    }


@pytest.fixture
def with_bucket(site: dict[str, str], s3_server: S3Server, bucket: str) -> dict[str, str]:
    """The same with an artifact folder in the S3 server, and static keys in the environment."""
    return {
        **site,
        **artifact_env(s3_server, f"{bucket}/team/artifacts"),
        **keys_of(s3_server),
    }


def run(site: dict[str, str], *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [COMMAND, *arguments], env=clean_environment(site), cwd=site["HOME"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr, "there are control sequences where there is no terminal"
    return done


def run_json(site: dict[str, str], *arguments: str, expect: int = 0) -> dict[str, Any]:
    done = run(site, *arguments, "--json", expect=expect)
    assert done.stderr == ""
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def unwrapped(text: str) -> str:
    return " ".join(text.split())


def assert_narrow(text: str) -> None:
    """No line is wider than 80 columns but where one word, such as a path, does not fit."""
    wide = [line for line in text.splitlines() if len(line) > 80 and len(line.split()) > 1]
    assert wide == []


def checks_of(report: dict[str, Any], tier: str) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in tier_of(report, tier)["checks"]}


def tier_of(report: dict[str, Any], tier: str) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for entry in report["tiers"] if entry["tier"] == tier)
    return found


# --- plan -----------------------------------------------------------------------------------------


def test_a_plan_reads_well_where_there_is_no_terminal(site: dict[str, str]) -> None:
    text = run(site, "plan", "llama", "--checkpoint-size", "2GiB", "--num-to-keep", "1").stdout
    home = f"{site['RAY_ANYSTORAGE_CLUSTER_STORAGE']}/llama"
    assert "".join(text.split()).startswith(f"Run'llama'goestoclusterstorage:{home}")
    assert {"Why:", "Not chosen:", "Credentials: none needed"} <= set(text.splitlines())
    assert_narrow(text)


def test_a_plan_for_programs(with_bucket: dict[str, str], bucket: str) -> None:
    site = {**with_bucket, "RAY_ANYSTORAGE_CREDENTIALS": "env"}
    plan = run_json(site, "plan", "llama", "--checkpoint-size", "60GiB", "--num-to-keep", "2", "--nodes", "4")
    assert plan["run_home"] == f"s3://{bucket}/team/artifacts/llama"
    assert (plan["tier"], plan["nodes"], plan["num_to_keep"]) == ("artifact", 4, 2)
    assert plan["checkpoint_size"] == 60 * 2**30
    assert plan["secret_env_vars"] == ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    assert "error" not in plan


def test_the_audience_and_a_forced_tier_count(site: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    site["RAY_ANYSTORAGE_SHARED_STORAGE"] = str(tmp_path / "shared")
    assert run_json(site, "plan", "--audience", "team")["tier"] == "shared"
    assert run_json(site, "plan", "--audience", "team", "--tier", "cluster")["tier"] == "cluster"


def test_a_run_that_exists_is_continued_where_it_is(site: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "user" / "begun").mkdir(parents=True)
    (tmp_path / "user" / "begun" / SNAPSHOT).write_text("{}")
    site["RAY_ANYSTORAGE_USER_STORAGE"] = str(tmp_path / "user")
    plan = run_json(site, "plan", "begun")
    assert (plan["tier"], plan["resumes"]) == ("user", True)


def test_what_no_tier_can_serve_is_said_with_the_way_out(site: dict[str, str]) -> None:
    arguments = ("plan", "--checkpoint-size", "60GiB", "--nodes", "3")
    said = run(site, *arguments, expect=1)
    assert said.stdout == ""
    assert said.stderr.startswith("error: no storage can serve the run on 3 nodes")
    assert "RAY_ANYSTORAGE_ARTIFACT_STORAGE=s3://bucket/folder" in said.stderr
    assert run_json(site, *arguments, expect=1)["error"]["type"] == "NoStorageError"


def test_a_place_that_fails_names_itself_what_was_tried_and_the_remedy(site: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    site["RAY_ANYSTORAGE_CLUSTER_STORAGE"] = str(tmp_path / "file")
    error = run_json(site, "plan", "--tier", "cluster", expect=1)["error"]
    assert (error["type"], error["tier"]) == ("NotADirectoryAtMountError", "cluster")
    assert error["place"] == str(tmp_path / "file")
    assert error["tried"]
    assert "RAY_ANYSTORAGE_CLUSTER_STORAGE" in error["remedy"]
    assert run(site, "plan", "--tier", "cluster", expect=1).stderr.startswith("error: cluster storage")


def test_a_bucket_that_no_credentials_reach_is_no_success(with_bucket: dict[str, str]) -> None:
    del with_bucket["AWS_SECRET_ACCESS_KEY"]
    said = run(with_bucket, "plan", "--checkpoint-size", "60GiB", expect=1)
    assert "goes to artifact storage" in said.stdout
    assert "AWS_SECRET_ACCESS_KEY is not" in said.stderr
    answer = run_json(with_bucket, "plan", "--checkpoint-size", "60GiB", expect=1)
    assert (answer["tier"], answer["error"]["type"]) == ("artifact", "CredentialsError")
    assert run_json(with_bucket, "plan", "--checkpoint-size", "1GiB")["tier"] == "cluster"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--checkpoint-size", "60XB"], "60XB"),
        (["--audience", "everyone"], "everyone"),
        (["--tier", "floppy"], "floppy"),
        (["--nodes", "0"], "--nodes"),
        (["--num-to-keep", "0"], "--num-to-keep"),
        (["--colour"], "--colour"),
        (["a/b"], "a/b"),
    ],
)
def test_what_cannot_be_meant_is_misuse(site: dict[str, str], arguments: list[str], words: str) -> None:
    assert words in run(site, "plan", *arguments, expect=2).stderr


@pytest.mark.parametrize("command", ["plan", "doctor"])
def test_an_unknown_setting_names_the_nearest(site: dict[str, str], command: str) -> None:
    site["RAY_ANYSTORAGE_CLUSTR_STORAGE"] = "/mnt"
    said = run(site, command, expect=2).stderr
    assert "did you mean RAY_ANYSTORAGE_CLUSTER_STORAGE?" in said
    assert run_json(site, command, expect=2)["error"]["type"] == "SettingsError"


def test_there_are_colours_on_a_terminal(site: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    environment = clean_environment({**site, "TERM": "xterm-256color"})
    with subprocess.Popen([COMMAND, "plan"], env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # Linux' way to say that the other side is closed
            pass
    os.close(ours)
    assert process.returncode == 0, shown
    assert b"\x1b[1mWhy:\x1b[0m" in shown


# --- doctor ---------------------------------------------------------------------------------------


def test_the_doctor_shows_every_tier_and_every_check(with_bucket: dict[str, str], bucket: str) -> None:
    site = {**with_bucket, "RAY_ANYSTORAGE_CREDENTIALS": "env"}
    text = run(site, "doctor").stdout
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line[:1].isalpha()}
    for tier in ("local", "cluster"):
        state, latency, unit, *_ = rows[tier]
        assert (state, unit) == ("ok", "ms")
        assert float(latency.replace(",", "")) > 0
        assert site[f"RAY_ANYSTORAGE_{tier.upper()}_STORAGE"] in text
    assert [rows["user"][0], rows["shared"][0], rows["artifact"][0]] == ["none", "none", "ok"]
    for check in ("credentials", "list", "put", "get", "delete", "conditional", "multipart", "clock"):
        assert "ok" in rows[check], check
    assert f"s3://{bucket}/team/artifacts" in text
    assert "Every tier that is there works." in text
    assert_narrow(text)


def test_the_doctor_for_programs(with_bucket: dict[str, str], s3_server: S3Server, bucket: str) -> None:
    report = run_json({**with_bucket, "RAY_ANYSTORAGE_CREDENTIALS": "env"}, "doctor")
    assert (report["ok"], report["exit_code"]) == (True, 0)
    assert [tier["tier"] for tier in report["tiers"]] == ["local", "cluster", "user", "shared", "artifact"]
    measured = checks_of(report, "cluster")
    for name, unit in (("latency", "ms"), ("small files", "files/s"), ("write", "MB/s"), ("read", "MB/s")):
        assert measured[name]["value"] > 0
        assert measured[name]["unit"] == unit
    assert tier_of(report, "cluster")["free_bytes"] > 0
    assert all(check["ok"] for check in checks_of(report, "artifact").values())
    assert s3_server.keys(bucket) == [], "the doctor left something in the bucket"


def test_a_failure_comes_with_its_remedy(site: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    site["RAY_ANYSTORAGE_USER_STORAGE"] = str(tmp_path / "file")
    text = run(site, "doctor", expect=1).stdout
    assert "a file lies where the mount should be" in unwrapped(text)
    assert "what to do: move the file away" in unwrapped(text)
    assert text.splitlines()[-1] == "Something is wrong with user storage."
    report = run_json(site, "doctor", expect=1)
    assert tier_of(report, "user")["problem"]["error"] == "NotADirectoryAtMountError"
    assert tier_of(report, "cluster")["ok"]


def test_nothing_usable_has_its_own_exit_code(site: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for tier in ("LOCAL", "CLUSTER"):
        site[f"RAY_ANYSTORAGE_{tier}_STORAGE"] = str(tmp_path / "file")
    assert run(site, "doctor", expect=2).stdout.splitlines()[-1] == "No tier can serve a run."


# --- secrets and cost -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["env", "auto"])
def test_a_planted_secret_is_shown_nowhere(with_bucket: dict[str, str], mode: str) -> None:
    site = {**with_bucket, "AWS_SECRET_ACCESS_KEY": PLANTED, "RAY_ANYSTORAGE_CREDENTIALS": mode}
    shown = ""
    for arguments in (["plan", "x", "--checkpoint-size", "60GiB"], ["doctor"]):
        for options in ([], ["--json"]):
            done = run(site, *arguments, *options, expect=1)
            shown += done.stdout + done.stderr
    assert PLANTED not in shown
    assert "WrongSecretError" in shown


LOADED = """
import sys
from ray_anystorage.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print("LOADED", end.code, *sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize(("arguments", "heavy"), [(["--help"], {"rich", "botocore"}), (["plan"], set())])
def test_a_bare_command_loads_little(site: dict[str, str], arguments: list[str], heavy: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], env=clean_environment(site), capture_output=True, text=True
    )
    code, *modules = done.stdout.splitlines()[-1].removeprefix("LOADED ").split()
    assert code == "0", done.stdout + done.stderr
    assert set(modules) & ({"ray", "pyarrow", "obstore", "numpy"} | heavy) == set()
