"""How a model makes an embedding of a sentence: as sentence-transformers' files beside it say, else the mean of tokens.

``modules.json`` lists a transformer, a pooling of its tokens, and what comes after: dense layers, normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from stockpot.checkpoint.parts import MODULES
from stockpot.errors import CheckpointError, ExecutionError, Problem, UnsupportedError
from stockpot.evaluate.neural import POOLINGS, context_of, embeddings, need
from stockpot.evaluate.opened import Opened

__all__ = ["Dense", "Normalize", "Recipe", "embedded", "recipe_of"]

Floats = npt.NDArray[np.float64]

_OLD = MappingProxyType(
    {
        "cls": "cls_token",
        "max": "max_tokens",
        "mean": "mean_tokens",
        "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
        "weightedmean": "weightedmean_tokens",
        "lasttoken": "lasttoken",
    }
)
"""Pooling → what older files call it: a key ``pooling_mode_…`` that is true or false; in the order of the result."""

_ACTIVATIONS: Mapping[str, Callable[[Floats], Floats]] = MappingProxyType(
    {
        "Identity": lambda x: x,
        "ReLU": lambda x: np.maximum(x, 0),
        "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "Tanh": np.tanh,
    }
)


@dataclass(frozen=True)
class Dense:
    """activation(x Wᵀ + b).

    Args:
        weight: ``(out, in)``.
        bias: ``(out,)``; None for none.
        activation: One of torch's, by the name of its class.
    """

    weight: Floats
    bias: Floats | None
    activation: str

    def __call__(self, x: Floats) -> Floats:
        """``(n, in)`` → ``(n, out)``."""
        if x.shape[1] != self.weight.shape[1]:
            raise CheckpointError(Problem(f"a dense layer takes {self.weight.shape[1]} numbers, not {x.shape[1]}"))
        found = x @ self.weight.T
        return _ACTIVATIONS[self.activation](found if self.bias is None else found + self.bias)


@dataclass(frozen=True)
class Normalize:
    """x / |x|."""

    def __call__(self, x: Floats) -> Floats:
        """Rows of length 1."""
        lengths: Floats = np.linalg.norm(x, axis=1, keepdims=True)
        return x / np.maximum(lengths, np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Recipe:
    """How texts become vectors.

    Args:
        pooling: Some of :data:`~stockpot.evaluate.neural.POOLINGS`, put one after another.
        after: What is done with the vectors then.
        most: Tokens of a sentence; the rest is left out.
        prompt: What is put before each text.
        lower: Whether texts are put in lower case.
    """

    pooling: tuple[str, ...] = ("mean",)
    after: tuple[Dense | Normalize, ...] = ()
    most: int = 512
    prompt: str = ""
    lower: bool = False


def recipe_of(model: Opened) -> Recipe:
    """What the files beside ``model`` say; where they say nothing, the mean over the tokens.

    Raises:
        UnsupportedError: names a module, pooling or activation that is not known here.
    """
    pooling, after = _modules(model)
    old = model.small(f"{model.part}sentence_bert_config.json")
    asked = model.small("config_sentence_transformers.json")
    prompts, default = asked.get("prompts"), asked.get("default_prompt_name")
    prompt = prompts.get(default) if isinstance(prompts, dict) and isinstance(default, str) else None
    if prompt and not _prompt_counts(model):
        raise UnsupportedError(Problem(f"{model.name} leaves its prompt {prompt!r} out of the pooling"))
    most = old.get("max_seq_length") or model.small(f"{model.part}tokenizer_config.json").get("model_max_length")
    limit = context_of(model.config)
    longest = int(min(most, limit)) if isinstance(most, int | float) and most >= 1 else limit
    return Recipe(pooling, after, longest, str(prompt or ""), old.get("do_lower_case") is True)


def embedded(model: Opened, texts: Sequence[str], most: int | None, budget: int) -> Floats:
    """The vectors of ``texts``: ``(n, width)``.

    Args:
        most: Tokens of a sentence; None takes what the model is made for, at most 2048.
        budget: Tokens that are computed at a time.
    """
    need("torch", "transformers")
    recipe = recipe_of(model)
    given = [recipe.prompt + (text.lower() if recipe.lower else text) for text in texts]
    ids = model.tokenizer(given, truncation=True, max_length=most or recipe.most)["input_ids"]
    if not all(ids):
        raise ExecutionError(Problem("a text has no tokens", fix="leave empty texts out"))
    found = embeddings(model.transformer("encoder"), ids, budget, recipe.pooling).astype(np.float64)
    for step in recipe.after:
        found = step(found)
    return found


def _modules(model: Opened) -> tuple[tuple[str, ...], tuple[Dense | Normalize, ...]]:
    pooling: tuple[str, ...] = ("mean",)
    after: list[Dense | Normalize] = []
    for module in model.modules[1:]:
        kind, path = str(module.get("type", "")).rpartition(".")[2], str(module.get("path", ""))
        if kind == "Pooling":
            pooling = _pooling(model, path)
        elif kind == "Normalize":
            after.append(Normalize())
        elif kind == "Dense":
            after.append(_dense(model, path))
        elif kind != "Dropout":
            raise UnsupportedError(Problem(f"{MODULES} has a module {kind!r}, which is not known", fix=_FIX))
    return pooling, tuple(after)


_FIX = "known are a Transformer, then Pooling, Dense, Normalize and Dropout"


def _pooling(model: Opened, path: str) -> tuple[str, ...]:
    told = model.small(f"{path}/config.json")
    modes = told.get("pooling_mode")
    if modes is None:
        modes = [mode for mode, key in _OLD.items() if told.get(f"pooling_mode_{key}") is True]
    found = tuple([modes] if isinstance(modes, str) else modes)
    unknown = [str(mode) for mode in found if mode not in POOLINGS]
    if unknown or not found:
        what = f"unknown pooling {unknown[0]!r}" if unknown else "no pooling"
        raise UnsupportedError(Problem(what, file=f"{path}/config.json", fix=f"known: {', '.join(POOLINGS)}"))
    return found


def _prompt_counts(model: Opened) -> bool:
    paths = [str(m.get("path", "")) for m in model.modules if str(m.get("type", "")).endswith("Pooling")]
    return all(model.small(f"{path}/config.json").get("include_prompt", True) for path in paths)


def _dense(model: Opened, path: str) -> Dense:
    told = model.small(f"{path}/config.json")
    activation = str(told.get("activation_function", "Tanh")).rpartition(".")[2]
    same = told.get("module_input_name", "sentence_embedding") == told.get("module_output_name", "sentence_embedding")
    if activation not in _ACTIVATIONS or not same or told.get("use_residual"):
        what = f"a dense layer with {activation}" if activation not in _ACTIVATIONS else "a dense layer of its own kind"
        fix = f"known: one after another, with {', '.join(_ACTIVATIONS)}"
        raise UnsupportedError(Problem(f"{what} is not known", file=f"{path}/config.json", fix=fix))
    names = [f"{path}/linear.{part}" for part in ("weight", "bias")]
    weight, bias = (model.wide.get(name) for name in names)
    if weight is None:
        raise CheckpointError(Problem("is missing", tensor=names[0], fix=f"{MODULES} names {path}"))
    return Dense(weight.astype(np.float64), None if bias is None else bias.astype(np.float64), activation)
