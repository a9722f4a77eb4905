"""What follows from the answers of a cluster's nodes, on clusters of up to 200 nodes that are thought up."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Mapping
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_anystorage import errors
from ray_anystorage.cli.cluster_table import show_cluster
from ray_anystorage.diagnosis.check import Check
from ray_anystorage.diagnosis.clock import Reading
from ray_anystorage.diagnosis.cluster_fold import fold, places
from ray_anystorage.diagnosis.cluster_report import ClusterReport
from ray_anystorage.diagnosis.node_answer import Fault, NodeAnswer
from ray_anystorage.diagnosis.nodes import NodeName
from ray_anystorage.diagnosis.report import Report, TierReport
from ray_anystorage.environment import TIERS, BucketAddress, Location, Place, Problem, Space, Tier

VERSIONS = {"python": "3.11.7", "ray": "2.60.0", "ray_anystorage": "0.1.0"}
SILENT = Fault("TimeoutError", "it did not answer within 60 s", "asked", "look at it")


def name_of(number: int) -> NodeName:
    return NodeName(f"10.0.{number // 250}.{number % 250}", f"host-{number}", f"{number:06d}" + "f" * 50)


def tier_of(tier: Tier, state: str = "usable", problem: type[errors.StorageError] | None = None) -> TierReport:
    root = "s3://b/team" if tier == "artifact" else f"/mnt/{tier}_storage"
    location = Location(tier, root, "a test", True)
    if state == "absent":
        return TierReport(Place(location, "absent"))
    found = Problem(problem, "it fails", tier, root, "a write", "a repair") if problem else None
    bucket = BucketAddress("s3", "b", "team") if tier == "artifact" else None
    place = Place(
        location,
        "failed" if found else "usable",
        "bucket" if bucket else "nfs",
        "nfs4",
        True,
        "NFS mount (nfs4)",
        Space(10**9, 10**10, None, None),
        bucket,
        found,
    )
    return TierReport(place, () if found else (Check("latency", True, 0.1, "quick", value=2.0, unit="ms"),))


def answer(
    number: int,
    states: Mapping[Tier, str] | None = None,
    problems: Mapping[Tier, type[errors.StorageError]] | None = None,
    versions: Mapping[str, str] | None = None,
    clock: tuple[float, float] = (0.0, 0.01),
    fault: Fault | None = None,
) -> NodeAnswer:
    """A node with local, cluster and artifact storage, which answers unless it has a fault."""
    if fault is not None:
        return NodeAnswer(name_of(number), fault=fault)
    every = {"user": "absent", "shared": "absent", **(states or {})}
    tiers = tuple(tier_of(tier, every.get(tier, "usable"), (problems or {}).get(tier)) for tier in TIERS)
    said = tuple(sorted({**VERSIONS, **(versions or {})}.items()))
    return NodeAnswer(name_of(number), Report(tiers), said, clock=Reading(*clock))


def met(answers: Iterable[NodeAnswer], where: Mapping[int, str] | None = None) -> list[NodeAnswer]:
    """The answers after the nodes looked for each other: those see each other that have the same place."""
    answers = list(answers)
    places_of: dict[str, str] = {name_of(number).id: place for number, place in (where or {}).items()}
    ids = [one.node.id for one in answers if (found := one.tier("cluster")) is not None and found.place.usable]
    result = []
    for one in answers:
        if one.node.id in ids:
            own = places_of.get(one.node.id, "shared")
            same = frozenset(other for other in ids if places_of.get(other, "shared") == own)
            one = NodeAnswer(one.node, one.report, one.versions, (("cluster", same),), one.clock, one.fault)
        result.append(one)
    return result


def names(nodes: Iterable[NodeName]) -> list[str]:
    return [node.hostname for node in nodes]


def test_two_hundred_equal_nodes_are_one_group_and_no_problem(capsys: pytest.CaptureFixture[str]) -> None:
    report = ClusterReport(tuple(met(answer(number) for number in range(200))))
    assert (report.problems, report.exit_code, report.ok) == ((), 0, True)
    (group,) = report.groups
    assert len(group.nodes) == 200
    show_cluster(report)
    text = capsys.readouterr().out
    assert "200 nodes" in text
    assert "Every tier that is there works, on 200 nodes." in text
    assert len(text.splitlines()) < 20


def test_the_odd_ones_of_two_hundred_are_named_with_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    answers = [answer(number) for number in range(194)]
    answers += [answer(194), answer(195, fault=SILENT), answer(196, problems={"cluster": errors.MountReadOnlyError})]
    answers += [answer(197, states={"cluster": "absent"}), answer(198, versions={"ray_anystorage": "0.0.9"})]
    answers += [answer(199, clock=(-95.0, 0.2))]
    report = ClusterReport(tuple(met(answers, {194: "of its own"})))
    assert report.exit_code == 1
    found = [(names(problem.nodes), problem.tier, problem.error) for problem in report.problems]
    assert found == [
        (["host-195"], "", "TimeoutError"),
        (["host-198"], "", "Differs"),
        (["host-199"], "", "Differs"),
        (["host-196"], "cluster", "MountReadOnlyError"),
        (["host-197"], "cluster", "MountMissingError"),
        (["host-194"], "cluster", "Differs"),
    ]
    sizes = [len(group.nodes) for group in report.groups]
    assert sizes == [195, 1, 1, 1, 1, 1], "a clock does not part a node's tiers from the others'"
    show_cluster(report)
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "195 nodes: 10.0.0.0 (host-0, 000000ff)",
        "ray_anystorage is 0.0.9 there, and 0.1.0 on most nodes",
        "its clock is 95.0 s (± 0.2 s) behind",
        "it is another place there than on 196 nodes",
        "Something is wrong on 6 of 200 nodes.",
    ):
        assert words in text, words


def test_a_fault_of_two_hundred_nodes_is_told_in_a_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    report = ClusterReport(tuple(answer(number, problems={"cluster": errors.MountDeadError}) for number in range(200)))
    assert [len(problem.to_dict()["nodes"]) for problem in report.problems] == [200]
    show_cluster(report)
    text = capsys.readouterr().out
    assert "200 nodes (10.0.0.0 (host-0, 000000ff)" in text
    assert len(text.splitlines()) < 25


def test_a_mount_that_no_node_has_is_no_problem_and_one_that_some_lack_names_them() -> None:
    absent = {"cluster": "absent", "user": "absent", "shared": "absent"}
    report = ClusterReport(tuple(met(answer(number, states=absent) for number in range(4))))
    assert (report.problems, report.exit_code) == ((), 0)
    some = [answer(0), answer(1, states=absent), answer(2, states=absent), answer(3)]
    (problem,) = ClusterReport(tuple(met(some))).problems
    assert (names(problem.nodes), problem.tier) == (["host-1", "host-2"], "cluster")
    assert "2 nodes have it" in problem.reason
    assert "RAY_ANYSTORAGE_CLUSTER_STORAGE" in problem.remedy


def test_a_mount_that_is_each_node_s_own_is_one_problem_with_all_of_them() -> None:
    answers = met((answer(number) for number in range(3)), {number: str(number) for number in range(3)})
    (problem,) = ClusterReport(tuple(answers)).problems
    assert names(problem.nodes) == ["host-0", "host-1", "host-2"]
    assert "a place of its own on each" in problem.reason
    assert len(fold(answers)) == 1, "they are alike in that"


def test_a_node_that_learns_late_of_another_s_word_has_the_same_mount() -> None:
    whole, late = frozenset(name_of(n).id for n in range(3)), frozenset(name_of(n).id for n in (1, 2))
    answers = [NodeAnswer(name_of(n), seen=(("cluster", late if n == 2 else whole),)) for n in range(3)]
    assert places(answers, "cluster") == (frozenset(map(name_of, range(3))),)
    gone = frozenset({*whole, "of a node that is gone"})
    assert len(places([NodeAnswer(name_of(n), seen=(("cluster", gone),)) for n in range(3)], "cluster")) == 1


def test_clocks_differ_only_beyond_what_the_reading_may_be_wrong() -> None:
    doubtful = [answer(0), answer(1), answer(2, clock=(3.0, 2.5))]
    assert ClusterReport(tuple(met(doubtful))).problems == ()
    surely = [answer(0), answer(1), answer(2, clock=(3.0, 0.5))]
    (problem,) = ClusterReport(tuple(met(surely))).problems
    assert names(problem.nodes) == ["host-2"]
    assert "3.0 s (± 0.5 s) ahead of" in problem.reason


def test_what_was_measured_is_shown_as_a_median_and_the_least_free_space() -> None:
    answers = [answer(number) for number in range(3)]
    report = answers[1].report
    assert report is not None
    slow = TierReport(
        Place(**{**_fields(report.tiers[0].place), "space": Space(5, 10, None, None)}),
        (Check("latency", True, 0.1, "slow", value=100.0, unit="ms"),),
    )
    answers[1] = NodeAnswer(answers[1].node, Report((slow, *report.tiers[1:])), answers[1].versions)
    (group,) = fold(answers)
    assert group.tiers[0].checks[0].value == 2.0
    assert group.tiers[0].place.space is not None
    assert group.tiers[0].place.space.free_bytes == 5


@pytest.mark.parametrize(
    ("broken", "exit_code"), [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2)], ids=lambda value: str(value)
)
def test_no_tier_serves_where_most_nodes_have_none(broken: int, exit_code: int) -> None:
    bad = {"cluster": errors.MountDeadError, "artifact": errors.EndpointRefusedError}
    answers = met(answer(number, problems=bad if number < broken else None) for number in range(5))
    assert ClusterReport(tuple(answers)).exit_code == exit_code


def test_local_storage_serves_a_cluster_of_one_node_alone() -> None:
    no_more: dict[Tier, str] = {"cluster": "absent", "artifact": "absent"}
    assert ClusterReport((answer(0, states=no_more),)).exit_code == 0
    assert ClusterReport((answer(0, states=no_more), answer(1, states=no_more))).exit_code == 2


odd_answers = st.builds(
    lambda number, states, problems, versions, clock, fault: answer(number, states, problems, versions, clock, fault),
    st.just(0),
    st.dictionaries(st.sampled_from(TIERS), st.sampled_from(["absent", "usable"]), max_size=2),
    st.dictionaries(
        st.sampled_from(TIERS), st.sampled_from([errors.MountFullError, errors.MountDeadError]), max_size=1
    ),
    st.dictionaries(st.sampled_from(["ray", "pyarrow"]), st.sampled_from(["1", "2"]), max_size=1),
    st.tuples(st.sampled_from([0.0, 0.1, 50.0]), st.sampled_from([0.01, 1.0])),
    st.one_of(st.none(), st.just(SILENT)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(odd_answers, min_size=1, max_size=12), st.lists(st.sampled_from("ab"), max_size=12), st.randoms())
def test_no_node_is_lost_and_the_order_does_not_matter(kinds: list[NodeAnswer], where: str, random: Random) -> None:
    answers = [NodeAnswer(name_of(n), a.report, a.versions, a.seen, a.clock, a.fault) for n, a in enumerate(kinds)]
    answers = met(answers, dict(enumerate(where)))
    report = ClusterReport(tuple(answers))
    grouped = [node for group in report.groups for node in group.nodes]
    assert sorted(grouped) == sorted(one.node for one in answers)
    assert all(problem.nodes for problem in report.problems)
    assert (report.exit_code == 0) <= (report.problems == ())
    shuffled = list(answers)
    random.shuffle(shuffled)
    other = ClusterReport(tuple(shuffled))
    assert (other.groups, other.problems, other.exit_code) == (report.groups, report.problems, report.exit_code)
    assert pickle.loads(pickle.dumps(report)) == report
    told = json.loads(json.dumps(report.to_dict()))
    assert [node["id"] for node in told["nodes"]] == [one.node.id for one in answers]


def _fields(place: Place) -> dict[str, object]:
    return {name: getattr(place, name) for name in Place.__slots__}
