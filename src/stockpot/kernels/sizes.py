"""Sizes that planning and kernels share; importing them compiles nothing."""

from __future__ import annotations

__all__ = ["ROW"]

ROW = 2048
"""Elements of a row: 16 KiB as float64, so that a handful of rows stays in the second-level cache."""
