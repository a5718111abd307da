"""Averages of the checkpoints of one training run: WSM and the exponential moving average."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from stockpot.methods.declare import Base, Citation, Floats, Law, Method, Parameter, Resolved, Span

__all__ = ["EMA", "WSM"]

_TIAN_2025 = Citation(
    "Changxin Tian and Jiapeng Wang and Qian Zhao and Kunlong Chen and Jia Liu and Ziqi Liu and Jiaxin Mao and "
    "Wayne Xin Zhao and Zhiqiang Zhang and Jun Zhou",
    "WSM: decay-free learning rate schedule via checkpoint merging for LLM pre-training",
    2025,
    "arXiv:2507.17634",
    "theorem on merging and decay: c_0 = 1 - w_1, c_j = w_j - w_(j+1), c_k = w_k",
)
_KINGMA_2014 = Citation(
    "Diederik P. Kingma and Jimmy Ba",
    "Adam: a method for stochastic optimization",
    2014,
    "arXiv:1412.6980",
    "section 7.2",
)


def _linear(progress: float) -> float:
    return 1.0 - progress


def _cosine(progress: float) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * progress)


def _one_minus_sqrt(progress: float) -> float:
    return 1.0 - math.sqrt(progress)


_DECAYS: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {"linear": _linear, "cosine": _cosine, "one_minus_sqrt": _one_minus_sqrt, "mean": _linear}
)
"""The factor of the learning rate after a share of the decay; linear decay of the rate is the plain mean."""


def _wsm(_gram: Floats | None, p: Resolved) -> Floats:
    """Differences of the factors 1 = w_0 ≥ w_1 ≥ … ≥ w_k ≥ w_(k+1) = 0."""
    decay = _DECAYS[p["decay"]]
    factors = [1.0, *(decay(i / p.models) for i in range(1, p.models)), 0.0]
    return -np.diff(np.array(factors))


def _ema(_gram: Floats | None, p: Resolved) -> Floats:
    """β^(n−1) for the first, (1 − β) β^(n−j) for the j-th."""
    decay = float(p["decay"])
    powers = decay ** np.arange(p.models - 1, -1, -1, dtype=np.float64)
    return np.append(powers[:1], (1.0 - decay) * powers[1:])


WSM = Method(
    name="wsm",
    summary="Mean of a run's checkpoints, oldest first, weighted to stand for a decay of the learning rate.",
    formula="sum_j c_j x_j,  c_0 = 1 - w_1, c_j = w_j - w_(j+1), c_k = w_k,  w_i = decay(i / (k + 1))",
    cites=_TIAN_2025,
    family=Span(_wsm),
    base=Base.NONE,
    on="either",
    parameters=(
        Parameter(
            "decay",
            "shape of the decay that the mean stands for; mean (as in PMA) is the same as linear",
            default="linear",
            kind="choice",
            choices=tuple(_DECAYS),
        ),
    ),
    laws=frozenset({Law.IDEMPOTENT, Law.DETERMINISTIC}),
    notes=(
        "The order of the models is that of training: the oldest checkpoint first.",
        "Checkpoints are taken to be evenly spaced; after the last one the rate would be 0.",
        "A linear decay gives equal weights 1/(k + 1): uniform averages such as PMA and LAWA are that case.",
    ),
)

EMA = Method(
    name="ema",
    summary="Exponential moving average over a run's checkpoints, oldest first.",
    formula="m_1 = x_1,  m_j = decay * m_(j-1) + (1 - decay) * x_j",
    cites=_KINGMA_2014,
    family=Span(_ema),
    base=Base.NONE,
    on="either",
    parameters=(
        Parameter(
            "decay", "share of the average that each checkpoint leaves, in [0, 1]; 0 is the last", low=0.0, high=1.0
        ),
    ),
    laws=frozenset({Law.IDEMPOTENT, Law.DETERMINISTIC}),
    notes=(
        "The order of the models is that of training: the oldest checkpoint first.",
        "The average starts as a copy of the first checkpoint, as training libraries do, so that no correction for a "
        "start at 0 applies; the first checkpoint keeps the weight decay^(n - 1).",
        "decay is per checkpoint: with s steps between checkpoints, decay^(1/s) per step.",
    ),
)
