"""What a base makes of prompts: the states that enter its layers, and its routers-to-be."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.checkpoint.model import Checkpoint
from stockpot.errors import CheckpointError, PlanError, Problem, UnsupportedError
from stockpot.methods.declare import Floats
from stockpot.moe.extra import extra
from stockpot.planning.model import MIB

__all__ = ["HELD", "States", "states_of", "tokens_of"]

_BATCH = 2048
"""Most tokens of a batch, padding included; a longer prompt is a batch of its own."""

_KEPT = 1 << 26
"""Most numbers that are kept of single tokens, over all prompts and layers."""

_PER_PROMPT = 16
_ROWS = 1024
"""Most tokens that are kept of a prompt, and about so many of all prompts: training a router takes their square."""

_TORCH = 600 << 20
"""Resident bytes of a process that has loaded torch and transformers, without a model (measured: some 470 MiB)."""

HELD = 300 << 20
"""Those that they keep when all is done (measured: 280 MiB more than without them)."""


@dataclass(frozen=True)
class States:
    """What was seen while the base read the prompts.

    Args:
        pooled: ``layer`` and ``router`` → (layers, prompts, hidden): the state that enters the layer, and what its MLP
            gets, at a prompt's last token or as the mean over its tokens.
        tokens: (layers, rows, hidden), float32: what the MLP gets at some tokens of each prompt, evenly spaced, with
            the last.
        owner: (rows,): the prompt that each is of.
    """

    pooled: Mapping[str, Floats]
    tokens: npt.NDArray[np.float32]
    owner: npt.NDArray[np.int64]


def tokens_of(base: Checkpoint, texts: Sequence[str], memory: int) -> list[list[int]]:
    """The token ids of each text, without special tokens; an empty text is its special tokens (such as <s>).

    Raises:
        PlanError: when ``memory`` bytes do not hold the packages that this takes.
        CheckpointError: when the base has no tokenizer that can be loaded, or a text has no tokens at all.
    """
    folder = _folder(base)
    if memory < _TORCH:
        message = f"reading prompts takes {_TORCH // MIB} MiB of memory, the budget is {memory // MIB} MiB"
        raise PlanError(Problem(message, fix=f"give --memory {_TORCH // MIB}MiB or more, or use gate_mode: random"))
    transformers = extra("transformers", "reading prompts")
    fix = "put the files of its tokenizer beside its weights, or use gate_mode: random"
    try:
        with _quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:
        message = f"{base.label} has no tokenizer that can be loaded: {str(error)[:300]}"
        raise CheckpointError(Problem(message, file=str(folder), fix=fix)) from error
    found = [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    for number, text in enumerate(texts):
        if not found[number]:
            found[number] = list(tokenizer(text)["input_ids"]) or _beginning(tokenizer)
        if not found[number]:
            message = f"the prompt {text!r} has no tokens, and the tokenizer has none that begins a text"
            raise CheckpointError(Problem(message, file=str(folder), fix="give it some text"))
    vocabulary = _rows(base)
    if vocabulary is not None and any(max(ids) >= vocabulary for ids in found):
        message = f"the tokenizer has tokens beyond the {vocabulary} rows of the embedding"
        raise CheckpointError(Problem(message, file=str(folder), fix="use the tokenizer of this model"))
    return found


def _beginning(tokenizer: Any) -> list[int]:
    return [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]


def _rows(base: Checkpoint) -> int | None:
    ref = base.tensors.get("model.embed_tokens.weight")
    return None if ref is None else ref.shape[0]


def _folder(base: Checkpoint) -> Path:
    if base.folder is None or not base.config:
        message = f"{base.label} is no folder with config and tokenizer, from which prompts could be read"
        raise CheckpointError(Problem(message, fix="use gate_mode: random, or a model in a folder as base_model"))
    return base.folder


def states_of(base: Checkpoint, tokens: Sequence[Sequence[int]], pooling: str, memory: int) -> States:
    """Run the base over the prompts.

    Prompts are padded on the right and masked, and nothing is read at padding: what is found of a prompt does not
    depend on those that it is read with, but for rounding.

    Args:
        base: A dense model in a folder.
        tokens: Token ids of each prompt, at least one.
        pooling: ``last`` or ``mean``.
        memory: Budget in bytes; the base is held whole.

    Raises:
        UnsupportedError: without torch and transformers.
        PlanError: when the base does not fit the budget.
        CheckpointError: when transformers cannot load it.
    """
    torch = extra("torch", "a router from prompts")
    layers, hidden = int(base.config["num_hidden_layers"]), int(base.config["hidden_size"])
    _check_memory(base, len(tokens) * layers * hidden, memory)
    longest = base.config.get("max_position_embeddings")
    if isinstance(longest, int) and max(map(len, tokens)) > longest:
        message = f"a prompt of {max(map(len, tokens))} tokens; the base reads at most {longest}"
        raise PlanError(Problem(message, fix="shorten it"))
    model = _loaded(base, torch)
    most = max(1, min(_PER_PROMPT, _ROWS // len(tokens), _KEPT // (len(tokens) * layers * hidden)))
    places = [_places(len(ids), most) for ids in tokens]
    starts = np.concatenate([[0], np.cumsum([len(p) for p in places])])
    pooled = {kind: np.zeros((layers, len(tokens), hidden)) for kind in ("layer", "router")}
    rows = np.zeros((layers, int(starts[-1]), hidden), np.float32)

    def seen(layer: int, kind: str, batch: Sequence[int], values: Any) -> None:
        array = values.detach().to(torch.float32).numpy()
        for row, number in enumerate(batch):
            own = array[row, : len(tokens[number])]
            pooled[kind][layer, number] = own[-1] if pooling == "last" else own.mean(axis=0, dtype=np.float64)
            if kind == "router":
                rows[layer, starts[number] : starts[number + 1]] = own[places[number]]

    with _quiet(), torch.no_grad():
        for batch in _batches(tokens):
            with _watched(model, lambda layer, kind, values, batch=batch: seen(layer, kind, batch, values)):
                model(**_padded(torch, [tokens[i] for i in batch]), use_cache=False)
    owner = np.repeat(np.arange(len(tokens)), [len(p) for p in places])
    return States(pooled, rows, owner)


def _check_memory(base: Checkpoint, numbers: int, memory: int) -> None:
    needed = base.nbytes * 11 // 10 + _TORCH + 16 * numbers + 4 * min(_KEPT, _PER_PROMPT * numbers)
    if needed > memory:
        message = (
            f"reading prompts holds {base.label} in memory: {-(-needed // MIB)} MiB, the budget is {memory // MIB} MiB"
        )
        fix = f"give --memory {-(-needed // MIB)}MiB or more, or use gate_mode: cheap_embed or random"
        raise PlanError(Problem(message, fix=fix))


def _loaded(base: Checkpoint, torch: Any) -> Any:
    """The base without its head, in the dtype of its weights."""
    transformers = extra("transformers", "a router from prompts")
    folder = _folder(base)
    word = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    try:
        with _quiet():
            found = transformers.AutoModel.from_pretrained(str(folder), local_files_only=True, **{word: "auto"}).eval()
    except Exception as error:
        message = f"transformers cannot load {base.label}: {str(error)[:300]}"
        raise CheckpointError(Problem(message, file=str(folder), fix="mend it, or use gate_mode: random")) from error
    if not hasattr(found, "layers") or not all(hasattr(layer, "mlp") for layer in found.layers):
        message = f"{base.label} has no layers with an MLP of that name"
        raise UnsupportedError(Problem(message, fix="use gate_mode: cheap_embed or random"))
    del torch
    return found


def _places(length: int, most: int) -> list[int]:
    """The tokens that are kept of a prompt of ``length``: evenly spaced, the last among them."""
    count = min(length, most)
    return [((i + 1) * length) // count - 1 for i in range(count)]


def _batches(tokens: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Numbers of prompts that are read together, the shortest first."""
    batch: list[int] = []
    for number in sorted(range(len(tokens)), key=lambda i: (len(tokens[i]), i)):
        if batch and (len(batch) + 1) * len(tokens[number]) > _BATCH:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _padded(torch: Any, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
    longest = max(map(len, prompts))
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(list(prompt), dtype=torch.long)
        mask[row, : len(prompt)] = 1
    return {"input_ids": ids, "attention_mask": mask}


@contextmanager
def _watched(model: Any, seen: Any) -> Iterator[None]:
    """While this lasts, ``seen(layer, kind, values)`` is told of what enters every layer and its MLP."""

    def watcher(number: int, kind: str) -> Any:
        def watch(_module: Any, arguments: Any, keywords: Any) -> None:
            seen(number, kind, arguments[0] if arguments else keywords["hidden_states"])

        return watch

    handles = []
    for number, layer in enumerate(model.layers):
        handles.append(layer.register_forward_pre_hook(watcher(number, "layer"), with_kwargs=True))
        handles.append(layer.mlp.register_forward_pre_hook(watcher(number, "router"), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _quiet() -> Iterator[None]:
    """What transformers says of its own versions and of the head that is not loaded is not for our users."""
    logger = logging.getLogger("transformers")
    before, bars = logger.level, extra("transformers", "reading prompts").utils.logging
    shown = bars.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    bars.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
        if shown:
            bars.enable_progress_bar()
