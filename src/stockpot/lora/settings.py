"""The settings of an adapter that was made: those of its first input, with what is other now."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["extracted_config", "merged_config", "ranks_of"]

_BIASES = ("none", "lora_only", "all")

_OTHER_MODULES = ("layers_to_transform", "layers_pattern", "exclude_modules", "target_parameters")
"""Settings that choose modules beside ``target_modules``, which names all of them here."""


def ranks_of(ranks: Mapping[str, int]) -> dict[str, Any]:
    r"""``r``, ``lora_alpha`` and patterns for modules of these ranks, each of scale 1.

    Longer names come first: PEFT takes the first pattern that the end of a module's name matches.

    >>> ranks_of({"a.q": 4, "a.v": 2})
    {'r': 4, 'lora_alpha': 4, 'rank_pattern': {'a\\.v': 2}, 'alpha_pattern': {'a\\.v': 2}}
    """
    most = max(ranks.values(), default=1)
    names = sorted((n for n, rank in ranks.items() if rank != most), key=lambda n: (-len(n), n))
    shadowed = [n for n, rank in ranks.items() if rank == most and any(n.endswith(f".{short}") for short in names)]
    names = sorted([*names, *shadowed], key=lambda n: (-len(n), n))
    pattern = {re.escape(n): ranks[n] for n in names}
    return {"r": most, "lora_alpha": most, "rank_pattern": pattern, "alpha_pattern": dict(pattern)}


def merged_config(
    configs: Sequence[Mapping[str, Any]],
    ranks: Mapping[str, int],
    whole: Sequence[str],
    *,
    lora_bias: bool,
    dora: bool,
) -> dict[str, Any]:
    """Settings of an adapter made of others.

    Args:
        configs: Theirs.
        ranks: Module → rank of its factors.
        whole: Names of the tensors that are stored whole.
    """
    first = _as_lora(configs)
    saved = list(dict.fromkeys(m for c in configs for m in c.get("modules_to_save") or ()))
    biases = [c.get("bias") or "none" for c in configs]
    alike = all(c.get(key) == first.get(key) for c in configs for key in ("target_modules", *_OTHER_MODULES))
    changes: dict[str, Any] = {
        "use_rslora": False,
        "use_dora": dora,
        "lora_bias": lora_bias,
        "bias": max(biases, key=_BIASES.index) if whole else "none",
        "modules_to_save": [m for m in saved if any(f"{m}." in name for name in whole)] or None,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    if not alike or not first.get("target_modules"):
        changes |= {"target_modules": list(ranks)} | {k: None for k in _OTHER_MODULES if k in first}
    return first | ranks_of(ranks) | changes


_ANY = (
    "task_type", "base_model_name_or_path", "revision", "auto_mapping", "target_modules", *_OTHER_MODULES[:-1],
    "modules_to_save", "inference_mode",
)  # fmt: skip
"""Settings that every kind of adapter has."""


def _as_lora(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings of the first that is LoRA; where none is, those of the first that mean the same there."""
    plain = next((c for c in configs if str(c.get("peft_type", "")).upper() == "LORA"), None)
    if plain is not None:
        return dict(plain)
    own = {key: value for key, value in configs[0].items() if key in _ANY}
    return {"peft_type": "LORA", "lora_dropout": 0.0, "fan_in_fan_out": False, **own}


def extracted_config(
    base: str,
    architecture: str | None,
    ranks: Mapping[str, int],
    saved: Sequence[str],
    *,
    biases: bool,
    crossed: bool,
) -> dict[str, Any]:
    """Settings of an adapter that was extracted from a model.

    Args:
        base: What it is on.
        architecture: The class that the base's config names.
        ranks: Module → rank of its factors.
        saved: Modules that are stored whole.
        biases: Whether biases are stored whole.
        crossed: Whether weights are stored as (in, out).
    """
    return {
        "peft_type": "LORA",
        "task_type": _task(architecture),
        "base_model_name_or_path": base,
        "inference_mode": True,
        **ranks_of(ranks),
        "target_modules": list(ranks),
        "modules_to_save": list(saved) or None,
        "bias": "all" if biases else "none",
        "fan_in_fan_out": crossed,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
    }


def _task(architecture: str | None) -> str | None:
    """What PEFT calls the task of a class of transformers; None where it has no word for it."""
    endings = {
        "ForCausalLM": "CAUSAL_LM",
        "LMHeadModel": "CAUSAL_LM",
        "ForSequenceClassification": "SEQ_CLS",
        "ForTokenClassification": "TOKEN_CLS",
        "ForConditionalGeneration": "SEQ_2_SEQ_LM",
        "ForQuestionAnswering": "QUESTION_ANS",
    }
    return next((task for end, task in endings.items() if (architecture or "").endswith(end)), None)
