"""The settings of a LoRA adapter (``adapter_config.json``): which rank and scale each module has.

>>> settings = LoraSettings(8, 16.0, ranks={"layers.[0-3].q_proj": 4}, alphas={"q_proj": 2.0})
>>> settings.rank_of("model.layers.3.q_proj"), settings.scaling("model.layers.3.q_proj")
(4, (2.0, 0.5))
>>> settings.rank_of("model.layers.3.my_q_proj"), settings.scaling("model.layers.4.v_proj")
(8, (16.0, 2.0))
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from stockpot.checkpoint.model import Checkpoint
from stockpot.errors import CheckpointError, Problem, UnsupportedError

__all__ = ["CONFIG_NAME", "LONGEST_NAME", "LoraSettings", "settings_in", "settings_of"]

CONFIG_NAME = "adapter_config.json"

_OTHER_ARITHMETIC = (
    "layer_replication", "target_parameters", "trainable_token_indices", "alora_invocation_tokens", "arrow_config",
    "kasa_config", "monteclora_config",
)  # fmt: skip
"""Settings that, when given, mean that the model is not its base with ``scale · B·A`` added."""

_KNOWN_USES = {"LORA": ("use_rslora", "use_dora"), "LOHA": ("use_effective_conv2d",), "LOKR": ("use_effective_conv2d",)}
"""Kind of adapter → the settings ``use_…`` that are understood."""

_FORMULAS = {"LORA": "scale · B·A", "LOHA": "scale · (w1_a·w1_b)∘(w2_a·w2_b)", "LOKR": "scale · w1⊗w2"}

_PLAIN_STARTS = ("gaussian", "eva", "orthogonal")
"""Ways to initialise A and B that leave the base's weights as they are."""

_SLOW = re.compile(r"[)\]][*+{]|[*+?}][*+{]")
_MAX_PATTERNS, _MAX_PATTERN, _MAX_STARS = 10_000, 300, 3
LONGEST_NAME = 256
"""Patterns are regular expressions of strangers; these cannot take long on a name of that length."""

_MERGE = "merge the adapter with peft (merge_and_unload), save the model and name its folder"


@dataclass(frozen=True)
class LoraSettings:
    """What the settings say.

    Args:
        rank, alpha: Of modules that no pattern names.
        ranks, alphas: Pattern of module names → rank or alpha.
        rooted: Whether the scale is alpha / √rank instead of alpha / rank.
        transposed: Whether weights are stored as (in, out).
        bias: ``none``, ``all`` or ``lora_only``: which biases the adapter brings.
        saved: Modules that are stored whole.
        dora: Whether each module has a magnitude for each of its outputs.
        kind: ``LORA``, ``LOHA`` or ``LOKR``.
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    rooted: bool = False
    transposed: bool = False
    bias: str = "none"
    saved: tuple[str, ...] = ()
    dora: bool = False
    kind: str = "LORA"

    def rank_of(self, module: str) -> int:
        """The rank of a module."""
        return self.ranks.get(_pattern(module, self.ranks) or "", self.rank)

    def scaling(self, module: str) -> tuple[float, float]:
        """(alpha, scale) of a module."""
        alpha, rank = self.alphas.get(_pattern(module, self.alphas) or "", self.alpha), self.rank_of(module)
        return alpha, alpha / (math.sqrt(rank) if self.rooted else rank)


def settings_of(adapter: Checkpoint) -> LoraSettings:
    """The settings of an opened adapter.

    Raises:
        UnsupportedError: for other kinds of adapters, and for arithmetic other than ``scale · B·A``.
        CheckpointError: for settings that are missing or are no numbers.
    """
    where = str(adapter.folder / CONFIG_NAME) if adapter.folder is not None else None
    return settings_in(adapter.config, where)


def settings_in(config: Mapping[str, Any], where: str | None) -> LoraSettings:
    """The settings that ``config`` holds.

    Args:
        where: The file that it stands in, for errors.

    Raises:
        UnsupportedError: as :func:`settings_of`.
        CheckpointError: as :func:`settings_of`.
    """
    strange = [Problem(message, file=where, fix=fix) for message, fix in _unsupported(config)]
    if strange:
        raise UnsupportedError(*strange)
    alpha = "lora_alpha" if config["peft_type"] == "LORA" else "alpha"
    wrong = [Problem(m, file=where, fix="get the adapter again, or mend its settings") for m in _wrong(config, alpha)]
    if wrong:
        raise CheckpointError(*wrong)
    return LoraSettings(
        rank=config["r"],
        alpha=float(config[alpha]),
        ranks=dict(config.get("rank_pattern") or {}),
        alphas={pattern: float(alpha) for pattern, alpha in (config.get("alpha_pattern") or {}).items()},
        rooted=bool(config.get("use_rslora")),
        transposed=bool(config.get("fan_in_fan_out")),
        bias=config.get("bias") or "none",
        saved=tuple(config.get("modules_to_save") or ()),
        dora=bool(config.get("use_dora")),
        kind=config["peft_type"],
    )


def _unsupported(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    kind = config.get("peft_type")
    if kind not in _KNOWN_USES:
        yield f"adapters of type {kind} are not supported; {', '.join(_KNOWN_USES)} are", _MERGE
        return
    for key, value in config.items():
        strange = key.startswith("use_") and key not in _KNOWN_USES[kind]
        if value and (key in _OTHER_ARITHMETIC or strange):
            yield (
                f"the adapter's setting {key} means other arithmetic than {_FORMULAS[kind]}, which is not supported",
                _MERGE,
            )
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in _PLAIN_STARTS:
        fix = "save it with peft's path_initial_model_for_weight_conversion, or, where BASE has the changed weights, "
        yield (
            f"init_lora_weights is {start!r}, which may have changed the base's weights before training",
            fix + f"write true there in {CONFIG_NAME}",
        )


def _wrong(config: Mapping[str, Any], alpha: str) -> Iterator[str]:
    if not _is_rank(config.get("r")):
        yield f"r is {config.get('r')!r}, not a whole number from 1"
    if not _is_number(config.get(alpha)):
        yield f"{alpha} is {config.get(alpha)!r}, not a number"
    for key, check in (("rank_pattern", _is_rank), ("alpha_pattern", _is_number)):
        found = config.get(key) or {}
        if not isinstance(found, dict) or len(found) > _MAX_PATTERNS:
            yield f"{key} is no map of at most {_MAX_PATTERNS} patterns"
            continue
        yield from (f"{key} says {value!r} of {p!r}" for p, value in found.items() if not check(value))
        yield from (f"{key}: the pattern {p[:80]!r} cannot be read" for p in found if not _readable(p))
    if config.get("bias") not in (None, "none", "all", "lora_only"):
        yield f"bias is {config.get('bias')!r}, not none, all or lora_only"
    saved = config.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(isinstance(name, str) and name for name in saved):
        yield "modules_to_save is no list of names"
    for key in ("use_rslora", "use_dora", "fan_in_fan_out"):
        if config.get(key) not in (None, True, False):
            yield f"{key} is {config.get(key)!r}, not true or false"


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**31


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


def _readable(pattern: str) -> bool:
    """Whether a pattern is a regular expression that cannot take long."""
    if len(pattern) > _MAX_PATTERN or _SLOW.search(pattern) or len(re.findall(r"[*+{]", pattern)) > _MAX_STARS:
        return False
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _pattern(module: str, patterns: Mapping[str, Any]) -> str | None:
    """The first of ``patterns`` that the end of a module's name matches, from a dot on."""
    return next((p for p in patterns if _compiled(p).fullmatch(module)), None)


@lru_cache(_MAX_PATTERNS)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:.*\.)?(?:{pattern})")
