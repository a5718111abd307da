"""An adapter of what a fine-tuned model has learned: the difference from its base, factorised weight by weight."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.architecture.layers import recomputed_buffer
from stockpot.architecture.tied import embedding_of, is_head, ties_embeddings
from stockpot.checkpoint.dtypes import DTYPES, DType
from stockpot.checkpoint.folder import natural
from stockpot.checkpoint.model import Checkpoint, Stamp, TensorRef
from stockpot.checkpoint.reader import PayloadReader
from stockpot.errors import ExecutionError, ExpressionError, PlanError, Problem
from stockpot.execute.evaluate import Bytes
from stockpot.execute.matrices import Normals, one_thread
from stockpot.lora.engine import Engine, Progress, checked, hashes_of, step_of
from stockpot.lora.factors import Wanted, cut_dense, dense_bytes
from stockpot.lora.kinds import Saved, category_of, stored_crossed
from stockpot.lora.merging import named_dtype
from stockpot.lora.opening import Given, change_named
from stockpot.lora.output import WEIGHTS_NAME, Factors, Files, Made, Writing, one_method, peft_factors, written
from stockpot.lora.report import Intended, Loss, Part, Report
from stockpot.lora.settings import extracted_config
from stockpot.planning.blocks import BLOCK
from stockpot.planning.build import open_all
from stockpot.planning.lowering import LinearView, apart, build_view
from stockpot.planning.model import Compute, Limits, Operand, Read, Step
from stockpot.planning.views import Context, Meta, View

__all__ = ["Extract", "extract", "plan_extract"]

_ROOT = "base_model.model."
_HEADED = ("ForCausalLM", "LMHeadModel")


@dataclass(frozen=True)
class Extract:
    """What is asked for.

    Args:
        tuned, base: Models, each perhaps with an adapter on it: ``model+adapter``.
        wanted: Rank, energy, or both.
        include, exclude: Regular expressions, searched for in names of modules; where ``include`` is given, only what
            it finds is factorised, embeddings and heads too.
        save: What may be stored whole where it has changed.
        drop: Regular expression: tensors of which changes may be left out. They are named with their norms.
        dtype: Of the factors; None takes float32, or float64 where a model has that.
        prefix: What stands before the names of the model's tensors in the class that it is loaded with.
        seed: Key of random numbers.
        asked: What the receipt tells.
        given: What references mean, where the command is repeated; None opens them.
    """

    tuned: str
    base: str
    wanted: Wanted
    include: str | None = None
    exclude: str | None = None
    save: tuple[Saved, ...] = ("embeddings", "heads", "norms", "biases", "others")
    drop: str | None = None
    dtype: str | None = None
    prefix: str = ""
    seed: int = 0
    asked: Mapping[str, Any] = field(default_factory=dict)
    given: Given = None


def extract(
    what: Extract,
    out: Path,
    limits: Limits,
    *,
    overwrite: bool = False,
    durable: bool = True,
    progress: Progress | None = None,
) -> Made:
    """Write an adapter on ``what.base`` that makes of it, as nearly as asked for, ``what.tuned``.

    Everything that has changed is factorised, stored whole, or was allowed to be left out; anything else is an error.

    Raises:
        StockpotError: with everything that is wrong.
    """
    with _job(what, limits, progress) as job:
        job.sort()
        return written(out, job.names(), job.fill, overwrite=overwrite, durable=durable)


def plan_extract(what: Extract, limits: Limits) -> Intended:
    """What :func:`extract` would do, from headers: what has changed at all is not known before tensors are read.

    Raises:
        StockpotError: with everything that is wrong.
    """
    with _job(what, limits, None) as job:
        return job.intended()


@contextmanager
def _job(what: Extract, limits: Limits, progress: Progress | None) -> Iterator[_Job]:
    patterns = {key: _pattern(key, getattr(what, key)) for key in ("include", "exclude", "drop")}
    expression, checkpoints = open_all(change_named(what.tuned, what.base, what.given))
    context = Context(checkpoints, what.seed)
    view = build_view(expression, context)
    assert isinstance(view, LinearView)
    operands = {name: view.lower(name) for name in sorted(view.names, key=natural)}
    after, before = view.terms
    if view.reference is not before and not context.problems:
        context.problems.append(_larger(after, before))
    if context.problems:
        raise PlanError(*context.problems)
    stamps: dict[str, Stamp] = {path: stamp for c in checkpoints.values() for path, stamp in c.stamps.items()}
    inputs = dict(zip(apart(c.label for c in checkpoints.values()), checkpoints.values(), strict=True))
    with PayloadReader(stamps=stamps, hashing=True) as reader, one_thread():
        yield _Job(what, dict(view.names), operands, (after, before), inputs, patterns, limits, reader, progress)


def _pattern(key: str, text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise ExpressionError(Problem(f"--{key} {text!r} is no regular expression: {error}")) from error


def _larger(tuned: View, base: View) -> Problem:
    """The base has a place in the tuned model, which has more: an adapter on the base cannot hold that."""
    message = f"{tuned.label} has {base.label} inside and more beside it, which no adapter on {base.label} can hold"
    return Problem(message, fix="name a base that has all of it, such as the model before fine-tuning")


class _Job:
    """One extraction: what becomes of each tensor."""

    def __init__(
        self,
        what: Extract,
        metas: Mapping[str, Meta],
        operands: Mapping[str, Operand],
        views: tuple[View, View],
        inputs: Mapping[str, Checkpoint],
        patterns: Mapping[str, re.Pattern[str] | None],
        limits: Limits,
        reader: PayloadReader,
        progress: Progress | None,
    ) -> None:
        self._what, self._metas, self._operands = what, metas, operands
        (self._after, self._before), self._reader = views, reader
        self._config, self._inputs = self._before.config, inputs
        self._patterns, exclude = patterns, patterns["exclude"]
        kept = {n: m for n, m in metas.items() if exclude is None or not exclude.search(n.rpartition(".")[0])}
        self._crossed = stored_crossed(kept)
        self._steps = {
            name: step_of(name, op, metas[name].shape) for name, op in operands.items() if isinstance(op, Compute)
        }
        self._factored = [name for name in self._steps if self._factorised(name)]
        self._saved: list[str] = []
        self._dropped: dict[str, float] = {}
        self._notes: list[str] = []
        rank = what.wanted.rank if what.wanted.energy is None else None
        held = max((dense_bytes(*_flat(metas[n].shape), min(_flat(metas[n].shape)) if rank is None else rank)
                    for n in self._factored), default=0)  # fmt: skip
        self._engine = Engine([*self._steps.values()], (), limits, reader, beside=held, progress=progress)
        self._memory = checked(held, limits, self._engine.cost)

    def names(self) -> list[str]:
        """At least the names of all tensors of the adapter."""
        endings = ("lora_embedding_A", "lora_embedding_B", "base_layer.bias")
        root = f"{_ROOT}{self._what.prefix}."
        return [root + n for n in self._metas] + [f"{root}{n}.{e}" for n in self._factored for e in endings]

    def _factorised(self, name: str) -> bool:
        """Whether a tensor is to be factorised."""
        shape, (module, _, last) = self._metas[name].shape, name.rpartition(".")
        include, exclude = self._patterns["include"], self._patterns["exclude"]
        drop = self._patterns["drop"]
        depthwise = len(shape) == 4 and shape[1] == 1 and shape[0] > 1
        if last != "weight" or len(shape) not in (2, 4) or depthwise or 0 in shape:
            return False
        if (exclude is not None and exclude.search(module)) or (drop is not None and drop.search(name)):
            return False
        if include is not None:
            return include.search(module) is not None
        return category_of(name, shape) == "weights"

    def sort(self) -> None:
        """Look at everything that is not factorised: what has changed is stored whole, or may be left out.

        Raises:
            PlanError: for what has changed and is neither.
        """
        drop, problems = self._patterns["drop"], []
        for name, meta in self._metas.items():
            if name in self._factored:
                continue
            if name not in self._steps:
                problems += self._copied(name)
                continue
            norm = self._norm(name)
            if norm == 0.0:
                continue
            category = category_of(name, meta.shape)
            if drop is not None and drop.search(name):
                self._dropped[name] = norm
            elif category not in self._what.save or self._homeless(name):
                problems.append(self._lost(name, category, norm))
            else:
                self._saved.append(name)
        for name in self._after.names.keys() - self._metas.keys():
            problems += self._copied(name)
        problems += [*self._tied(), *self._in_folders()]
        if problems:
            raise PlanError(*problems)

    def _in_folders(self) -> list[Problem]:
        """PEFT loads components of a pipeline one by one, and knows no names with folders in them."""
        name = next((n for n in (*self._factored, *self._saved) if "/" in n), None)
        if name is None:
            return []
        fix = "name one component's folder of both models, or leave components out: --exclude and --drop"
        return [
            Problem("the model has several components, of which an adapter is made each alone", tensor=name, fix=fix)
        ]

    def _copied(self, name: str) -> list[Problem]:
        """A tensor without arithmetic, such as a buffer of integers, must be that of the base."""
        drop = self._patterns["drop"]
        now, before = (view.lower(name) if name in view.names else None for view in (self._after, self._before))
        if not isinstance(now, Read) or recomputed_buffer(name) or (drop is not None and drop.search(name)):
            return []
        if isinstance(before, Read) and _same_bytes(now.ref, before.ref, self._reader):
            return []
        message = f"it is {now.dtype.code} and is not that of the base: no adapter can change it"
        return [Problem(message, tensor=name, fix=f"leave the change out: --drop '{re.escape(name)}'")]

    def _norm(self, name: str) -> float:
        """Frobenius norm of a change, block by block."""
        parts: dict[int, float] = {}

        def sink(_: Step, start: int, data: Bytes) -> None:
            values = data.view("float64")
            parts[start] = float(values @ values)

        self._engine.run(self._steps[name], sink)
        return math.sqrt(math.fsum(parts.values()))

    def _homeless(self, name: str) -> bool:
        """Whether a parameter stands beside other modules in its own: PEFT saves whole modules only."""
        module, _, last = name.rpartition(".")
        if last in ("weight", "bias"):
            return False
        return not module or any(n.startswith(f"{module}.") and "." in n[len(module) + 1 :] for n in self._metas)

    def _lost(self, name: str, category: Saved, norm: float) -> Problem:
        if category in self._what.save:
            message = f"it has changed (norm {norm:.4g}), and is a parameter that PEFT can store in no module"
            return Problem(message, tensor=name, fix=f"leave the change out: --drop '{re.escape(name)}'")
        fix = f"store it whole (--save-modules {','.join((*self._what.save, category))}), or leave it out: --drop REGEX"
        return Problem(f"it has changed (norm {norm:.4g}), and is neither factorised nor stored", tensor=name, fix=fix)

    def _tied(self) -> list[Problem]:
        """A head that is the embedding changes with it, which an adapter has to be told."""
        embedding = embedding_of(self._metas)
        if embedding is None or any(map(is_head, self._metas)) or not ties_embeddings(self._config):
            return []
        if embedding in self._factored:
            message = "the head is tied to this embedding, and factors on it would not change the head"
            return [Problem(message, tensor=embedding, fix="let it be stored whole: do not --include it")]
        return []

    def _head(self) -> str | None:
        """The name of a head that is tied to an embedding which is stored whole."""
        embedding = embedding_of(self._metas)
        architecture = _architecture(self._config) or ""
        if embedding not in self._saved or any(map(is_head, self._metas)) or not ties_embeddings(self._config):
            return None
        if not architecture.endswith(_HEADED):
            return None
        return "embed_out" if str(self._config.get("model_type", "")).startswith("gpt_neox") else "lm_head"

    @cached_property
    def _dtype(self) -> DType:
        metas = (*self._metas.values(), *self._after.names.values())
        widest = max((m.dtype.bits for m in metas if m.dtype.is_float), default=32)
        return named_dtype(self._what.dtype, DTYPES["F64" if widest > 32 else "F32"])

    def intended(self) -> Intended:
        """What would be done if every tensor had changed."""
        most = self._what.wanted.rank
        shapes = [(name, self._metas[name].shape) for name in self._factored]
        parts = tuple(
            Part(self._named(n.rpartition(".")[0]), s, min(*_flat(s), most or min(_flat(s))), dense=True)
            for n, s in shapes
        )
        others = [n for n in self._metas if n not in self._factored]
        kept = tuple(n for n in others if category_of(n, self._metas[n].shape) in self._what.save)
        left = len(others) - len(kept)
        note = "what has not changed is left out; which that is, only reading the tensors tells"
        more = f"; {left} other tensors must not have changed, or --drop must allow it" if left else ""
        return Intended(WEIGHTS_NAME, parts, kept, self._memory, self._dtype.bits, (note + more,))

    def fill(self, file: Writing) -> Files:
        """Write everything."""
        dtype = self._dtype
        losses, ranks = [], {}
        for factors in self._factors():
            for name, values in factors.tensors():
                file.add(name, dtype, values)
            losses.append(factors.loss)
            ranks[factors.module] = factors.rank
        if not losses and not self._saved:
            raise ExecutionError(Problem("nothing has changed: there is nothing to extract"))
        saved, biases, whole = self._write_saved(file, set(ranks))
        crossed = self._crossed is True
        config = extracted_config(
            self._what.base, _architecture(self._config), ranks, saved, biases=biases, crossed=crossed
        )
        report = Report(tuple(losses), tuple(whole), self._dropped, tuple(self._notes), self._memory)
        read, method = hashes_of(self._reader, self._operands.values()), one_method("lora extract")
        return Files(config, self._what.asked, self._inputs, read, "Extracted adapter", report, self._what.seed, method)

    def _factors(self) -> Iterator[Factors]:
        for name in self._factored:
            shape, module = self._metas[name].shape, self._named(name.rpartition(".")[0])
            matrix = self._engine.array(self._steps[name]).reshape(_flat(shape))
            if not matrix.any():
                continue
            embedding = embedding_of([name]) is not None
            crossed = embedding or (len(shape) == 2 and self._crossed is True and not is_head(name))
            found = cut_dense(matrix, self._what.wanted, Normals(name, self._what.seed))
            a, b = peft_factors(found.product.left, found.product.right, shape, crossed=crossed)
            yield Factors(module, a, b, Loss(module, found.rank, found.norm, found.retained), embedding)

    def _named(self, name: str) -> str:
        """A name as the class that the model is loaded with has it."""
        return f"{self._what.prefix}.{name}" if self._what.prefix and not is_head(f"{name}.weight") else name

    def _write_saved(self, file: Writing, factored: set[str]) -> tuple[list[str], bool, list[str]]:
        """Modules stored whole, whether biases of factorised ones are, and the names of all those tensors."""
        modules: dict[str, None] = {}
        whole, biases = [], False
        head = self._head()
        for name in sorted(self._saved, key=lambda n: -self._stored(n).bits):
            module, _, last = name.rpartition(".")
            own = self._named(module)
            target = f"{_ROOT}{own}.{last}"
            if own in factored:
                target, biases = f"{_ROOT}{own}.base_layer.{last}", True
            else:
                modules[own] = None
            self._write(name, target, file)
            whole.append(target)
            if head is not None and name == embedding_of(self._metas):
                modules[head] = None
                self._write(name, f"{_ROOT}{head}.weight", file)
                whole.append(f"{_ROOT}{head}.weight")
        return list(modules), biases, whole

    def _stored(self, name: str) -> DType:
        return self._after.names.get(name, self._metas[name]).dtype

    def _write(self, name: str, target: str, file: Writing) -> None:
        """The tuned model's tensor, in its own dtype."""
        operand = self._operands[name]
        assert isinstance(operand, Compute)
        tuned = operand.inputs[0]
        dtype = tuned.dtype if isinstance(tuned, Read) else self._stored(name)
        assert dtype is not None
        step = step_of(name, tuned, self._metas[name].shape, dtype)
        self._engine.run(step, file.begin(target, dtype, step.shape))


def _same_bytes(one: TensorRef, other: TensorRef, reader: PayloadReader) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    for start in range(0, one.nbytes, BLOCK):
        parts = [np.empty(min(BLOCK, one.nbytes - start), np.uint8) for _ in range(2)]
        for ref, part in zip((one, other), parts, strict=True):
            reader.read(ref, start, part.data)
        if not np.array_equal(parts[0], parts[1]):
            return False
    return True


def _flat(shape: Sequence[int]) -> tuple[int, int]:
    return shape[0], math.prod(shape[1:])


def _architecture(config: Mapping[str, Any]) -> str | None:
    names = config.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None
