"""A model that is sharded over its workers, saved by all of them and restored by any other number of them.

    python torch_sharded.py 2 10   # two workers, ten epochs
    python torch_sharded.py 3 20   # three workers go on where the two ended

Two lines differ from a stock Ray script: the one with `anystorage.run_config`, and the one with `anystorage.dcp`, with
which each worker fetches only its own shards; the stock lines stand above them.
"""

import sys
import tempfile

import ray.train
from sklearn.datasets import load_digits

import ray_anystorage as anystorage

try:
    import ray.train.torch
    import torch
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
except ImportError:
    sys.exit("this example needs PyTorch: pip install torch --index-url https://download.pytorch.org/whl/cpu")


def train(config: dict) -> None:
    images, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
    images = images.float() / 16
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    rank, workers = ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()
    fully_shard(model, mesh=init_device_mesh("cpu", (workers,)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)

    def state() -> dict:
        weights, moments = get_state_dict(model, optimizer)
        return {"model": weights, "optimizer": moments, "epoch": 0}

    first = 0
    if checkpoint := ray.train.get_checkpoint():
        saved = state()
        # stock script: with checkpoint.as_directory() as folder: dcp.load(saved, checkpoint_id=folder)
        dcp.load(saved, storage_reader=anystorage.dcp.StorageReader(checkpoint))
        set_state_dict(model, optimizer, model_state_dict=saved["model"], optim_state_dict=saved["optimizer"])
        first = saved["epoch"] + 1
        print(f"rank {rank} of {workers} goes on with epoch {first}")
    for epoch in range(first, config["epochs"]):
        order = torch.randperm(1400, generator=torch.Generator().manual_seed(epoch))
        for batch in order[: 1400 // workers * workers].reshape(-1, workers)[:, rank].split(50):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
        if epoch % 5 < 4:
            continue
        with torch.no_grad():
            accuracy = (model(images[1400:]).argmax(dim=1) == labels[1400:]).float().mean().item()
        with tempfile.TemporaryDirectory() as folder:  # a worker's own: all of them together are the checkpoint
            dcp.save({**state(), "epoch": epoch}, checkpoint_id=folder)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"accuracy": accuracy, "epoch": epoch}, checkpoint=checkpoint)


if __name__ == "__main__":
    workers, epochs = (int(argument) for argument in sys.argv[1:] or ("2", "10"))
    trainer = ray.train.torch.TorchTrainer(
        train,
        train_loop_config={"epochs": epochs},
        scaling_config=ray.train.ScalingConfig(num_workers=workers),
        # stock script: run_config=ray.train.RunConfig(name="digits-sharded", storage_path="/mnt/cluster_storage"),
        run_config=anystorage.run_config("digits-sharded", checkpoint_size="1MB"),
    )
    result = trainer.fit()
    print(f"accuracy {result.metrics['accuracy']:.3f}, checkpoint {result.checkpoint.path}")
