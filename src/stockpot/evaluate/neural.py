"""Torch and transformers: models filled with arrays in memory, log-likelihoods and embeddings in batches.

Imported only by what needs it; neither package is imported before that.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.checkpoint.jsons import read_json
from stockpot.checkpoint.places import stands
from stockpot.errors import CheckpointError, Problem, UnsupportedError

__all__ = [
    "POOLINGS",
    "as_torch",
    "batches",
    "class_losses",
    "context_of",
    "embeddings",
    "need",
    "prefix_of",
    "seeded",
    "share_losses",
    "summed_losses",
    "token_losses",
    "tokenizer_of",
    "transformer_of",
]

Arrays = Mapping[str, npt.NDArray[Any]]
Floats = npt.NDArray[np.float64]

_KINDS = {"causal": "MODEL_FOR_CAUSAL_LM_MAPPING", "encoder": "MODEL_MAPPING"}
_UNUSED = {"causal": (), "encoder": ("pooler.",)}
"""Parameters that may be missing, since nothing that is measured depends on them."""

_CODE = frozenset(
    {"auto_map", "custom_pipelines", "attn_implementation", "_attn_implementation", "experts_implementation",
     "_experts_implementation", "_attn_implementation_internal", "_experts_implementation_internal", "use_kernels",
     "kernel_config", "quantization_config"}
)  # fmt: skip
"""Keys of a config that name code: classes beside the weights, kernels at the hub."""

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""Ways in which hidden states of tokens become one vector, by the names of sentence-transformers."""

_LONGEST = 2048
"""Tokens of context, where nobody says otherwise, of models that take more."""

_BITS = {"bfloat16": np.int16, "float8_e4m3fn": np.uint8, "float8_e5m2": np.uint8}
"""Dtypes that torch takes only as the integers of their bits."""


def need(*packages: str, extra: str | None = "evaluate") -> None:
    """Raise when one of ``packages`` is not installed.

    Args:
        extra: Of stockpot, which brings them; None where they are installed by themselves.

    Raises:
        UnsupportedError: names all that are missing.
    """
    missing = [name for name in packages if name not in sys.modules and find_spec(name) is None]
    if missing:
        names = {"sklearn": "scikit-learn", "PIL": "Pillow"}
        told = " and ".join(names.get(name, name) for name in missing)
        fix = f"pip install {' '.join(missing)}" if extra is None else f"pip install 'stockpot[{extra}]'"
        raise UnsupportedError(Problem(f"this task needs {told}", fix=fix))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Meanwhile Python, NumPy and torch draw the numbers of ``seed``; then those that they would have drawn."""
    import torch

    python, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002 - it is others who draw
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)  # noqa: NPY002


def as_torch(array: npt.NDArray[Any]) -> Any:
    """A tensor on the same memory, whatever the dtype."""
    import torch

    bits = _BITS.get(array.dtype.name)
    if bits is None:
        return torch.from_numpy(array)
    flat = torch.from_numpy(array.reshape(-1).view(bits)).view(getattr(torch, array.dtype.name))
    return flat.reshape(array.shape)


def transformer_of(
    config: Mapping[str, Any],
    tensors: Arrays,
    kind: str,
    device: str | None,
    generation: Mapping[str, Any] | None = None,
) -> Any:
    """A model of transformers, ready to be run, filled with ``tensors``.

    Transformers makes the model on the meta device and puts the tensors in as they are, under its own rules for
    names, prefixes and tied weights, so it is what a folder with these tensors loads as. On the CPU nothing is copied.

    Args:
        kind: ``causal`` or ``encoder``.
        generation: The content of ``generation_config.json``, which says where texts end; None without one.
    """
    need("torch", "transformers")
    import torch
    import transformers

    of = transformers.CONFIG_MAPPING
    family = config.get("model_type")
    if family not in of:
        fix = "only architectures that are part of transformers are run; code from a checkpoint never is"
        raise UnsupportedError(Problem(f"transformers has no architecture {family!r}", fix=fix))
    made = of[family].from_dict(_harmless(config))
    known = getattr(transformers, _KINDS[kind])
    if type(made) not in known:
        raise UnsupportedError(Problem(f"transformers runs no {family} as a model of the kind {kind}"))
    state = {name: as_torch(array) for name, array in tensors.items()}
    with _quiet():
        model, told = known[type(made)].from_pretrained(None, config=made, state_dict=state, output_loading_info=True)
    _complete(told, kind)
    if generation is not None and kind == "causal":
        model.generation_config = transformers.GenerationConfig.from_dict(_harmless(generation))
    return model.eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _harmless(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` without what could have transformers fetch or run code of strangers, in nested configs too."""
    return {
        key: _harmless(value) if isinstance(value, dict) else value for key, value in config.items() if key not in _CODE
    }


def _complete(told: Mapping[str, Any], kind: str) -> None:
    """Raise when a parameter was not filled; what is left over is wrong only where a head was expected."""
    lacking = sorted(name for name in told["missing_keys"] if not name.startswith(_UNUSED[kind]))
    wrong = [*lacking, *sorted(map(str, told["mismatched_keys"]))]
    extra = sorted(told["unexpected_keys"]) if kind == "causal" else []
    if wrong or extra:
        first = (wrong or extra)[0]
        what = "is missing or has another shape" if wrong else "belongs to no parameter of this architecture"
        more = f" (and {len(wrong or extra) - 1} more)" if len(wrong or extra) > 1 else ""
        raise CheckpointError(Problem(f"{what}{more}", tensor=first, fix="is config.json that of these weights?"))


class _quiet:  # noqa: N801 - reads as a word
    """Transformers' bars and notes are not shown meanwhile; what they tell is checked."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._level, self._bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self._level)
        if self._bar:
            logging.enable_progress_bar()


def tokenizer_of(folder: Path, config: Mapping[str, Any]) -> Any:
    """The tokenizer whose files lie in ``folder``; code beside them is never run."""
    need("transformers")
    import transformers

    settings = folder / "tokenizer_config.json"
    own = read_json(settings) if stands(settings) else {}
    if "auto_map" in own or config.get("model_type") not in transformers.CONFIG_MAPPING:
        known = getattr(transformers, str(own.get("tokenizer_class")), None)
        if not isinstance(known, type) or not issubclass(known, transformers.PreTrainedTokenizerBase):
            raise UnsupportedError(Problem("the tokenizer is code of the checkpoint, which is never run"))
        made: Any = known
        return made.from_pretrained(folder, local_files_only=True)
    return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


def prefix_of(tokenizer: Any) -> list[int]:
    """What stands before a text so that its first token is predicted too: BOS, else EOS, else nothing."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return [int(token)]
    return []


def context_of(config: Mapping[str, Any]) -> int:
    """Tokens of context that a model is given where nobody says otherwise."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for key in ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length"):
            if isinstance(part.get(key), int):
                return min(int(part[key]), _LONGEST)
    return _LONGEST


def batches(sequences: Sequence[Sequence[int]], budget: int) -> Iterator[list[int]]:
    """Places of sequences of like length, so many that padded they hold at most ``budget`` tokens, or one."""
    order = sorted(range(len(sequences)), key=lambda i: (len(sequences[i]), i))
    batch: list[int] = []
    for place in order:
        if batch and (len(batch) + 1) * len(sequences[place]) > budget:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _padded(sequences: Sequence[Sequence[int]], device: Any) -> tuple[Any, Any]:
    """Ids and mask, both ``(batch, longest)``, padded on the right."""
    import torch

    longest = max(map(len, sequences))
    ids = torch.zeros((len(sequences), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence, dtype=torch.long)
        mask[row, : len(sequence)] = 1
    return ids.to(device), mask.to(device)


def token_losses(model: Any, sequences: Sequence[Sequence[int]], budget: int) -> list[Floats]:
    """-ln p of each token but the first, given those before it, of each sequence of at least 2 tokens.

    Padding stands on the right, where causal attention does not look, and is masked; its losses are left out.

    Args:
        budget: Tokens of a batch, padding included.
    """
    import torch

    found: list[Floats] = [np.empty(0)] * len(sequences)
    with torch.inference_mode():
        for batch in batches(sequences, budget):
            own = _losses(model, [sequences[i] for i in batch])
            for place, losses in zip(batch, own, strict=True):
                found[place] = losses.double().cpu().numpy()
    return found


def _losses(model: Any, sequences: Sequence[Sequence[int]]) -> Iterator[Any]:
    """-ln p of each token but the first of each sequence, all in one batch, at least in float32."""
    import torch

    ids, mask = _padded([sequence[:-1] for sequence in sequences], model.device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    for row, sequence in enumerate(sequences):
        targets = torch.tensor(sequence[1:], dtype=torch.long, device=logits.device)
        own = logits[row, : len(targets)]
        own = own if own.dtype == torch.float64 else own.float()
        yield torch.nn.functional.cross_entropy(own, targets, reduction="none")


def summed_losses(model: Any, sequences: Sequence[Sequence[int]], counts: Sequence[int]) -> Any:
    """-ln p of the last ``counts`` tokens of each sequence, summed: ``(n,)``, to be differentiated; one batch."""
    import torch

    own = zip(_losses(model, sequences), counts, strict=True)
    return torch.stack([losses[-count:].sum() for losses, count in own])


def share_losses(losses: Any, sizes: Sequence[int], answers: Sequence[int]) -> Any:
    """-ln of the right answer's share of the likelihood of all answers to each question: ``(questions,)``.

    Args:
        losses: -ln p of every answer, those of one question after those of another.
        sizes: How many answers a question has.
        answers: Which of them is right.
    """
    import torch

    found = [torch.logsumexp(-o, dim=0) + o[k] for o, k in zip(losses.split(list(sizes)), answers, strict=True)]
    return torch.stack(found)


def class_losses(outputs: Any, labels: npt.NDArray[np.int64], factor: Any, *, normal: bool) -> Any:
    """-ln of the right class's probability: ``(n,)``.

    Args:
        outputs: ``(n, classes)`` logits.
        factor: Of the logits; None for 1.
        normal: Whether outputs are probabilities, whose logarithms are logits.
    """
    import torch

    logits = torch.log(outputs.clamp_min(torch.finfo(outputs.dtype).tiny)) if normal else outputs
    logits = logits if factor is None else logits * factor
    targets = torch.from_numpy(labels).to(outputs.device)
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none")


def embeddings(
    model: Any, sequences: Sequence[Sequence[int]], budget: int, pooling: Sequence[str] = ("mean",)
) -> npt.NDArray[np.float32]:
    """The last hidden states of each sequence, pooled over its tokens, padding left out: ``(n, width)``.

    Args:
        budget: Tokens of a batch, padding included.
        pooling: Some of :data:`POOLINGS`; of several, the vectors stand one after another.
    """
    import torch

    found: list[Any] = [None] * len(sequences)
    with torch.inference_mode():
        for batch in batches(sequences, budget):
            ids, mask = _padded([sequences[i] for i in batch], model.device)
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            vectors = torch.cat([_pooled(hidden, mask[:, :, None].float(), mode) for mode in pooling], dim=1)
            for row, place in enumerate(batch):
                found[place] = vectors[row].cpu().numpy()
    return np.stack(found)


def _pooled(hidden: Any, mask: Any, mode: str) -> Any:
    """``(batch, tokens, width)`` and ``(batch, tokens, 1)`` → ``(batch, width)``."""
    import torch

    lengths = mask.sum(dim=1)
    if mode == "cls":
        return hidden[:, 0]
    if mode == "lasttoken":
        return hidden[torch.arange(len(hidden), device=hidden.device), lengths[:, 0].long() - 1]
    if mode == "max":
        return hidden.masked_fill(mask == 0, -torch.inf).max(dim=1).values
    if mode == "weightedmean":
        weights = mask * torch.arange(1, hidden.shape[1] + 1, device=hidden.device)[None, :, None]
        return (hidden * weights).sum(dim=1) / weights.sum(dim=1)
    total = (hidden * mask).sum(dim=1)
    return total / (lengths if mode == "mean" else lengths.sqrt())
