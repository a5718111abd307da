"""lm-eval without its bars and notes, and its templates in a sandbox."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

__all__ = ["quietly", "swapped"]


@contextmanager
def quietly(*, sandboxed: bool = False) -> Iterator[None]:
    """Meanwhile nothing is shown but errors.

    Args:
        sandboxed: Whether templates are rendered without access to what Python could do with them: a text from a
            stranger's file may otherwise reach any function through the attributes of any value.
    """
    import datasets
    import tqdm as bars
    from lm_eval import utils

    with ExitStack() as stack:
        for name in ("lm_eval", "datasets", "sacrebleu"):
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        if datasets.are_progress_bars_disabled():
            stack.callback(datasets.disable_progress_bars)
        else:
            stack.callback(datasets.enable_progress_bars)
        datasets.disable_progress_bars()
        for module in [m for name, m in sys.modules.items() if name.startswith("lm_eval.")]:
            if getattr(module, "tqdm", None) is bars.tqdm:
                stack.enter_context(swapped(module, "tqdm", _silent))
        if sandboxed:
            stack.enter_context(swapped(utils, "env", _sandbox(utils.env)))
        yield


def _silent(*what: Any, **how: Any) -> Any:
    """A bar that is not shown, whatever is asked."""
    from tqdm import tqdm

    return tqdm(*what, **(how | {"disable": True}))


def _sandbox(own: Any) -> Any:
    """The environment ``own`` of templates, with the same rules, as one that refuses what is unsafe."""
    from jinja2 import BaseLoader
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    made = ImmutableSandboxedEnvironment(
        loader=BaseLoader(), undefined=own.undefined, keep_trailing_newline=own.keep_trailing_newline
    )
    made.filters.update(own.filters)
    return made


@contextmanager
def swapped(place: Any, name: str, value: Any) -> Iterator[None]:
    """Meanwhile ``place.name`` is ``value``."""
    before = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, before)
