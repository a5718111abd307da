"""What runs models for lm-eval: transformers on the merge in memory, or vLLM on a temporary folder."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stockpot.errors import Problem, RecipeError
from stockpot.evaluate.neural import need
from stockpot.evaluate.opened import Opened
from stockpot.execute.local import execute
from stockpot.execute.versions import versions_of

__all__ = ["BACKENDS", "SEED", "Wanted", "check_settings", "running"]

BACKENDS = ("transformers", "vllm")

SEED = 1234
"""Of few-shot examples and sampling, as lm-eval's own."""

_LEVEL = "VLLM_LOGGING_LEVEL"
_FIXED = ("pretrained", "tokenizer", "trust_remote_code", "revision", "seed", "batch_size", "max_length")


@dataclass(frozen=True)
class Wanted:
    """What a suite says of how a task is run; see docs/evaluate.md.

    Args:
        few_shot: Examples before each document; None takes as many as the task says.
        limit: Documents at most, the first ones.
        filtered: The filter whose results are measured; None takes the task's first.
        backend: One of :data:`BACKENDS`.
        batch: Sequences that are computed at a time, by transformers; vLLM has ways of its own.
        context: Tokens; None takes the model's own.
        chat: Whether prompts are put into the model's chat template.
        settings: Handed on to vLLM.
    """

    few_shot: int | None = None
    limit: int | None = None
    filtered: str | None = None
    backend: str = "transformers"
    batch: int = 8
    context: int | None = None
    chat: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    def engine(self) -> str:
        """What an engine of vLLM is started with."""
        return repr((self.context, sorted(self.settings.items())))

    def facts(self) -> dict[str, Any]:
        """What predictions depend on."""
        told = {"few_shot": self.few_shot, "limit": self.limit, "backend": self.backend, "context": self.context}
        versions = versions_of("vllm") if self.backend == "vllm" else {}
        return {**told, "chat": self.chat, "settings": dict(self.settings), **versions}


def check_settings(settings: Mapping[str, Any], backend: str) -> None:
    """Raise for ``settings`` that are not the user's to give.

    Raises:
        RecipeError: says why.
    """
    if settings and backend != "vllm":
        raise RecipeError(Problem("settings are those of vLLM", fix="backend: vllm"))
    wrong = [key for key in settings if key in _FIXED]
    if wrong:
        raise RecipeError(Problem(f"settings: {wrong[0]} is not among what may be set", fix="leave it out"))


@contextmanager
def running(model: Opened, wanted: Wanted) -> Iterator[Any]:
    """A model of lm-eval that runs ``model``, as ``wanted``.

    An engine of vLLM takes long to start, so it is held for the next task that wants the same.
    """
    if wanted.backend == "vllm":
        yield model.held(("vllm", wanted.engine()), lambda: _vllm(model, wanted))
    else:
        yield _transformers(model, wanted)


def _transformers(model: Opened, wanted: Wanted) -> Any:
    """On the memory that the merge wrote. lm-eval sets a padding token, so it is handed a copy of the tokenizer."""
    from lm_eval.models.huggingface import HFLM

    tokenizer = deepcopy(model.tokenizer)
    return HFLM(
        pretrained=model.transformer("causal"),
        backend="causal",
        tokenizer=tokenizer,
        batch_size=wanted.batch,
        max_length=wanted.context,
        trust_remote_code=False,
    )


@contextmanager
def _vllm(model: Opened, wanted: Wanted) -> Iterator[Any]:
    """vLLM reads folders only, so the merge is written to one, for its time."""
    need("vllm", extra=None)
    with TemporaryDirectory(prefix="stockpot-vllm-") as name:
        folder = Path(name) / "model"
        execute(model.plan, folder, durable=False)
        _free()
        try:
            yield _engine(folder, wanted)
        finally:
            gc.collect()


def _engine(folder: Path, wanted: Wanted) -> Any:
    """vLLM as lm-eval starts it. Its processes write pages to standard error: errors alone, unless the user asks."""
    asked = _LEVEL in os.environ
    os.environ.setdefault(_LEVEL, "ERROR")
    try:
        from lm_eval.models.vllm_causallms import VLLM

        fixed = {"batch_size": "auto", "max_length": wanted.context, "trust_remote_code": False, "seed": SEED}
        return VLLM(pretrained=str(folder), **fixed, **wanted.settings)
    finally:
        if not asked:
            del os.environ[_LEVEL]


def _free() -> None:
    """Give back what torch keeps of a GPU's memory for its next use: an engine has processes of its own."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
