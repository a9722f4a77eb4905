"""Boosted trees on the digits, searched over with Optuna: run it again after an interruption, and it goes on.

One line differs from a stock script: the decorator; and `fit` is asked of the function instead of a `tune.Tuner`.
"""

import sys

import lightgbm
from ray import tune
from ray.tune.integration.lightgbm import TuneReportCheckpointCallback
from sklearn.datasets import load_digits

import ray_anystorage as anystorage

try:
    import optuna  # noqa: F401 - the search below needs it
    from ray.tune.search.optuna import OptunaSearch
except ImportError:
    sys.exit("this example needs Optuna: pip install optuna")

ROUNDS = 6


@anystorage.tune_experiment("digits-optuna", checkpoint_size="1MB", verbose=0)
def train(config: dict) -> None:
    images, labels = load_digits(return_X_y=True)
    checkpoint = tune.get_checkpoint()
    model = TuneReportCheckpointCallback.get_model(checkpoint) if checkpoint else None
    done = model.current_iteration() if model else 0
    if done == ROUNDS:
        return
    training = lightgbm.Dataset(images[:1400], labels[:1400])
    lightgbm.train(
        {
            "objective": "multiclass",
            "metric": "multi_error",
            "num_class": 10,
            "num_threads": 1,
            "verbosity": -1,
            **config,
        },
        training,
        num_boost_round=ROUNDS - done,
        init_model=model,
        valid_sets=[lightgbm.Dataset(images[1400:], labels[1400:], reference=training)],
        valid_names=["test"],
        callbacks=[TuneReportCheckpointCallback({"error": "test-multi_error"}, frequency=3)],
    )


if __name__ == "__main__":
    results = train.fit(
        {"learning_rate": tune.loguniform(0.1, 1.0), "num_leaves": tune.randint(4, 32)},
        tune.TuneConfig(metric="error", mode="min", search_alg=OptunaSearch(seed=0), num_samples=4),
    )
    best = results.get_best_result()
    model = TuneReportCheckpointCallback.get_model(best.checkpoint)
    images, labels = load_digits(return_X_y=True)
    accuracy = (model.predict(images[1400:]).argmax(axis=1) == labels[1400:]).mean()
    print(f"accuracy {accuracy:.3f}, checkpoint {best.checkpoint.path}")
