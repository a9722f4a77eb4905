"""Sizes of checkpoints: published parameter counts, and the very files that torch.save writes."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from ray_anystorage.errors import RequestError
from ray_anystorage.estimate import estimate_checkpoint_size

WITHIN = 0.05

# The configs as published on the Hub; the counts are those that `transformers` 5.23 builds from them.
LLAMA_2_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
}
PUBLISHED = {
    "llama-2-7b": (LLAMA_2_7B, 6_738_415_616),
    "llama-3.2-1b": (
        {
            "model_type": "llama",
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "vocab_size": 128256,
            "tie_word_embeddings": True,
        },
        1_235_814_400,
    ),
    "mixtral-8x7b": (
        {
            "model_type": "mixtral",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "vocab_size": 32000,
        },
        46_702_792_704,
    ),
    "qwen3-30b-a3b": (
        {
            "model_type": "qwen3_moe",
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_experts": 128,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "vocab_size": 151936,
        },
        30_532_122_624,
    ),
    "gemma-7b": (
        {
            "model_type": "gemma",
            "hidden_size": 3072,
            "intermediate_size": 24576,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "head_dim": 256,
            "vocab_size": 256000,
        },
        8_537_680_896,
    ),
    "gpt2": (
        {
            "model_type": "gpt2",
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
            "n_positions": 1024,
            "vocab_size": 50257,
        },
        124_439_808,
    ),
    "bert-base-uncased": (
        {
            "model_type": "bert",
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "max_position_embeddings": 512,
            "type_vocab_size": 2,
            "vocab_size": 30522,
        },
        109_482_240,
    ),
    "pythia-1b": (
        {
            "model_type": "gpt_neox",
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 8,
            "vocab_size": 50304,
        },
        1_011_781_632,
    ),
}


# --- numbers and configs, without torch -----------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "optimizer", "expected"),
    [
        (1_000_000, None, 4_000_000),
        (1_000_000, "adam", 12_000_000),
        (1_000_000, "AdamW", 12_000_000),
        (1_000_000, "sgd", 4_000_000),
        (1_000_000, "rmsprop", 8_000_000),
        ("7B", None, 28_000_000_000),
        ("1.5b", "adamw", 18_000_000_000),
        ("350 M", None, 1_400_000_000),
        ("1000", None, 4_000),
    ],
)
def test_parameter_counts(model: int | str, optimizer: str | None, expected: int) -> None:
    assert estimate_checkpoint_size(model, optimizer) == expected


@pytest.mark.parametrize("name", PUBLISHED)
def test_configs_meet_the_published_counts(name: str) -> None:
    config, published = PUBLISHED[name]
    item_bytes = 2 if "torch_dtype" in config else 4
    assert estimate_checkpoint_size(config) == pytest.approx(published * item_bytes, rel=0.002)


def test_adam_triples_a_config() -> None:
    assert estimate_checkpoint_size(LLAMA_2_7B, "adamw") == 3 * estimate_checkpoint_size(LLAMA_2_7B)


def test_a_config_object_reads_like_its_dict() -> None:
    config = types.SimpleNamespace(**LLAMA_2_7B)
    assert estimate_checkpoint_size(config) == estimate_checkpoint_size(LLAMA_2_7B)


@pytest.mark.parametrize(
    ("dtype", "item_bytes"), [("bfloat16", 2), ("torch.float32", 4), (None, 4), ("float64", 8), ("float8_e4m3fn", 1)]
)
def test_the_dtype_of_a_config_counts(dtype: str | None, item_bytes: int) -> None:
    config = {**LLAMA_2_7B, "torch_dtype": None, "dtype": dtype}
    assert estimate_checkpoint_size(config) * 2 == estimate_checkpoint_size(LLAMA_2_7B) * item_bytes


@pytest.mark.parametrize(
    ("model", "optimizer", "said"),
    [
        (0, None, "above 0"),
        (-5, None, "above 0"),
        (True, None, "bool"),
        (7e9, None, "float"),
        ("7 parsecs", None, "7 parsecs"),
        ("0.1", None, "above 0"),
        (None, None, "NoneType"),
        (object(), None, "torch module"),
        ({"model_type": "t5"}, None, "'t5'.*meta"),
        ({"model_type": "llama", "vocab_size": 10}, None, "hidden_size"),
        ({**LLAMA_2_7B, "num_hidden_layers": "32"}, None, "num_hidden_layers"),
        ({**LLAMA_2_7B, "torch_dtype": "float3"}, None, "float3"),
        (10, "lion", "'lion'.*adamw.*first step"),
        (10, object(), "object is not a torch.optim.Optimizer"),
    ],
)
def test_what_cannot_be_told_is_refused_with_a_way_out(model: Any, optimizer: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        estimate_checkpoint_size(model, optimizer)
    assert isinstance(caught.value, ValueError)


def test_torch_is_not_imported() -> None:
    code = (
        "import sys; from ray_anystorage.estimate import estimate_checkpoint_size as estimate;"
        f"estimate('7B', 'adam'); estimate({LLAMA_2_7B!r}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- against the files of torch.save --------------------------------------------------------------


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed (optional; .ci/run tries its CPU build)")


def saved_bytes(torch: Any, folder: Path, model: Any, optimizer: Any = None) -> int:
    state = {"model": model.state_dict()} | ({"optimizer": optimizer.state_dict()} if optimizer else {})
    torch.save(state, folder / "checkpoint.pt")
    return (folder / "checkpoint.pt").stat().st_size


def step(torch: Any, model: Any, optimizer: Any) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def transformer(torch: Any, dtype: Any = None) -> Any:
    """A language model of the usual make: tied head, a persistent and a non-persistent buffer, batch norm."""
    nn = torch.nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(500, 64)
            self.blocks = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128), 2, enable_nested_tensor=False)
            self.norm = nn.BatchNorm1d(64)
            self.head = nn.Linear(64, 500, bias=False)
            self.head.weight = self.embedding.weight
            self.register_buffer("kept", torch.zeros(10_000))
            self.register_buffer("not_kept", torch.zeros(1_000_000), persistent=False)

    return Model().to(dtype or torch.float32)


def small_classifier(torch: Any, dtype: Any = None) -> Any:
    nn = torch.nn
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).to(dtype or torch.float32)


@pytest.mark.parametrize("make", [transformer, small_classifier])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("name", [None, "Adam", "AdamW", "SGD"])
def test_before_and_after_training_it_meets_the_file(
    torch: Any, tmp_path: Path, make: Any, dtype: str, name: str | None
) -> None:
    model = make(torch, getattr(torch, dtype))
    optimizer = getattr(torch.optim, name)(model.parameters()) if name else None
    predicted = estimate_checkpoint_size(model, optimizer)
    if optimizer:
        assert estimate_checkpoint_size(model, str(name)) == predicted
        step(torch, model, optimizer)
    written = saved_bytes(torch, tmp_path, model, optimizer)
    assert predicted == pytest.approx(written, rel=WITHIN)
    assert estimate_checkpoint_size(model, optimizer) == pytest.approx(written, rel=WITHIN)


OPTIMIZERS = [
    ("Adadelta", {}),
    ("Adagrad", {}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {"amsgrad": True}),
    ("Adamax", {}),
    ("ASGD", {}),
    ("Muon", {}),
    ("NAdam", {}),
    ("RAdam", {}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.9, "centered": True}),
    ("Rprop", {}),
    ("SGD", {"momentum": 0.9}),
]


@pytest.mark.parametrize(("name", "arguments"), OPTIMIZERS, ids=str)
def test_the_predicted_state_is_the_state_after_a_step(
    torch: Any, tmp_path: Path, name: str, arguments: dict[str, Any]
) -> None:
    layers = [torch.nn.Linear(100, 100, bias=False) for _ in range(3)]  # Muon takes matrices only
    model = torch.nn.Sequential(*layers)
    optimizer = getattr(torch.optim, name)(model.parameters(), **arguments)
    predicted = estimate_checkpoint_size(model, optimizer)
    step(torch, model, optimizer)
    assert estimate_checkpoint_size(model, optimizer) == pytest.approx(predicted, rel=0.001)
    assert predicted == pytest.approx(saved_bytes(torch, tmp_path, model, optimizer), rel=WITHIN)


def test_frozen_parameters_have_no_state(torch: Any, tmp_path: Path) -> None:
    model = small_classifier(torch)
    model[0].requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters())
    predicted = estimate_checkpoint_size(model, optimizer)
    step(torch, model, optimizer)
    assert predicted == pytest.approx(saved_bytes(torch, tmp_path, model, optimizer), rel=WITHIN)


def test_a_view_costs_the_whole_storage_as_in_the_file(torch: Any, tmp_path: Path) -> None:
    model = torch.nn.Module()
    model.register_buffer("row", torch.zeros(1000, 100)[0])
    model.register_buffer("other_row", model.row)
    assert estimate_checkpoint_size(model) == pytest.approx(saved_bytes(torch, tmp_path, model), rel=WITHIN)


def test_a_model_on_the_meta_device_is_sized_without_memory(torch: Any) -> None:
    with torch.device("meta"):
        model = torch.nn.Sequential(*(torch.nn.Linear(100_000, 10_000, bias=False) for _ in range(7)))
        model[1].weight = model[0].weight
    expected = 6 * 100_000 * 10_000 * 4
    assert estimate_checkpoint_size(model) == pytest.approx(expected, rel=0.001)
    assert estimate_checkpoint_size(model, torch.optim.AdamW(model.parameters())) == pytest.approx(
        3 * expected, rel=0.001
    )


def test_sharded_parameters_count_whole(torch: Any) -> None:
    distributed = pytest.importorskip("torch.distributed.tensor", reason="this torch has no DTensor")
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        model = torch.nn.Linear(1000, 1000, bias=False)
        sharded = distributed.distribute_tensor(model.weight, mesh, [distributed.Shard(0)])
        model.weight = torch.nn.Parameter(sharded)
        assert estimate_checkpoint_size(model) == pytest.approx(4_000_000, rel=0.001)
    finally:
        torch.distributed.destroy_process_group()


def test_lazy_modules_and_unknown_optimizers_say_what_to_do(torch: Any, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="run one batch"):
        estimate_checkpoint_size(torch.nn.LazyLinear(10))
    model = small_classifier(torch)
    optimizer = torch.optim.Adafactor(model.parameters())
    with pytest.raises(RequestError, match=r"Adafactor.*first step"):
        estimate_checkpoint_size(model, optimizer)
    step(torch, model, optimizer)
    expected = saved_bytes(torch, tmp_path, model, optimizer)
    assert estimate_checkpoint_size(model, optimizer) == pytest.approx(expected, rel=WITHIN)
