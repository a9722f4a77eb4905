"""The manifests: that they parse, say what this package reads, and agree with themselves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_anystorage.settings import read_settings

DEPLOY = Path(__file__).parents[2] / "deploy"
SETTING = re.compile(r"\bRAY_ANYSTORAGE_[A-Z_]+\b")


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def pods(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    spec = cluster["spec"]
    groups = {"head": spec["headGroupSpec"], **{group["groupName"]: group for group in spec["workerGroupSpecs"]}}
    return {name: group["template"]["spec"] for name, group in groups.items()}


def test_every_setting_that_a_manifest_names_is_one() -> None:
    paths = [path for path in DEPLOY.rglob("*") if path.is_file()]
    assert len(paths) >= 4
    for path in paths:
        for name in set(SETTING.findall(path.read_text())):
            value = {"RAY_ANYSTORAGE_THRESHOLD": "10GB", "RAY_ANYSTORAGE_ARTIFACT_STORAGE": "s3://b/f"}.get(name, "/x")
            read_settings({name: value})


def test_kuberay_head_and_workers_have_the_same_storage() -> None:
    (cluster,) = [one for one in documents("kuberay/raycluster.yaml") if one["kind"] == "RayCluster"]
    found = pods(cluster)
    assert set(found) == {"head", "gpu"}
    (claim,) = [one for one in documents("kuberay/raycluster.yaml") if one["kind"] == "PersistentVolumeClaim"]
    (volume,) = [one for one in documents("kuberay/raycluster.yaml") if one["kind"] == "PersistentVolume"]
    (account,) = [one for one in documents("kuberay/raycluster.yaml") if one["kind"] == "ServiceAccount"]
    assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
    assert claim["spec"]["accessModes"] == volume["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in found.values():
        (container,) = pod["containers"]
        (first,) = found["head"]["containers"]
        assert (container["env"], container["volumeMounts"]) == (first["env"], first["volumeMounts"])
        assert pod["serviceAccountName"] == account["metadata"]["name"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
        assert claims == [claim["metadata"]["name"]]
        env = {entry["name"]: entry["value"] for entry in container["env"]}
        settings = read_settings(env)
        roots = {location.tier: location.root for location in settings.locations}
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {roots["cluster"], roots["local"]} == mounted
        assert roots["artifact"] == "s3://example-bucket/ray"
        assert settings.region == "eu-central-1"
    assert not any("SECRET" in name or "KEY" in name for name in env)


def test_the_anyscale_job_reads() -> None:
    (job,) = documents("anyscale/job.yaml")
    assert read_settings(job["env_vars"]).threshold == 10 * 10**9
    assert {"name", "entrypoint", "image_uri", "compute_config", "max_retries"} <= set(job)


def test_the_slurm_script_is_bash(tmp_path: Path) -> None:
    script = DEPLOY / "slurm" / "train.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert script.read_text().startswith("#!/bin/bash\n")


def test_the_slurm_script_starts_a_cluster_and_the_driver(tmp_path: Path) -> None:
    """Slurm's own commands are stand-ins; what it starts is written down."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    tools, said = tmp_path / "bin", tmp_path / "said"
    tools.mkdir()
    stand_ins = {
        "scontrol": "printf 'n1\\nn2\\nn3\\n'",
        "srun": 'case "$*" in *hostname*) echo 10.0.0.1;; *) echo "srun $*" >> "$SAID"; sleep 1;; esac',
        "ray": "exit 0",
        "ray-anystorage": 'echo "doctor $RAY_ADDRESS $RAY_AUTH_MODE ${#RAY_AUTH_TOKEN}" >> "$SAID"',
        # As long as a driver takes at least: the script ends what it started when this ends.
        "python": 'until [ "$(grep -c ^srun "$SAID")" = 2 ]; do sleep 0.02; done\n'
        'echo "driver $* $RAY_ADDRESS $RAY_ANYSTORAGE_CLUSTER_STORAGE" >> "$SAID"',
    }
    for name, body in stand_ins.items():
        (tools / name).write_text(f"#!/bin/bash\n{body}\n")
        (tools / name).chmod(0o755)
    env = {"PATH": f"{tools}:{os.environ['PATH']}", "SAID": str(said), "SLURM_JOB_ID": "12345", "USER": "me"}
    env |= {"SLURM_JOB_NODELIST": "n[1-3]", "RAY_ANYSTORAGE_CLUSTER_STORAGE": str(tmp_path / "cluster")}
    command = ["bash", str(DEPLOY / "slurm" / "train.sbatch"), "train.py"]
    subprocess.run(command, env=env, check=True, timeout=60, cwd=tmp_path)
    lines = said.read_text().splitlines()
    assert any(
        "--nodelist=n1" in line and "ray start --head --node-ip-address=10.0.0.1 --port=22345" in line for line in lines
    )
    assert any("--nodes=2" in line and "--exclude=n1" in line and "--address=10.0.0.1:22345" in line for line in lines)
    assert "doctor 10.0.0.1:22345 token 64" in lines
    assert f"driver train.py 10.0.0.1:22345 {tmp_path / 'cluster'}" in lines
