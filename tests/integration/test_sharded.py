"""Checkpoints of torch.distributed.checkpoint: on a directory and in a real bucket, by several ranks, whole or not."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (optional; .ci/run tries its CPU build)")

from torch.distributed import checkpoint as dcp  # noqa: E402
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter  # noqa: E402
from torch.distributed.checkpoint.api import CheckpointException  # noqa: E402

import ray_anystorage as anystorage  # noqa: E402
from ray_anystorage import errors  # noqa: E402
from ray_anystorage.dcp.places import folder_of  # noqa: E402
from ray_anystorage.dcp.stored_range import StoredRange  # noqa: E402
from ray_anystorage.dcp.tensors import load_part  # noqa: E402
from ray_anystorage.testing.s3_server import S3Server  # noqa: E402
from ray_anystorage.tier_filesystem import AnyStorageFileSystem  # noqa: E402
from ray_anystorage.transfer.segments import Segment, cut_evenly  # noqa: E402
from tests.harness.counting_proxy import counting_proxy  # noqa: E402
from tests.harness.faulty_proxy import FaultyProxy, faulty_proxy, share  # noqa: E402
from tests.harness.ray_cluster import clean_environment, leave_clean  # noqa: E402
from tests.harness.s3 import artifact_env  # noqa: E402
from tests.harness.torch_ranks import one_process, run_ranks  # noqa: E402
from tests.harness.waiting import wait_until  # noqa: E402

TIERS = ("shared", "artifact")
LARGE = 10_500_000  # float32: more than what is read at once


@pytest.fixture(autouse=True)
def site(tmp_path: Path, s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A team's directory and bucket; torch says each time that there is but one rank."""
    leave_clean(monkeypatch)
    (tmp_path / "shared").mkdir()
    env = {
        **s3_server.env(),
        **artifact_env(s3_server, f"{bucket}/team"),
        "RAY_ANYSTORAGE_SHARED_STORAGE": str(tmp_path / "shared"),
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield env


def state(times: int = 1) -> dict[str, Any]:
    return {
        "model": {
            "large": torch.arange(LARGE, dtype=torch.float32).reshape(-1, 100) * times,
            "turned": torch.arange(600.0).reshape(20, 30).t() * times,
            "many": {str(n): torch.full((50,), n * times) for n in range(40)},
        },
        "empty": torch.zeros(0),
        "step": 7 * times,
        "name": "x" * times,
    }


def small(times: int = 1) -> dict[str, Any]:
    return {"weights": torch.arange(1000.0) * times, "step": times}


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def save(what: dict[str, Any], place: Any, **options: Any) -> None:
    dcp.save(what, storage_writer=anystorage.dcp.StorageWriter(place, **options))


def load(into: dict[str, Any], place: Any) -> dict[str, Any]:
    dcp.load(into, storage_reader=anystorage.dcp.StorageReader(place))
    return into


def without_values(what: dict[str, Any]) -> dict[str, Any]:
    zero = state(0)
    return {key: zero[key] for key in what}


def failure(act: Callable[[], Any]) -> BaseException:
    """What happened in the only rank."""
    with pytest.raises(CheckpointException) as caught:
        act()
    return caught.value.failures[0][0]


def names_at(place: str) -> list[str]:
    return sorted(folder_of(place).names())


def stored(place: str, name: str) -> bytes:
    store = folder_of(place).store
    content = bytearray(store.size(name))
    store.read_range(name, 0, memoryview(content))
    return bytes(content)


# --- what is saved is loaded ----------------------------------------------------------------------


@pytest.mark.parametrize("tier", TIERS)
def test_all_kinds_of_values_come_back(tier: str) -> None:
    saved = state()
    save(saved, f"{tier}:one")
    assert equal(load(state(0), f"{tier}:one"), saved)
    assert equal(load(state(0), f"anystorage://{tier}/one"), saved)
    assert equal(load(state(0), folder_of(f"{tier}:one").uri), saved)


@pytest.mark.parametrize("tier", TIERS)
def test_torch_reads_what_is_written_here_and_the_other_way_round(tier: str, tmp_path: Path) -> None:
    """Through torch's own reader and writer for fsspec, on a tier."""
    AnyStorageFileSystem.clear_instance_cache()
    saved, other = state(), small(3)
    save(saved, f"{tier}:ours")
    into = state(0)
    dcp.load(into, storage_reader=FsspecReader(f"anystorage://{tier}/ours"))
    assert equal(into, saved)
    dcp.save(other, storage_writer=FsspecWriter(f"anystorage://{tier}/torch"))
    into = small(0)
    dcp.load(into, storage_reader=FsspecReader(f"anystorage://{tier}/torch"))
    assert equal(into, other)
    assert equal(load(small(0), f"{tier}:torch"), other)
    into = small(0)
    dcp.load(into, checkpoint_id=f"anystorage://{tier}/torch")  # torch finds the file system by itself
    assert equal(into, other)


@pytest.mark.parametrize("tier", TIERS)
def test_saving_goes_on_in_the_background_with_the_values_of_then(tier: str) -> None:
    what, writer = small(2), anystorage.dcp.StorageWriter(f"{tier}:one")
    first = dcp.async_save(what, storage_writer=writer)
    what["weights"].zero_()
    first.result()
    what["weights"] += 5
    dcp.async_save(what, storage_writer=writer, checkpoint_id=f"{tier}:two").result()
    assert equal(load(small(0), f"{tier}:one")["weights"], small(2)["weights"])
    assert equal(load(small(0), f"{tier}:two")["weights"], torch.full((1000,), 5.0))


@pytest.mark.soak
def test_saving_goes_on_in_a_process_of_its_own(site: dict[str, str], tmp_path: Path) -> None:
    run_ranks(1, save_in_a_process, "artifact:one", env=site, meet=tmp_path / "meet")
    assert equal(load(small(0), "artifact:one"), small(2))


def save_in_a_process(place: str) -> None:
    from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

    writer = anystorage.dcp.StorageWriter(place)
    dcp.async_save(small(2), storage_writer=writer, async_checkpointer_type=AsyncCheckpointerType.PROCESS).result()


def test_another_place_by_checkpoint_id() -> None:
    writer, reader = anystorage.dcp.StorageWriter("shared:a"), anystorage.dcp.StorageReader("shared:a")
    for step in (1, 2):
        dcp.save(small(step), storage_writer=writer, checkpoint_id=f"artifact:run/{step}")
    for step in (1, 2):
        into = small(0)
        dcp.load(into, storage_reader=reader, checkpoint_id=f"artifact:run/{step}")
        assert equal(into, small(step))


# --- several ranks --------------------------------------------------------------------------------


def sharded(times: int) -> dict[str, Any]:
    """Rows of a matrix shared among the ranks, columns of another, and what all have."""
    import torch.distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    full = torch.arange(2_400_000, dtype=torch.float32).reshape(24_000, 100) * times
    return {
        "rows": distribute_tensor(full, mesh, [Shard(0)]),
        "columns": distribute_tensor(full[:120].clone(), mesh, [Shard(1)]),
        "all": distribute_tensor(full[0].clone(), mesh, [Replicate()]),
        "step": times,
    }


def save_and_load_sharded(place: str) -> bool:
    save(sharded(3), place)
    return load_sharded(place)


def load_sharded(place: str) -> bool:
    into, wanted = sharded(0), sharded(3)
    load(into, place)
    same = all(torch.equal(into[key].to_local(), wanted[key].to_local()) for key in ("rows", "columns", "all"))
    return same and into["step"] == 3


@pytest.mark.parametrize("tier", [pytest.param("shared", marks=pytest.mark.soak), "artifact"])
def test_another_number_of_ranks_loads_and_each_fetches_only_what_it_needs(
    tier: str, site: dict[str, str], s3_server: S3Server, tmp_path: Path
) -> None:
    with counting_proxy(s3_server.endpoint) as proxy:
        env = {**site, "RAY_ANYSTORAGE_ENDPOINT": proxy.endpoint}
        for ranks, act in ((2, save_and_load_sharded), (3, load_sharded)):
            proxy.phase = str(ranks)
            assert run_ranks(ranks, act, f"{tier}:two", env=env, meet=tmp_path / str(ranks)) == [True] * ranks
    parts = [name for name in names_at(f"{tier}:two") if name.endswith(".distcp")]
    assert len(parts) == 2
    size = sum(len(stored(f"{tier}:two", name)) for name in parts)
    if tier == "artifact":
        fetched = [sum(n for key, n in proxy.fetched[str(k)].items() if key.endswith(".distcp")) for k in (2, 3)]
        # Each rank its own rows and columns once, and the few bytes that all have.
        assert 0.99 * size < fetched[0] < size + 10_000
        # The middle one of three needs rows of both files, and each needs a part of what is verified as a whole.
        assert fetched[1] < 2.1 * size


@pytest.mark.soak
@pytest.mark.parametrize("tier", TIERS)
def test_ranks_that_do_not_wait_for_each_other(tier: str, site: dict[str, str], tmp_path: Path) -> None:
    """Each has a metadata file of its own then."""
    assert run_ranks(2, save_and_load_apart, f"{tier}:apart", env=site, meet=tmp_path / "meet") == [True, True]
    assert [name for name in names_at(f"{tier}:apart") if "metadata" in name] == ["__0.metadata", "__1.metadata"]
    assert len(names_at(f"{tier}:apart")) == 4


def save_and_load_apart(place: str) -> bool:
    import torch.distributed

    what = small(torch.distributed.get_rank() + 1)
    dcp.save(what, storage_writer=anystorage.dcp.StorageWriter(place), use_collectives=False)
    return equal(load(small(0), place), what)


def test_what_is_not_asked_for_is_not_fetched(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    save({"large": torch.ones(LARGE), "small": torch.arange(5000.0), "step": 3}, "artifact:one")
    with counting_proxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("RAY_ANYSTORAGE_ENDPOINT", proxy.endpoint)
        into = load({"small": torch.zeros(5000)}, "artifact:one")
    assert torch.equal(into["small"], torch.arange(5000.0))
    fetched = sum(n for key, n in proxy.fetched[""].items() if key.endswith(".distcp"))
    assert 20_000 < fetched < 23_000  # torch.save's frame is about 1.5 kB


@pytest.mark.parametrize(
    ("offsets", "lengths", "megabytes"),
    [((5000, 0), (1000, 1000), 22), ((19_999, 0), (1, 1000), 16), ((0, 7), (20_000, 3), 80), ((0, 0), (1, 1), 16)],
    ids=["rows", "last-row", "columns", "first"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_part_of_a_large_tensor_is_read_alone(
    offsets: tuple[int, ...], lengths: tuple[int, ...], megabytes: int, dtype: Any
) -> None:
    whole = torch.arange(20_000_000 * 4 // dtype.itemsize, dtype=torch.float32).to(dtype).reshape(20_000, -1)
    frame = io.BytesIO()
    torch.save(whole, frame)
    content = frame.getvalue()
    read = 0

    def fill(segments: Sequence[Segment], into: memoryview) -> None:
        nonlocal read
        read += len(into)
        into[:] = content[segments[0].offset : segments[-1].offset + segments[-1].size]

    part = load_part(StoredRange(fill, cut_evenly(0, len(content)), 0, len(content)), offsets, lengths)
    assert torch.equal(part, whole[offsets[0] :, offsets[1] :][: lengths[0], : lengths[1]])
    assert read <= megabytes * 1_000_000 + (8 << 20)


@pytest.mark.soak
def test_rows_of_a_large_tensor_are_fetched_alone(s3_server: S3Server, site: dict[str, str], tmp_path: Path) -> None:
    save({"rows": torch.arange(24_000_000, dtype=torch.float32).reshape(240_000, 100)}, "artifact:one")
    with counting_proxy(s3_server.endpoint) as proxy:
        env = {**site, "RAY_ANYSTORAGE_ENDPOINT": proxy.endpoint}
        assert run_ranks(4, load_rows, "artifact:one", env=env, meet=tmp_path / "meet") == [True] * 4
    fetched = sum(n for key, n in proxy.fetched[""].items() if key.endswith(".distcp"))
    # 96 MB in segments of 8 MiB. A rank needs 24 MB: four segments, or five, and the first and the last.
    assert fetched <= 4 * 6.5 * (8 << 20)


def load_rows(place: str) -> bool:
    import torch.distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    into = {"rows": distribute_tensor(torch.zeros(240_000, 100), mesh, [Shard(0)])}
    load(into, place)
    mine = torch.arange(6_000_000, dtype=torch.float32) + torch.distributed.get_rank() * 6_000_000
    return torch.equal(into["rows"].to_local().flatten(), mine)


# --- whole or not ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("tier", "where"), [("shared", "begin"), ("artifact", "middle"), ("shared", "end")])
def test_a_flipped_bit_is_found_and_its_file_named(tier: str, where: str) -> None:
    saved = {key: value for key, value in state().items() if key != "empty"}  # of which nothing is read
    save(saved, f"{tier}:one")
    store = folder_of(f"{tier}:one").store
    for name in names_at(f"{tier}:one"):
        good = stored(f"{tier}:one", name)
        bad = bytearray(good)
        bad[{"begin": 9, "middle": len(good) // 2, "end": len(good) - 9}[where]] ^= 4
        store.write_small(name, bytes(bad))
        found = failure(lambda: load(without_values(saved), f"{tier}:one"))
        assert name in str(found)
        if name != ".metadata":  # where torch makes something else of it
            assert isinstance(found, errors.CheckpointCorruptedError)
            assert isinstance(pickle.loads(pickle.dumps(found)), errors.CheckpointCorruptedError)
        store.write_small(name, good)
    assert equal(load(without_values(saved), f"{tier}:one"), saved)


@pytest.mark.parametrize("tier", TIERS)
def test_a_part_that_is_gone_or_cut_off_is_found(tier: str) -> None:
    save(small(), f"{tier}:one")
    store = folder_of(f"{tier}:one").store
    (part,) = (name for name in names_at(f"{tier}:one") if name != ".metadata")
    store.write_small(part, stored(f"{tier}:one", part)[:-1])
    assert isinstance(failure(lambda: load(small(0), f"{tier}:one")), errors.CheckpointCorruptedError)
    store.delete([part])
    assert part in str(failure(lambda: load(small(0), f"{tier}:one")))
    store.delete([".metadata"])
    assert "there is no sharded checkpoint" in str(failure(lambda: load(small(0), f"{tier}:one")))
    with pytest.raises(errors.CheckpointMissingError):
        anystorage.dcp.StorageReader(f"{tier}:one").read_metadata()


def save_small(times: int, place: str) -> None:
    save(small(times), place)


def test_a_save_that_was_killed_is_no_checkpoint_and_leaves_the_one_before(
    site: dict[str, str], s3_server: S3Server
) -> None:
    """The process is killed when all but the metadata is stored."""
    with faulty_proxy(s3_server.endpoint) as proxy:
        proxy.rule = lambda method, path: "stall" if method == "PUT" and ".metadata" in path else None
        env = {**site, "RAY_ANYSTORAGE_ENDPOINT": proxy.endpoint}
        for place in ("artifact:new", "artifact:again"):
            if place.endswith("again"):
                save(small(1), place)
            stalls = proxy.faults["stall"]
            with one_process(save_small, 2, place, env=env):
                wait_until(lambda before=stalls: proxy.faults["stall"] > before, 60, "the metadata is sent")
    assert "a save that did not end" in str(failure(lambda: load(small(0), "artifact:new")))
    with pytest.raises(errors.CheckpointIncompleteError):
        anystorage.dcp.StorageReader("artifact:new").read_metadata()
    assert len(names_at("artifact:again")) == 3
    assert equal(load(small(0), "artifact:again"), small(1))
    save(small(3), "artifact:again")
    assert len(names_at("artifact:again")) == 2, "what a killed save left is removed by the next"
    assert equal(load(small(0), "artifact:again"), small(3))


def test_a_checkpoint_is_not_replaced_unless_that_is_allowed() -> None:
    save(small(1), "shared:one")
    found = failure(lambda: save(small(2), "shared:one", overwrite=False))
    assert isinstance(found, errors.CheckpointExistsError)
    assert equal(load(small(0), "shared:one"), small(1))


@pytest.fixture
def proxy(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3_server.endpoint) as running:
        monkeypatch.setenv("RAY_ANYSTORAGE_ENDPOINT", running.endpoint)
        yield running


def test_failing_requests_are_made_again(proxy: FaultyProxy) -> None:
    save(small(), "artifact:first")  # so that the bucket's volume is there
    proxy.rule = share(20, ("503", "500", "reset", "truncate", "flip"))
    saved = state()
    save(saved, "artifact:one")
    assert equal(load(state(0), "artifact:one"), saved)
    assert proxy.faults.total() > 3


def test_a_refused_part_fails_the_save_and_leaves_no_upload(proxy: FaultyProxy) -> None:
    proxy.rule = lambda method, path: "404" if "partNumber=3" in path else None
    assert isinstance(failure(lambda: save(state(), "artifact:one")), errors.StorageError)
    proxy.rule = lambda method, path: None
    store = folder_of("artifact:one").store
    assert list(store.unfinished("")) == []
    assert names_at("artifact:one") == []


# --- at the edges ---------------------------------------------------------------------------------


def test_a_writer_pickles_without_secrets(site: dict[str, str]) -> None:
    pickled = pickle.dumps(anystorage.dcp.StorageWriter("artifact:one"))
    assert site["AWS_SECRET_ACCESS_KEY"].encode() not in pickled
    dcp.save(small(), storage_writer=pickle.loads(pickled))
    assert equal(load(small(0), "artifact:one"), small())


def test_places_that_cannot_be_meant() -> None:
    for place in ("nowhere:x", "shared:*", "anystorage://nowhere/x", "http://x/y"):
        with pytest.raises(errors.RequestError):
            anystorage.dcp.StorageWriter(place)
    with pytest.raises(errors.RequestError, match=r"anystorage\.Checkpoint"):
        anystorage.dcp.StorageReader(object())
    assert not anystorage.dcp.StorageWriter.validate_checkpoint_id("http://x/y")
    assert anystorage.dcp.StorageReader.validate_checkpoint_id("shared:x")


def test_without_torch_an_error_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')\n")
    program = "import ray_anystorage as anystorage; anystorage.dcp.StorageWriter('x')"
    env = clean_environment({"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])})
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert "LibraryMissingError: anystorage.dcp.StorageWriter needs PyTorch: pip install torch" in done.stderr


@pytest.mark.soak
def test_memory_is_bounded(site: dict[str, str], tmp_path: Path) -> None:
    saving, loading = run_ranks(1, save_and_load_much, "shared:one", env=site, meet=tmp_path / "meet")[0]
    assert saving < 320 << 20
    assert loading < (1000 << 20) + (320 << 20)  # torch.load's own copy of one tensor


def save_and_load_much(place: str) -> tuple[int, int]:
    """Bytes that saving and loading a tensor of 1000 MiB add to the most that this process ever held."""
    import resource

    def most() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

    what = {"one": torch.ones(250 << 20)}
    save(small(), f"{place}/first")
    before = most()
    save(what, place)
    after = most()
    load(what, place)
    return after - before, most() - after
