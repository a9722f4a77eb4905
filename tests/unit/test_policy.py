"""The policy: rule by rule on chosen cases, and its promises on generated ones."""

from __future__ import annotations

import json
import pickle
import posixpath
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_anystorage import errors
from ray_anystorage.environment import (
    NFS_TIERS,
    TIERS,
    BucketAddress,
    Environment,
    Location,
    Place,
    Problem,
    RunHome,
    Space,
    Tier,
)
from ray_anystorage.policy import Request, decide

GB = 10**9
ROOTS = {
    "local": "/mnt/local_storage",
    "cluster": "/mnt/cluster_storage",
    "user": "/mnt/user_storage",
    "shared": "/mnt/shared_storage",
    "artifact": "s3://bucket/org/artifacts",
}


def place(tier: Tier, *, free: int | None = 1000 * GB, network: bool = True, explicit: bool = False) -> Place:
    location = Location(tier, ROOTS[tier], "test", explicit)
    if tier == "artifact":
        return Place(location, "usable", "bucket", "s3", True, bucket=BucketAddress("s3", "bucket", "org/artifacts"))
    kind, filesystem = ("nfs", "nfs4") if network and tier != "local" else ("disk", "ext4")
    return Place(
        location, "usable", kind, filesystem, network and tier != "local", "a mount", Space(free, free, 10**6, 10**6)
    )


def absent(tier: Tier) -> Place:
    return Place(Location(tier, ROOTS[tier], "default mount", False), "absent")


def failed(tier: Tier) -> Place:
    problem = Problem(errors.MountReadOnlyError, "is read-only", tier, ROOTS[tier], "wrote a file", "remount it")
    return Place(Location(tier, ROOTS[tier], "test", True), "failed", problem=problem)


def environment(*places: Place, nodes: int | None = 1, homes: tuple[RunHome, ...] = ()) -> Environment:
    given = {p.tier: p for p in places}
    return Environment(tuple(given.get(tier) or absent(tier) for tier in TIERS), nodes=nodes, homes=homes)


EVERYTHING = environment(*(place(tier) for tier in TIERS), nodes=4)


def test_small_checkpoints_go_to_the_mount_of_the_audience() -> None:
    for audience, tier in (("cluster", "cluster"), ("user", "user"), ("team", "shared")):
        plan = decide(EVERYTHING, Request("r", 1 * GB, 2, audience))
        assert (plan.tier, plan.storage_path, plan.run_home) == (tier, ROOTS[tier], f"{ROOTS[tier]}/r")


def test_over_the_threshold_goes_to_the_bucket_and_at_the_threshold_does_not() -> None:
    assert decide(EVERYTHING, Request("r", 10 * GB)).tier == "cluster"
    plan = decide(EVERYTHING, Request("r", 10 * GB + 1))
    assert (plan.tier, plan.checkpoint_tier, plan.storage_path) == ("artifact", "artifact", ROOTS["artifact"])
    assert "over 10 GB" in plan.explain()


def test_what_is_kept_must_fit_with_a_tenth_to_spare() -> None:
    bucket = place("artifact")
    fits = environment(place("cluster", free=30 * GB), bucket)
    assert decide(fits, Request("r", 9 * GB, 2)).tier == "cluster"
    tight = environment(place("cluster", free=30 * GB - 1), bucket)
    plan = decide(tight, Request("r", 9 * GB, 2))
    assert plan.tier == "artifact"
    assert (
        "2 kept and one being written, of 9 GB each, need 27 GB" in {r.tier: r.reason for r in plan.rejected}["cluster"]
    )


def test_unknown_size_goes_to_the_mount_and_says_so() -> None:
    plan = decide(EVERYTHING, Request("r"))
    assert plan.tier == "cluster"
    assert any("checkpoint_size was not said" in note for note in plan.notes)


def test_free_hosted_storage_is_mentioned_when_passed() -> None:
    assert any("100 GB" in note for note in decide(EVERYTHING, Request("r", 60 * GB, 1)).notes)
    assert not any("100 GB" in note for note in decide(EVERYTHING, Request("r", 50 * GB, 1)).notes)


def test_why_the_audience_s_own_storage_was_passed_over_is_in_the_reason() -> None:
    plan = decide(environment(failed("user"), place("artifact")), Request(None, 1 * GB, 2, "user"))
    assert plan.tier == "artifact"
    assert f"user storage cannot serve ({ROOTS['user']}: is read-only), and the bucket" in plan.explain()


def test_a_forced_tier_wins_or_fails_with_the_reason() -> None:
    assert decide(EVERYTHING, Request("r", 60 * GB, tier="user")).tier == "user"
    with pytest.raises(errors.TierUnavailableError, match="RAY_ANYSTORAGE_SHARED_STORAGE"):
        decide(environment(place("cluster")), Request("r", tier="shared"))
    with pytest.raises(errors.MountReadOnlyError, match="remount it"):
        decide(environment(failed("cluster"), place("artifact")), Request("r", tier="cluster"))
    with pytest.raises(errors.TierUnavailableError, match="are free"):
        decide(environment(place("cluster", free=GB)), Request("r", GB, tier="cluster"))
    with pytest.raises(errors.TierUnavailableError, match="one node only"):
        decide(environment(place("local"), nodes=2), Request("r", tier="local"))


def test_a_run_is_continued_where_it_is() -> None:
    home = RunHome("r", "cluster", "/mnt/cluster_storage/r")
    plan = decide(replace(EVERYTHING, homes=(home,)), Request("r", 60 * GB))
    assert plan.resumes
    assert plan.tier == "cluster"
    assert "continues in" in plan.explain()
    assert not decide(replace(EVERYTHING, homes=(home,)), Request("other", 60 * GB)).resumes


def test_the_reasons_of_a_continued_run_do_not_contradict_it() -> None:
    home = RunHome("r", "local", "/root/ray_results/r")
    plan = decide(replace(EVERYTHING, nodes=1, homes=(home,)), Request("r"))
    assert {r.reason for r in plan.rejected} == {"the run is continued where it is"}


def test_two_homes_are_an_error_that_shows_both_and_a_forced_tier_settles_it() -> None:
    homes = (RunHome("r", "cluster", "/mnt/cluster_storage/r"), RunHome("r", "artifact", "s3://bucket/org/artifacts/r"))
    with pytest.raises(errors.SeveralHomesError) as raised:
        decide(replace(EVERYTHING, homes=homes), Request("r"))
    assert all(home.path in str(raised.value) for home in homes)
    assert decide(replace(EVERYTHING, homes=homes), Request("r", tier="artifact")).resumes


def test_forcing_another_tier_than_that_of_the_run_is_refused() -> None:
    homes = (RunHome("r", "cluster", "/mnt/cluster_storage/r"),)
    with pytest.raises(errors.HomeElsewhereError, match="/mnt/cluster_storage/r"):
        decide(replace(EVERYTHING, homes=homes), Request("r", tier="artifact"))


def test_a_folder_that_no_run_wrote_is_not_taken_over() -> None:
    homes = (RunHome("data", "cluster", "/mnt/cluster_storage/data", is_run=False),)
    with pytest.raises(errors.NameTakenError, match="/mnt/cluster_storage/data"):
        decide(replace(EVERYTHING, homes=homes), Request("data"))


def test_one_node_without_anything_shared_uses_its_disk_with_a_clear_reason() -> None:
    plan = decide(environment(place("local")), Request("r", 60 * GB))
    assert plan.tier == "local"
    assert "gone when the node is" in plan.explain()


def test_several_nodes_without_anything_shared_is_an_error_that_names_what_was_looked_for() -> None:
    with pytest.raises(errors.NoStorageError) as raised:
        decide(environment(place("local"), nodes=3), Request("r"))
    message = str(raised.value)
    for words in ("/mnt/cluster_storage", "artifact", "RAY_ANYSTORAGE_CLUSTER_STORAGE", "3 nodes"):
        assert words in message


def test_a_plain_directory_serves_several_nodes_only_when_the_user_said_so() -> None:
    plain = place("cluster", network=False)
    plan = decide(environment(plain, place("artifact"), nodes=2), Request("r"))
    assert plan.tier == "artifact"
    said = place("cluster", network=False, explicit=True)
    plan = decide(environment(said, place("artifact"), nodes=2), Request("r"))
    assert plan.tier == "cluster"
    assert any("other nodes see it only if" in note for note in plan.notes)


def test_a_broken_mount_is_no_reason_to_start_on_the_local_disk() -> None:
    with pytest.raises(errors.MountReadOnlyError):
        decide(environment(failed("cluster"), place("local")), Request("r"))
    assert decide(environment(failed("cluster"), place("artifact")), Request("r")).tier == "artifact"


def test_a_named_run_does_not_start_elsewhere_while_its_own_mount_does_not_answer() -> None:
    unsearched = replace(environment(failed("cluster"), place("artifact")), unsearched=("cluster",))
    with pytest.raises(errors.MountReadOnlyError, match="say tier="):
        decide(unsearched, Request("r"))
    assert decide(unsearched, Request("r", tier="artifact")).tier == "artifact"
    assert decide(unsearched, Request("r", audience="team")).tier == "artifact"
    assert decide(unsearched, Request()).tier == "artifact"


def test_a_run_on_one_nodes_disk_is_named_when_the_cluster_has_more() -> None:
    homes = (RunHome("r", "local", "/root/ray_results/r"),)
    with pytest.raises(errors.TierUnavailableError, match="/root/ray_results/r, on the disk of this node"):
        decide(replace(EVERYTHING, homes=homes), Request("r"))


def test_the_reason_for_the_local_disk_does_not_deny_a_mount_that_is_there() -> None:
    plan = decide(environment(place("local"), place("cluster")), Request("r", 60 * GB))
    assert plan.tier == "local"
    assert "too large for NFS" in {r.tier: r.reason for r in plan.rejected}["cluster"]
    assert "No other storage can serve" in plan.reasons[0]
    assert decide(environment(place("local"), failed("cluster")), Request("r", 60 * GB)).tier == "local"


GRANTED = replace(
    EVERYTHING,
    env_vars=(("AWS_REGION", "eu-west-1"),),
    secret_names=("AWS_SECRET_ACCESS_KEY",),
    credentials="env: keys",
)
BUCKET = BucketAddress("s3", "bucket", "org/artifacts")


@pytest.mark.parametrize("tier", [*NFS_TIERS, "local"])
def test_a_run_on_a_mount_spills_into_the_bucket(tier: Tier) -> None:
    plan = decide(replace(GRANTED, nodes=1), Request("r", 1 * GB, 2, tier=tier))
    assert (plan.tier, plan.checkpoint_tier, plan.spill, plan.bucket) == (tier, tier, BUCKET, None)
    assert (plan.env_vars, plan.secret_names) == ({"AWS_REGION": "eu-west-1"}, ("AWS_SECRET_ACCESS_KEY",))
    assert plan.credentials == "env: keys"
    assert (
        f"(of 1 GB, 2 kept) lies in {tier} storage, or in artifact storage (s3://bucket/org/artifacts/spilled) when it "
        "is over 10 GB or the mount cannot take it."
    ) in plan.explain()
    assert "AWS_SECRET_ACCESS_KEY=***" in plan.explain()
    said = plan.to_dict()
    assert (said["spill"], said["threshold"]) == ("s3://bucket/org/artifacts/spilled", 10 * GB)


def test_a_run_in_the_bucket_or_without_one_spills_nowhere() -> None:
    in_bucket = decide(GRANTED, Request("r", 60 * GB))
    assert (in_bucket.spill, in_bucket.bucket, in_bucket.to_dict()["spill"]) == (None, BUCKET, None)
    without = decide(replace(GRANTED, places=environment(place("cluster")).places), Request("r", GB))
    assert (without.spill, without.env_vars, without.secret_names) == (None, {}, ())
    assert without.credentials == "none needed"
    assert "lie in cluster storage." in without.explain()
    assert not any("bucket" in note for note in without.notes)


def test_a_bucket_that_cannot_be_used_takes_nothing_and_the_plan_says_why() -> None:
    found = replace(GRANTED, bucket_obstacle="static keys are the only credentials.")
    plan = decide(found, Request("r", GB))
    assert (plan.tier, plan.spill, plan.env_vars, plan.secret_names) == ("cluster", None, {}, ())
    assert plan.credentials == "none needed"
    said = (
        "Checkpoints stay in cluster storage, also large ones, because the bucket (s3://bucket/org/artifacts) cannot "
    )
    assert f"{said}take them: static keys are the only credentials." in plan.notes
    assert decide(found, Request("r", 60 * GB)).tier == "artifact", "whether it serves as a home is checked elsewhere"


@pytest.mark.parametrize("forced", [True, False])
def test_a_home_on_nfs_leaves_large_checkpoints_to_the_bucket(forced: bool) -> None:
    tight = environment(place("cluster", free=30 * GB), place("artifact"))
    homes = () if forced else (RunHome("r", "cluster", "/mnt/cluster_storage/r"),)
    request = Request("r", 60 * GB, 1, tier="cluster" if forced else None)
    plan = decide(replace(tight, homes=homes), request)
    assert (plan.tier, plan.checkpoint_tier, plan.spill) == ("cluster", "artifact", BUCKET)
    data = "Checkpoints of 60 GB are over 10 GB, so their data goes to the bucket (s3://bucket/org/artifacts/spilled)."
    assert plan.reasons[1:] == (data,)
    assert not any("slow on NFS" in note or "out of space" in note for note in plan.notes)
    alone = replace(tight, homes=homes, bucket_obstacle="no answer")
    if forced:
        with pytest.raises(errors.TierUnavailableError, match="are free"):
            decide(alone, request)
    else:
        notes = " ".join(decide(alone, request).notes)
        assert "slow on NFS" in notes
        assert "out of space" in notes


def test_what_does_not_fit_goes_to_the_bucket_and_the_plan_says_so() -> None:
    homes = (RunHome("r", "cluster", "/mnt/cluster_storage/r"),)
    found = replace(environment(place("cluster", free=GB), place("artifact")), homes=homes)
    plan = decide(found, Request("r", GB))
    assert plan.checkpoint_tier == "cluster"
    assert any(note.endswith("What does not fit then goes to the bucket.") for note in plan.notes)
    assert not any(
        "does not fit then" in note for note in decide(replace(found, bucket_obstacle="x"), Request("r", GB)).notes
    )


def test_the_folder_of_spilled_data_is_no_name_of_a_run() -> None:
    with pytest.raises(errors.InvalidNameError, match="'spilled' is reserved for the checkpoints that a mount"):
        Request("spilled")


def test_plans_pickle_and_are_json_and_take_under_10_ms() -> None:
    request = Request("r", 60 * GB, 2)
    plan = decide(EVERYTHING, Request("r", GB))
    assert pickle.loads(pickle.dumps(plan)) == plan
    plan = decide(EVERYTHING, request)
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert json.loads(json.dumps(plan.to_dict()))["tier"] == "artifact"
    start = time.process_time()
    for _ in range(20):
        decide(EVERYTHING, request).explain()
    assert (time.process_time() - start) / 20 < 0.010


places_of = {
    tier: st.one_of(
        st.just(absent(tier)),
        st.just(failed(tier)),
        st.builds(
            place,
            st.just(tier),
            free=st.one_of(st.none(), st.integers(0, 10**14)),
            network=st.booleans(),
            explicit=st.booleans(),
        ),
    )
    for tier in TIERS
}
names = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from(["..", ".", "a", "/", "\\", "artifacts", "spilled", " ", "%2e", "s3:"]), max_size=6).map(
        "".join
    ),
)


def requested(name: str, **arguments: object) -> Request | None:
    """A request, or ``None`` where the name is refused."""
    try:
        return Request(name, **arguments)  # type: ignore[arg-type]
    except errors.InvalidNameError:
        return None


requests = st.builds(
    requested,
    name=names,
    checkpoint_size=st.one_of(st.none(), st.integers(0, 10**13)),
    num_to_keep=st.one_of(st.none(), st.integers(1, 50)),
    audience=st.sampled_from(["cluster", "user", "team"]),
    tier=st.one_of(st.none(), st.sampled_from(TIERS)),
).filter(bool)


@settings(max_examples=400, deadline=None)
@given(
    st.tuples(*(places_of[tier] for tier in TIERS)),
    requests,
    st.one_of(st.none(), st.integers(1, 5)),
    st.sets(st.sampled_from(TIERS), max_size=2),
    st.sampled_from([None, "no credentials"]),
)
def test_the_policy_keeps_its_promises(
    places: tuple[Place, ...], request: Request, nodes: int | None, home_tiers: set[Tier], obstacle: str | None
) -> None:
    homes = tuple(RunHome(request.name or "", tier, f"{ROOTS[tier]}/{request.name}") for tier in sorted(home_tiers))
    found = Environment(places, nodes=nodes, homes=homes, env_vars=(("NAME", "value"),), bucket_obstacle=obstacle)
    try:
        plan = decide(found, request)
    except (errors.PlanError, errors.StorageError) as error:
        with pytest.raises(type(error), match=r"."):
            decide(found, request)
        return
    assert decide(found, request) == plan, "not deterministic"
    chosen = found.place(plan.tier)
    assert chosen is not None
    assert chosen.usable, "a tier that was reported unusable"
    assert plan.run_home == f"{ROOTS[plan.tier]}/{request.name}"
    if plan.tier == "artifact":
        assert plan.run_home.startswith("s3://bucket/org/artifacts/")
        assert posixpath.normpath(plan.run_home.removeprefix("s3:/")) == plan.run_home.removeprefix("s3:/")
        assert plan.run_home.count("/") == "s3://bucket/org/artifacts/r".count("/")
    free_choice = request.tier is None and not plan.resumes
    if free_choice and request.checkpoint_size is not None and request.checkpoint_size > found.threshold:
        assert plan.tier not in NFS_TIERS, "NFS over the threshold"
    assert plan.tier == request.tier or request.tier is None
    assert not (plan.tier == "local" and (nodes or 1) > 1)
    assert plan.checkpoint_tier in (plan.tier, "artifact" if plan.spill else plan.tier)
    assert plan.spill is None or (plan.tier != "artifact" and obstacle is None), "no bucket to spill into"
    assert bool(plan.env_vars) == bool(plan.spill or plan.bucket), "the workers get what their bucket needs"
    assert {plan.tier, *(r.tier for r in plan.rejected)} == set(TIERS), "a tier without a word"
    assert plan.explain()
    json.dumps(plan.to_dict())
