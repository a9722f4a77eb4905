"""A small network on the digits with TorchTrainer and two data-parallel workers; resumes from its checkpoint.

One line differs from a stock Ray script: the one with `anystorage.run_config`; the stock line stands above it.
"""

import sys
import tempfile
from pathlib import Path

import ray.train
from sklearn.datasets import load_digits

import ray_anystorage as anystorage

try:
    import ray.train.torch
    import torch
except ImportError:
    sys.exit("this example needs PyTorch: pip install torch --index-url https://download.pytorch.org/whl/cpu")


def train() -> None:
    images, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
    images = images.float() / 16
    data = torch.utils.data.TensorDataset(images[:1400], labels[:1400])
    loader = ray.train.torch.prepare_data_loader(torch.utils.data.DataLoader(data, batch_size=50, shuffle=True))
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    model = ray.train.torch.prepare_model(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    first = 0
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            saved = torch.load(Path(folder, "state.pt"))
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["epoch"] + 1
    for epoch in range(first, 20):
        loader.sampler.set_epoch(epoch)
        for batch, truth in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(batch), truth).backward()
            optimizer.step()
        if epoch % 5 < 4:
            continue
        with torch.no_grad():
            accuracy = (model(images[1400:]).argmax(dim=1) == labels[1400:]).float().mean().item()
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if ray.train.get_context().get_world_rank() == 0:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
                torch.save(state, Path(folder, "state.pt"))
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"accuracy": accuracy}, checkpoint=checkpoint)


if __name__ == "__main__":
    trainer = ray.train.torch.TorchTrainer(
        train,
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        # stock script: run_config=ray.train.RunConfig(name="digits-torch", storage_path="/mnt/cluster_storage"),
        run_config=anystorage.run_config("digits-torch", checkpoint_size="1MB"),
    )
    result = trainer.fit()
    print(f"accuracy {result.metrics['accuracy']:.3f}, checkpoint {result.checkpoint.path}")
