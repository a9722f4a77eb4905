"""Torch inside Tune: each trial is a Train run of its own, which lies in the trial's folder.

Two lines differ from a stock script: the decorator, and the one with `anystorage.run_config`, which takes the
experiment's storage.
"""

import sys
import tempfile
from pathlib import Path

import ray.train
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from sklearn.datasets import load_digits

import ray_anystorage as anystorage

try:
    import ray.train.torch
    import torch
except ImportError:
    sys.exit("this example needs PyTorch: pip install torch --index-url https://download.pytorch.org/whl/cpu")

EPOCHS = 10


def train(config: dict) -> None:
    images, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
    images = images.float() / 16
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"])
    first = 0
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            saved = torch.load(Path(folder, "state.pt"))
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["epoch"] + 1
    for epoch in range(first, EPOCHS):
        for batch in torch.randperm(1400).split(50):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
        if epoch % 5 < 4:
            continue
        with torch.no_grad():
            accuracy = (model(images[1400:]).argmax(dim=1) == labels[1400:]).float().mean().item()
        with tempfile.TemporaryDirectory() as folder:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
            torch.save(state, Path(folder, "state.pt"))
            ray.train.report({"accuracy": accuracy}, checkpoint=ray.train.Checkpoint.from_directory(folder))


@anystorage.tune_experiment("digits-torch-search", checkpoint_size="1MB", verbose=0)
def search(config: dict) -> None:
    ray.train.torch.TorchTrainer(
        train,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        run_config=anystorage.run_config("inner", callbacks=[TuneReportCallback()]),
    ).fit()


if __name__ == "__main__":
    results = search.fit({"lr": tune.grid_search([0.0001, 0.005])}, tune.TuneConfig(max_concurrent_trials=1))
    best = results.get_best_result("accuracy", "max")
    print(f"accuracy {best.metrics['accuracy']:.3f}, checkpoint {best.metrics['checkpoint_path']}")
