"""Boosted trees on the digits with LightGBMTrainer and two data-parallel workers; goes on from its checkpoint.

One line differs from a stock Ray script: the one with `anystorage.run_config`; the stock line stands above it.
"""

import lightgbm
import ray.train
import ray.train.lightgbm
from ray.train.lightgbm import LightGBMTrainer, RayTrainReportCallback
from sklearn.datasets import load_digits

import ray_anystorage as anystorage

ROUNDS = 6


def train() -> None:
    context = ray.train.get_context()
    images, labels = load_digits(return_X_y=True)
    mine = slice(context.get_world_rank(), 1400, context.get_world_size())
    training = lightgbm.Dataset(images[mine], labels[mine])
    checkpoint = ray.train.get_checkpoint()
    model = RayTrainReportCallback.get_model(checkpoint) if checkpoint else None
    done = model.current_iteration() if model else 0
    if done == ROUNDS:
        return
    lightgbm.train(
        {
            "objective": "multiclass",
            "metric": "multi_error",
            "num_class": 10,
            "learning_rate": 0.5,
            "num_leaves": 15,
            "num_threads": 1,
            "verbosity": -1,
            "tree_learner": "data_parallel",
            "pre_partition": True,
            **ray.train.lightgbm.get_network_params(),
        },
        training,
        num_boost_round=ROUNDS - done,
        init_model=model,
        valid_sets=[lightgbm.Dataset(images[1400:], labels[1400:], reference=training)],
        valid_names=["test"],
        callbacks=[RayTrainReportCallback(frequency=3)],
    )


if __name__ == "__main__":
    trainer = LightGBMTrainer(
        train,
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        # stock script: run_config=ray.train.RunConfig(name="digits-lightgbm", storage_path="/mnt/cluster_storage"),
        run_config=anystorage.run_config("digits-lightgbm", checkpoint_size="1MB"),
    )
    result = trainer.fit()
    model = RayTrainReportCallback.get_model(result.checkpoint)
    images, labels = load_digits(return_X_y=True)
    accuracy = (model.predict(images[1400:]).argmax(axis=1) == labels[1400:]).mean()
    print(f"accuracy {accuracy:.3f}, checkpoint {result.checkpoint.path}")
