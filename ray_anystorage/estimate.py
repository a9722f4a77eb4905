"""How large a checkpoint will be, from a torch module, a Hugging Face config or a number of parameters.

Torch is looked at only when the caller has imported it already.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ray_anystorage.errors import RequestError

# What torch.save adds, measured with torch 2.13: a zip record (two headers, padding to 64 bytes) and a pickle entry for
# each tensor, and the archive's own records. It shows only in models of many small tensors.
_BYTES_PER_TENSOR = 270
_BYTES_PER_FILE = 1_300

_COUNT_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_COUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmbt]?)\s*", re.IGNORECASE | re.ASCII)
_ITEM_BYTES = {
    **dict.fromkeys(("float64", "double"), 8),
    **dict.fromkeys(("float32", "float"), 4),
    **dict.fromkeys(("float16", "half", "bfloat16"), 2),
    **dict.fromkeys(("float8_e4m3fn", "float8_e5m2", "int8", "uint8"), 1),
}


@dataclass(frozen=True, slots=True)
class _State:
    """What an optimizer keeps per parameter: tensors of the parameter's shape and dtype, and one-element ones."""

    full: int
    scalars: int = 0


# Read in the step() of each class of torch 2.13; tests/unit/test_estimate.py compares every row with a real step.
_STATES: dict[str, Callable[[Mapping[str, Any]], _State]] = {
    "adadelta": lambda group: _State(2, 1),
    "adagrad": lambda group: _State(1, 1),
    "adam": lambda group: _State(2 + bool(group.get("amsgrad")), 1),
    "adamax": lambda group: _State(2, 1),
    "adamw": lambda group: _State(2 + bool(group.get("amsgrad")), 1),
    "asgd": lambda group: _State(1, 3),
    "muon": lambda group: _State(1),
    "nadam": lambda group: _State(2, 2),
    "radam": lambda group: _State(2, 1),
    "rmsprop": lambda group: _State(1 + bool(group.get("centered")) + bool(group.get("momentum")), 1),
    "rprop": lambda group: _State(2, 1),
    "sgd": lambda group: _State(int(bool(group.get("momentum")))),
    "sparseadam": lambda group: _State(2),
}


def estimate_checkpoint_size(model: Any, optimizer: Any = None) -> int:
    """Estimate the bytes of one checkpoint: the weights and, where an optimizer is given, its state.

    Parameters
    ----------
    model
        A ``torch.nn.Module`` (parameters and persistent buffers, tied weights once, also on the meta device), a
        Hugging Face config (object or dict; its ``dtype`` or ``torch_dtype`` counts, else float32), or a number of
        parameters in float32, as an int or as text (``"7B"``).
    optimizer
        A ``torch.optim`` optimizer (the state it has, or before the first step the state it will have), or the name
        of such a class, which stands for its default settings (so ``"sgd"`` has no momentum and no state).

    Returns
    -------
    int
        Bytes: for torch modules within 5 % of the file that ``torch.save`` writes, for configs and counts the tensors
        alone. Optimizer state is counted in the parameters' dtype, as ``torch.optim`` keeps it.

    Raises
    ------
    RequestError
        The model or the optimizer is of a kind whose size cannot be told; the message says what can be passed instead.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        weights = _of_tensors(_tensors_in(model.state_dict(keep_vars=True)))
        return _BYTES_PER_FILE + weights + _optimizer_bytes(optimizer, list(model.parameters()))
    elements, item_bytes = _count(model)
    if optimizer is None or not isinstance(optimizer, str):
        return elements * item_bytes + _optimizer_bytes(optimizer, [])
    return elements * item_bytes * (1 + _state_of_name(optimizer).full)


# --- torch ----------------------------------------------------------------------------------------


def _tensors_in(value: Any) -> Iterator[Any]:
    if isinstance(value, sys.modules["torch"].Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors_in(item)


def _of_tensors(tensors: Iterable[Any]) -> int:
    """Bytes of the records that torch.save writes: one per storage, however many tensors are views of it."""
    sizes: dict[tuple[str, int], int] = {}
    for tensor in tensors:
        key, size = _storage(tensor)
        sizes[key] = max(size, sizes.get(key, 0))
    return sum(sizes.values()) + _BYTES_PER_TENSOR * len(sizes)


def _storage(tensor: Any) -> tuple[tuple[str, int], int]:
    nn = sys.modules["torch"].nn
    if isinstance(tensor, nn.parameter.UninitializedTensorMixin):
        raise RequestError("the model has lazy parameters without a shape: run one batch through it first")
    plain = type(tensor) in (sys.modules["torch"].Tensor, nn.Parameter)
    storage = tensor.untyped_storage() if plain else None
    if storage is None:  # DTensor and its like have no storage of their own; the whole tensor is what gets saved
        return ("tensor", id(tensor)), tensor.numel() * tensor.element_size()
    return ("storage", storage._cdata), storage.nbytes()


def _optimizer_bytes(optimizer: Any, parameters: list[Any]) -> int:
    if optimizer is None:
        return 0
    if isinstance(optimizer, str):
        return _predicted(_state_of_name(optimizer), parameters)
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(optimizer, torch.optim.Optimizer):
        raise _unknown_optimizer(f"optimizer={type(optimizer).__name__} is not a torch.optim.Optimizer")
    if optimizer.state:
        return _of_tensors(_tensors_in(optimizer.state_dict()["state"]))
    groups = optimizer.param_groups
    return sum(_predicted(_state_of_class(type(optimizer), group), group["params"]) for group in groups)


def _predicted(state: _State, parameters: Iterable[Any]) -> int:
    sizes: list[int] = [tensor.numel() * tensor.element_size() for tensor in parameters if tensor.requires_grad]
    return sum(sizes) * state.full + len(sizes) * _BYTES_PER_TENSOR * (state.full + state.scalars)


def _state_of_name(name: str) -> _State:
    if name.lower() not in _STATES:
        raise _unknown_optimizer(f"optimizer={name!r} is not known")
    return _STATES[name.lower()]({})


def _state_of_class(cls: type, group: Mapping[str, Any]) -> _State:
    for base in cls.__mro__:
        if base.__module__.split(".")[:2] == ["torch", "optim"] and base.__name__.lower() in _STATES:
            return _STATES[base.__name__.lower()](group)
    raise _unknown_optimizer(f"the state that {cls.__name__} will keep is not known")


def _unknown_optimizer(what: str) -> RequestError:
    return RequestError(
        f"{what}: pass one of {', '.join(sorted(_STATES))} by name, or the torch optimizer itself after its first "
        "step, whose state is then counted as it is"
    )


# --- numbers and configs --------------------------------------------------------------------------


def _count(model: Any) -> tuple[int, int]:
    """Elements, and bytes of each."""
    if isinstance(model, int) and not isinstance(model, bool) and model > 0:
        return model, 4
    if isinstance(model, str) and (match := _COUNT.fullmatch(model)):
        elements = Fraction(match[1]) * _COUNT_UNITS[match[2].lower()]
        if elements >= 1:
            return round(elements), 4
    if isinstance(model, Mapping) or hasattr(model, "model_type"):
        return _config_elements(model), _config_item_bytes(model)
    raise RequestError(
        f"model={model!r:.80} ({type(model).__name__}) has no size that can be told: expected a torch module, a "
        'Hugging Face config with a model_type, or a number of parameters above 0 (7_000_000_000 or "7B")'
    )


@dataclass(frozen=True, slots=True)
class _Family:
    """What the config's numbers leave open: the shape of a block, and what lies around the blocks."""

    gated: bool = False
    biased: bool = False
    positions: bool = False
    encoder: bool = False
    tied: bool = False


_LLAMA = _Family(gated=True)
_GEMMA = _Family(gated=True, tied=True)
_BERT = _Family(biased=True, positions=True, encoder=True)
_FAMILIES = {
    **dict.fromkeys(("llama", "mistral", "mixtral", "phi3", "qwen2", "qwen3", "qwen3_moe"), _LLAMA),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), _GEMMA),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta"), _BERT),
    "gpt2": _Family(biased=True, positions=True, tied=True),
    "gpt_neox": _Family(biased=True),
}


def _config_elements(config: Any) -> int:
    """Parameters of a transformer: embeddings, then per layer attention, feed-forward and norms.

    With ``h`` the hidden size, ``q`` and ``kv`` the widths of all query and of all key (or value) heads, ``f`` the
    feed-forward size and ``e`` experts, a layer has ``2hq + 2h·kv`` in its attention, ``e·2hf`` in its feed-forward,
    ``e·3hf`` where that is gated, and a router of ``he``. Sources: Vaswani et al., arXiv:1706.03762, section 3 (block);
    Devlin et al., arXiv:1810.04805 (pooler, token types); Radford et al. 2019 (GPT-2); Shazeer, arXiv:2002.05202
    (gating); Ainslie et al., arXiv:2305.13245 (shared key heads); Jiang et al., arXiv:2401.04088 (experts).
    """
    family = _family(config)
    hidden = _required(config, "hidden_size", "n_embd")
    vocabulary = _required(config, "vocab_size")
    norm = 2 * hidden if family.biased else hidden
    around = vocabulary * hidden + norm
    if family.positions:
        around += _required(config, "max_position_embeddings", "n_positions") * hidden
    if family.encoder:
        around += (_field(config, "type_vocab_size") or 2) * hidden + hidden * (hidden + 1)
    tied = _field(config, "tie_word_embeddings")
    if not family.encoder and not (family.tied if tied is None else tied):
        around += vocabulary * hidden
    layer = _attention_elements(config, family, hidden) + _feed_forward_elements(config, family, hidden) + 2 * norm
    return around + _required(config, "num_hidden_layers", "n_layer") * layer


def _attention_elements(config: Any, family: _Family, hidden: int) -> int:
    heads = _required(config, "num_attention_heads", "n_head")
    width = _field(config, "head_dim") or hidden // heads
    query, key = heads * width, (_field(config, "num_key_value_heads") or heads) * width
    biases = query + 2 * key + hidden if family.biased or _field(config, "attention_bias") else 0
    return 2 * hidden * query + 2 * hidden * key + biases


def _feed_forward_elements(config: Any, family: _Family, hidden: int) -> int:
    experts = _field(config, "num_local_experts", "num_experts") or 1
    width = _field(config, "moe_intermediate_size", "intermediate_size", "n_inner") or 4 * hidden
    biases = width + hidden if family.biased else 0
    router = hidden * experts if experts > 1 else 0
    return router + experts * ((3 if family.gated else 2) * hidden * int(width) + biases)


def _family(config: Any) -> _Family:
    model_type = _field(config, "model_type")
    if model_type is None:
        return _LLAMA
    if model_type not in _FAMILIES:
        raise RequestError(
            f"model_type={model_type!r}: how its config becomes parameters is not known here (known: "
            f"{', '.join(sorted(_FAMILIES))}). Pass the number of parameters, or the model built under "
            '`with torch.device("meta")`, which is exact and takes no memory'
        )
    return _FAMILIES[model_type]


def _config_item_bytes(config: Any) -> int:
    dtype = _field(config, "dtype", "torch_dtype")
    name = "float32" if dtype is None else str(dtype).removeprefix("torch.")
    if name not in _ITEM_BYTES:
        raise RequestError(f"dtype={name!r} of the config is not known: expected one of {', '.join(_ITEM_BYTES)}")
    return _ITEM_BYTES[name]


def _field(config: Any, *names: str) -> Any:
    """The first of the names that the config sets."""
    values = (config.get(name) if isinstance(config, Mapping) else getattr(config, name, None) for name in names)
    return next((value for value in values if value is not None), None)


def _required(config: Any, *names: str) -> int:
    value = _field(config, *names)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RequestError(f"the config's {' or '.join(names)} is {value!r}: expected a whole number above 0")
    return value
