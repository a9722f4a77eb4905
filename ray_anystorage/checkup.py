"""The doctor: what there is on this node or on every node of the cluster, how well it works, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

from ray_anystorage.cluster.nodes import NODE_TIMEOUT, alive_nodes
from ray_anystorage.credentials.grant import Credentials
from ray_anystorage.environment import Tier
from ray_anystorage.errors import RequestError
from ray_anystorage.resolve import Survey, site_variables, survey
from ray_anystorage.settings import PREFIX

if TYPE_CHECKING:
    from ray_anystorage.diagnosis.cluster_report import ClusterReport
    from ray_anystorage.diagnosis.report import Report


@overload
def doctor(
    *, cluster: Literal[False] = False, credentials: Credentials | None = None, artifact_storage: str | None = None
) -> Report: ...


@overload
def doctor(
    *,
    cluster: Literal[True],
    credentials: Credentials | None = None,
    artifact_storage: str | None = None,
    timeout: float = NODE_TIMEOUT,
) -> ClusterReport: ...


def doctor(
    *,
    cluster: bool = False,
    credentials: Credentials | None = None,
    artifact_storage: str | None = None,
    timeout: float = NODE_TIMEOUT,
) -> Report | ClusterReport:
    """Try every tier from this node, or from every node: what it is, how fast, and what to do about what does not work.

    Parameters
    ----------
    cluster
        Whether all alive nodes of the Ray cluster are asked, all at once, with the credentials that a run's processes
        would get. Beyond each node's own report it then says which of them differ: whether a mount is the same one
        everywhere, what versions they have, and what their clocks say. Nothing is left behind.
    credentials
        Mode for the bucket, as in :func:`ray_anystorage.run_config`.
    artifact_storage
        The bucket folder, where it is another than the environment's.
    timeout
        Seconds that a node of the cluster may take. One that does not answer by then is in the report as such.

    Raises
    ------
    ClusterNotReachedError
        No Ray cluster can be reached from here.
    RequestError
        An argument or a setting cannot be meant.
    """
    roots: dict[Tier, str | None] = {"artifact": artifact_storage}
    if not cluster:
        from ray_anystorage.diagnosis.node import doctor as examine

        found = survey(credentials=credentials, nodes=alive_nodes(), roots=roots)
        return examine(found.environment, found.grant)
    if not 0 < timeout < float("inf"):
        raise RequestError(f"timeout={timeout!r} is not a time in seconds: expected a number above 0")
    from ray_anystorage.cluster.broker import await_agents, feeding
    from ray_anystorage.cluster.probe import ask_nodes, connected
    from ray_anystorage.diagnosis.cluster_report import ClusterReport

    with connected():
        found = survey(credentials=credentials, nodes=alive_nodes(), roots=roots)
        environment, env_vars = found.environment, node_variables(found, roots)
        with feeding(env_vars):
            await_agents(env_vars, timeout)
            answers = ask_nodes(
                grant=found.grant,
                credentials=environment.credentials,
                no_credentials=environment.no_credentials,
                env_vars=env_vars,
                timeout=timeout,
            )
    return ClusterReport(answers, environment.credentials, environment.notes)


def node_variables(found: Survey, roots: dict[Tier, str | None]) -> dict[str, str]:
    """What the processes of a run would get, and what tells a node of the bucket, which a run's plan would."""
    artifact = found.environment.place("artifact")
    address = artifact.bucket if artifact is not None else None
    known = {"ARTIFACT_STORAGE": address.uri, "REGION": address.region, "ENDPOINT": address.endpoint} if address else {}
    granted = found.grant.all_env_vars() if found.grant is not None else {}
    return {
        **{f"{PREFIX}{name}": value for name, value in known.items() if value},
        **dict(site_variables(roots)),
        **granted,
    }
