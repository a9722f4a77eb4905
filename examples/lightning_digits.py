"""A small network on the digits with Lightning and two data-parallel workers; resumes from its checkpoint.

One line differs from a stock Ray script: the one with `anystorage.run_config`; the stock line stands above it.
"""

import sys
from pathlib import Path

import ray.train
from sklearn.datasets import load_digits

import ray_anystorage as anystorage

try:
    import lightning.pytorch as pl
    import ray.train.lightning
    import ray.train.torch
    import torch
except ImportError:
    sys.exit("this example needs Lightning and PyTorch: pip install lightning torch")


class Digits(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.layers(images), labels)

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        images, labels = batch
        self.log("accuracy", (self.layers(images).argmax(dim=1) == labels).float().mean(), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.005)


def train() -> None:
    images, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
    images = images.float() / 16
    seen = torch.utils.data.TensorDataset(images[:1400], labels[:1400])
    unseen = torch.utils.data.TensorDataset(images[1400:], labels[1400:])
    trainer = pl.Trainer(
        max_epochs=4,
        accelerator="cpu",
        devices="auto",
        strategy=ray.train.lightning.RayDDPStrategy(),
        plugins=[ray.train.lightning.RayLightningEnvironment()],
        callbacks=[ray.train.lightning.RayTrainReportCallback()],
        enable_progress_bar=False,
        enable_checkpointing=False,
        logger=False,
    )
    trainer = ray.train.lightning.prepare_trainer(trainer)
    loaders = (
        torch.utils.data.DataLoader(seen, batch_size=25, shuffle=True),
        torch.utils.data.DataLoader(unseen, batch_size=100),
    )
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            trainer.fit(Digits(), *loaders, ckpt_path=str(Path(folder, "checkpoint.ckpt")))
    else:
        trainer.fit(Digits(), *loaders)


if __name__ == "__main__":
    trainer = ray.train.torch.TorchTrainer(
        train,
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        # stock script: run_config=ray.train.RunConfig(name="digits-lightning", storage_path="/mnt/cluster_storage"),
        run_config=anystorage.run_config("digits-lightning", checkpoint_size="1MB"),
    )
    result = trainer.fit()
    print(f"accuracy {result.metrics['accuracy']:.3f}, checkpoint {result.checkpoint.path}")
