"""Passthrough: one model's tensors as they are, perhaps scaled; stacking layers is built on it."""

from __future__ import annotations

import numpy as np

from stockpot.methods.declare import Base, Citation, Floats, Law, Method, Parameter, Resolved, Span

__all__ = ["PASSTHROUGH"]

_KIM_2023 = Citation(
    "Sanghoon Kim and Dahyun Kim and Chanjun Park and Wonsung Lee and Wonho Song and Yunsu Kim and Hyeonwoo Kim and "
    "Yungi Kim and Hyeonju Lee and Jihoo Kim and Changbae Ahn and Seonghoon Yang and Sukyung Lee and "
    "Hyunbyung Park and Gyoungjin Gim and Mikyoung Cha and Hwalsuk Lee and Sunghun Kim",
    "SOLAR 10.7B: scaling large language models with simple yet effective depth up-scaling",
    2023,
    "arXiv:2312.15166",
    "section 2 (stacking of layers)",
)


def _scale(_gram: Floats | None, p: Resolved) -> Floats:
    return np.array([p["scale"]], np.float64)


PASSTHROUGH = Method(
    name="passthrough",
    summary="Hands one model's tensors on, bit for bit, or scaled; with slices, stacks layers.",
    formula="scale * x",
    cites=_KIM_2023,
    family=Span(_scale),
    base=Base.NONE,
    on="either",
    at_least=1,
    at_most=1,
    parameters=(Parameter("scale", "factor of every entry", default=1.0),),
    laws=frozenset({Law.IDEMPOTENT, Law.DETERMINISTIC}),
)
