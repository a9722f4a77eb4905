"""A tiny BERT that tells numbers by their digits, with the Hugging Face Trainer and two workers; resumes.

One line differs from a stock Ray script: the one with `anystorage.run_config`; the stock line stands above it.
Nothing is downloaded: the model is made from its configuration, and the data is counted.
"""

import sys
import tempfile
from pathlib import Path

import ray.train

import ray_anystorage as anystorage

try:
    import ray.train.huggingface.transformers
    import ray.train.torch
    import torch
    import transformers
except ImportError:
    sys.exit("this example needs transformers, accelerate and PyTorch: pip install transformers accelerate torch")


class Numbers(torch.utils.data.Dataset):
    """The four digits of some numbers, and whether their sum is large."""

    def __init__(self, some: range) -> None:
        self.numbers = [n * 7919 % 10_000 for n in some]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        digits = torch.tensor([int(digit) for digit in f"{self.numbers[index]:04}"])
        return {"input_ids": digits, "labels": (digits.sum() > 18).long()}


def accuracy(predicted: transformers.EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((predicted.predictions.argmax(axis=1) == predicted.label_ids).mean())}


def train() -> None:
    config = transformers.BertConfig(
        vocab_size=10, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, num_labels=2
    )
    with tempfile.TemporaryDirectory() as output:
        arguments = transformers.TrainingArguments(
            output_dir=output,
            num_train_epochs=3,
            per_device_train_batch_size=50,
            per_device_eval_batch_size=200,
            learning_rate=0.002,
            eval_strategy="epoch",
            save_strategy="epoch",
            logging_strategy="epoch",
            disable_tqdm=True,
            report_to=[],
            use_cpu=True,
        )
        trainer = transformers.Trainer(
            model=transformers.BertForSequenceClassification(config),
            args=arguments,
            train_dataset=Numbers(range(4000)),
            eval_dataset=Numbers(range(9000, 10_000)),
            compute_metrics=accuracy,
            callbacks=[ray.train.huggingface.transformers.RayTrainReportCallback()],
        )
        trainer = ray.train.huggingface.transformers.prepare_trainer(trainer)
        if checkpoint := ray.train.get_checkpoint():
            with checkpoint.as_directory() as folder:
                trainer.train(resume_from_checkpoint=str(Path(folder, "checkpoint")))
        else:
            trainer.train()


if __name__ == "__main__":
    trainer = ray.train.torch.TorchTrainer(
        train,
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        # stock script: run_config=ray.train.RunConfig(name="numbers-hf", storage_path="/mnt/cluster_storage"),
        run_config=anystorage.run_config("numbers-hf", checkpoint_size="1MB"),
    )
    result = trainer.fit()
    print(f"accuracy {result.metrics['eval_accuracy']:.3f}, checkpoint {result.checkpoint.path}")
