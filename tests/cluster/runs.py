"""One Train run over the hosts, as the tests start it and look at what it stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_anystorage.checkpoint.record import RECORD
from tests.cluster.driver import content
from tests.harness.host_driver import Driver
from tests.harness.hosts import CLUSTER, Host, Lab

FOLDER = "team/artifacts"
SIZE = 100_000
SOON = 90.0  # seconds; on two idle cores Ray needs 15 of them to start a driver, a controller and workers


@dataclass(slots=True)
class Run:
    """A run, and the site that it lives on.

    Attributes
    ----------
    bucket
        The bucket of the site's artifact folder; ``None`` where the site has none.
    in_bucket
        Whether the run home is there; else it is on cluster storage.
    credentials
        The mode in which the run gets the driver's keys.
    """

    lab: Lab
    name: str
    bucket: str | None = None
    in_bucket: bool = False
    credentials: str = "env"

    @property
    def env(self) -> dict[str, str]:
        """The site's variables, with keys for its bucket."""
        server, site = self.lab.server, {"RAY_ANYSTORAGE_CLUSTER_STORAGE": CLUSTER}
        if self.bucket is None:
            return site
        return {
            **site,
            "RAY_ANYSTORAGE_ARTIFACT_STORAGE": f"s3://{self.bucket}/{FOLDER}",
            "RAY_ANYSTORAGE_ENDPOINT": server.endpoint,
            "RAY_ANYSTORAGE_REGION": server.region,
            "RAY_ANYSTORAGE_CREDENTIALS": self.credentials,
            "AWS_ACCESS_KEY_ID": server.access_key,
            "AWS_SECRET_ACCESS_KEY": server.secret_key,
        }

    def start(
        self,
        *hosts: int,
        until: int,
        names: str = "step",
        failures: int = 0,
        size: int = SIZE,
        env: Mapping[str, str] | None = None,
        **scaling: Any,
    ) -> Driver:
        """Start its driver in host 1, with a worker on each of these hosts, or as Ray's ScalingConfig says.

        It saves the checkpoints ``names-1``, ``names-2`` and so on, up to ``until``. ``env`` is the site's unless said.
        """
        if hosts:
            scaling = {"num_workers": len(hosts), "label_selector": [{"host": str(host)} for host in hosts]}
        arguments = {"tier": "artifact"} if self.in_bucket else {}
        told = {"run": self.name, "until": until, "names": names, "failures": failures, "size": size,
                "scaling": scaling, "arguments": arguments, "gates": f"{CLUSTER}/gates/{self.name}"}  # fmt: skip
        return self.lab.hosts[1].driver(Path(__file__).with_name("driver.py"), json.dumps(told), env=env or self.env)

    def open(self, *steps: int) -> None:
        """Let its workers go on with these steps."""
        gates = self.lab.cluster / "gates" / self.name
        gates.mkdir(parents=True, exist_ok=True)
        for step in steps:
            (gates / str(step)).touch()

    def paths(self, name: str) -> set[str]:
        """What lies in the folder of a checkpoint."""
        if self.in_bucket:
            prefix = self._prefix(name)
            return {key.removeprefix(prefix) for key in self.lab.server.keys(str(self.bucket), prefix)}
        root = self.lab.cluster / self.name / name
        return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}

    def read(self, name: str, path: str) -> bytes:
        """A file of a checkpoint."""
        if not self.in_bucket:
            return (self.lab.cluster / self.name / name / path).read_bytes()
        key = self._prefix(name) + path
        content: bytes = self.lab.server.client().get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return content

    def committed(self, name: str) -> bool:
        """Whether a checkpoint can be resumed from."""
        return f".anystorage/{RECORD}" in self.paths(name)

    def begun(self, name: str) -> list[dict[str, Any]]:
        """What each rank of the attempt that saved a checkpoint began with."""
        paths = sorted(path for path in self.paths(name) if path.startswith("begun-"))
        return [json.loads(self.read(name, path)) for path in paths]

    def held(self, step: int, ranks: int, size: int = SIZE) -> dict[str, str]:
        """What a worker that resumes from a step must find there: the digests of all ranks' files."""
        return {
            f"rank-{rank}": hashlib.sha256(content(self.name, step, rank, size)).hexdigest() for rank in range(ranks)
        }

    def check(self, name: str, ranks: int, size: int = SIZE) -> None:
        """See that a checkpoint holds what its ranks saved, byte by byte, and nothing of another attempt."""
        step = int(name.rpartition("-")[2])
        stored = {path: self.read(name, path) for path in self.paths(name) if path.startswith("rank-")}
        assert stored == {f"rank-{rank}": content(self.name, step, rank, size) for rank in range(ranks)}

    def check_refused(self, said: str, host: Host, *words: str) -> None:
        """See that an error says these words of a host, and that user code did not start on any."""
        name = f"\n  node {host.address} ("
        assert name in said, said
        about = said.rpartition(name)[2].partition("\n  node ")[0].partition("\n  without a fault")[0]
        assert [word for word in words if word not in about] == [], about
        assert not self.paths("step-1")

    def _prefix(self, name: str) -> str:
        return f"{FOLDER}/{self.name}/{name}/"


def spread(workers: int) -> dict[str, Any]:
    """So many workers, as evenly as Ray can on all hosts."""
    return {"num_workers": workers, "placement_strategy": "SPREAD"}
