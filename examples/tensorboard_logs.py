"""TensorBoard logs of a run on cluster storage, where TensorBoard reads them while the run goes on.

python examples/tensorboard_logs.py &
tensorboard --logdir /mnt/cluster_storage/artifacts
"""

import sys

import numpy as np
import ray.train
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from tensorboardX import SummaryWriter

import ray_anystorage as anystorage


def train(config: dict) -> None:
    images, labels = load_digits(return_X_y=True)
    chance = np.random.default_rng(seed=0)
    classifier = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.002, random_state=0)
    with SummaryWriter(anystorage.artifacts_dir(), flush_secs=1) as writer:
        for epoch in range(config["epochs"]):
            order = chance.permutation(1400)
            classifier.partial_fit(images[order] / 16, labels[order], classes=range(10))
            accuracy = classifier.score(images[1400:] / 16, labels[1400:])
            writer.add_scalar("test/accuracy", accuracy, epoch)
            writer.flush()
            ray.train.report({"accuracy": accuracy, "epoch": epoch})


if __name__ == "__main__":
    trainer = DataParallelTrainer(
        train,
        train_loop_config={"epochs": int(sys.argv[1]) if len(sys.argv) > 1 else 10},
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        run_config=anystorage.run_config("digits-tensorboard", checkpoint_size="1MB"),
    )
    trainer.fit()
    print(f"logs in {anystorage.artifacts_dir('digits-tensorboard')}")
