"""What travels to the processes of a run: where its checkpoints' data goes, and no secret."""

from __future__ import annotations

import pickle

import pytest

from ray_anystorage.credentials.grant import Grant, Mode
from ray_anystorage.credentials.redact import Secrets
from ray_anystorage.environment import BucketAddress, Environment, Location, Place
from ray_anystorage.errors import ConfigClashError, UnknownArgumentError
from ray_anystorage.policy import Request, decide
from ray_anystorage.recipe import check_ray_arguments, storage_recipe
from ray_anystorage.resolve import Resolved
from ray_anystorage.settings import Settings
from ray_anystorage.transfer.open_store import BucketRecipe, MountRecipe

GB = 10**9
SECRET = "planted-secret-0123456789abcdef"
HARMLESS = (("AWS_REGION", "eu-west-1"),)
ADDRESS = BucketAddress("s3", "bucket", "org/artifacts", "eu-west-1", "http://127.0.0.1:1")
MOUNT = Place(Location("cluster", "/mnt/cluster_storage", "test", True), "usable", "nfs", "nfs4", True)
BUCKET = Place(Location("artifact", ADDRESS.uri, "test", True), "usable", "bucket", "s3", True, bucket=ADDRESS)


def resolved(*places: Place, mode: Mode = "env", size: int | None = None) -> Resolved:
    secrets = Secrets({"AWS_SECRET_ACCESS_KEY": SECRET} if mode == "env" else {})
    grant = Grant(mode, "the test's keys", "test", HARMLESS, secrets) if BUCKET in places else None
    environment = Environment(
        places,
        nodes=3,
        threshold=7 * GB,
        env_vars=HARMLESS if grant else (),
        secret_names=secrets.names if grant else (),
    )
    plan = decide(environment, Request("run", size))
    return Resolved("run", plan, Settings((), cache_share=0.5), None, None, grant, (("RAY_ANYSTORAGE_X", "y"),))


@pytest.mark.parametrize("mode", ["env", "reference"])
def test_a_run_on_a_mount_knows_where_to_spill(mode: Mode) -> None:
    found = resolved(MOUNT, BUCKET, mode=mode)
    recipe = storage_recipe(found)
    assert recipe.home == MountRecipe("/mnt/cluster_storage/run")
    assert recipe.home.uri == f"{recipe.uri}/{recipe.name}"
    assert recipe.spill is not None
    assert recipe.spill.uri == "s3://bucket/org/artifacts/spilled"
    assert (recipe.spill.mode, recipe.spill.source, recipe.spill.env_vars) == (mode, "the test's keys", HARMLESS)
    assert (recipe.spill.address.region, recipe.spill.address.endpoint) == (ADDRESS.region, ADDRESS.endpoint)
    assert (recipe.threshold, recipe.nodes, recipe.cache_share) == (7 * GB, 3, 0.5)
    secret = {"AWS_SECRET_ACCESS_KEY": SECRET} if mode == "env" else {}
    assert found.worker_env_vars() == {"RAY_ANYSTORAGE_X": "y", **dict(HARMLESS), **secret}


def test_an_argument_that_is_mistyped_is_named_without_what_may_be_secret() -> None:
    for name, value in {"credentails": {"secret": SECRET}, "secret_access_key": SECRET}.items():
        with pytest.raises(UnknownArgumentError, match=f"{name}=.*did you mean") as caught:
            check_ray_arguments({name: value}, {"callbacks"})
        assert SECRET not in str(caught.value)
    with pytest.raises(ConfigClashError, match="storage_filesystem=<dict> clashes"):
        check_ray_arguments({"storage_filesystem": {"secret": SECRET}}, {"storage_filesystem"})
    with pytest.raises(UnknownArgumentError, match="checkpointsize='1GB'"):
        check_ray_arguments({"checkpointsize": "1GB"}, {"callbacks"})


def test_a_run_in_the_bucket_spills_nowhere() -> None:
    recipe = storage_recipe(resolved(MOUNT, BUCKET, size=60 * GB))
    assert recipe.spill is None
    assert isinstance(recipe.home, BucketRecipe)
    assert recipe.home.uri == "s3://bucket/org/artifacts/run" == f"{recipe.uri}/{recipe.name}"
    assert (recipe.home.mode, recipe.home.env_vars) == ("env", HARMLESS)


def test_a_run_without_a_bucket_carries_nothing_for_one() -> None:
    found = resolved(MOUNT)
    assert storage_recipe(found).spill is None
    assert found.worker_env_vars() == {"RAY_ANYSTORAGE_X": "y"}


@pytest.mark.parametrize("size", [None, 60 * GB])
def test_recipes_pickle_without_a_secret(size: int | None) -> None:
    recipe = storage_recipe(resolved(MOUNT, BUCKET, size=size))
    pickled = pickle.dumps(recipe)
    assert pickle.loads(pickled) == recipe
    assert SECRET.encode() not in pickled
    assert SECRET not in repr(recipe)
