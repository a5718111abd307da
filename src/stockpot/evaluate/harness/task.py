"""A task of lm-eval as a task of a suite: documents of a role, run by lm-eval, a row for each of them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.checkpoint.places import stands
from stockpot.errors import CheckpointError, ExecutionError, Problem, RecipeError, StockpotError, UnsupportedError
from stockpot.evaluate.examples import content_of, digest, keys_of
from stockpot.evaluate.harness.backends import SEED, Wanted, running
from stockpot.evaluate.harness.definitions import Definition
from stockpot.evaluate.harness.documents import Documents, digest_of
from stockpot.evaluate.harness.measures import column, measures, registered
from stockpot.evaluate.harness.quiet import quietly, swapped
from stockpot.evaluate.harness.rows import numbers_of
from stockpot.evaluate.neural import seeded
from stockpot.evaluate.opened import Opened
from stockpot.evaluate.protocol import EXAMPLE, PATTERN, Files, Metric, Predictions, is_named
from stockpot.execute.versions import versions_of
from stockpot.recipe.known import nearest

__all__ = ["Harness", "filter_of", "placed", "single"]

_ROLE, _SHOTS = "documents", "shots"


def single(
    found: Definition,
    wanted: Wanted,
    data: Mapping[str, Files],
    asked: Sequence[Metric | str],
    *,
    allowed: bool = False,
) -> Harness:
    """The task ``found``, ready to be run on ``data``.

    Args:
        data: Role → files or the split that is named; few-shot examples are those of ``train``.
        asked: Metrics, the task's own by name; all of the task's where there are none.
        allowed: Whether code that a task's file names may run.

    Raises:
        StockpotError: says what is wrong with data or metrics.
    """
    data = {role: placed(files, found.name) for role, files in data.items()}
    builder = _Builder(found, wanted, data.get("train", ()), allowed)
    roles = {role: files for role, files in data.items() if role != "train"}
    built = [builder.built(files) for files in roles.values()]
    if not built:
        raise RecipeError(Problem(f"{found.name} has no data", fix='split: {report: "@test"}'))
    filtered = filter_of(built[0], wanted.filtered)
    named = {str(f[0]): digest_of(builder.documents(f)) for f in data.values() if f and is_named(f[0])}
    train = data.get("train", ())
    shots = [str(path) if is_named(path) else content_of([path]) for path in train]
    facts = {"kind": "lm_eval", "task": found.digest, "name": found.name, "shots": shots, "documents": named}
    packages = versions_of("lm_eval", "sacrebleu", "datasets", "torch", "transformers", "tokenizers")
    return Harness(builder, measures(asked, built[0], filtered), {**facts, **wanted.facts(), **packages})


def placed(files: Files, task: str) -> Files:
    """``files`` as they are for a task: ``{task}`` in their paths is its name, without that of a group before it.

    Raises:
        RecipeError: when there is no such file.
    """
    short = task.rpartition("::")[2]
    found = tuple(Path(str(path).replace(PATTERN, short)) for path in files)
    for path in (path for path, before in zip(found, files, strict=True) if path != before):
        if short in ("", ".", "..") or Path(short).name != short or not stands(path):
            raise RecipeError(Problem(f"no such file: {path}", fix=f"a file for the task {task}"))
    return found


@dataclass(frozen=True, eq=False)
class Harness:
    """A task of lm-eval.

    Columns: for each metric and filter of the task ``metric,filter``, what lm-eval's ``process_results`` makes of each
    document: a number, or those that the metric is aggregated from, such as log-likelihood and number of bytes. What is
    no number is left out.
    """

    builder: _Builder
    metrics: tuple[Metric, ...]
    facts: Mapping[str, Any]

    def placed(self, files: Files) -> Files:
        """The files that ``files``, of a suite, are for this task."""
        return placed(files, self.builder.name)

    def examples(self, files: Files) -> list[bytes]:
        """Of what the model sees: prompt and choices, or the text that is predicted."""
        return self.builder.digests(files)

    def predict(self, model: Opened, files: Files) -> Predictions:
        """See the class."""
        rows = self.builder.run(model, files)
        columns = {name: array for name, array in rows.items() if array is not None}
        found = {EXAMPLE: keys_of(self.examples(files)), **columns}
        lengths = {name: len(array) for name, array in found.items()}
        if len(set(lengths.values())) > 1:
            raise ExecutionError(Problem(f"{self.builder.name} has metrics of some documents only: {lengths}"))
        if not columns:
            raise ExecutionError(Problem(f"{self.builder.name} gives no numbers for its documents: {', '.join(rows)}"))
        return found


class _Builder:
    """Tasks of lm-eval with the documents of a role in place of their own, each built once."""

    def __init__(self, task: Definition, wanted: Wanted, shots: Files, allowed: bool) -> None:
        self._task, self._wanted, self._shots, self._allowed = task, wanted, shots, allowed
        self._data = Documents(task)
        self._built: dict[Files, Any] = {}
        self._digests: dict[Files, list[bytes]] = {}

    @property
    def name(self) -> str:
        """As lm-eval calls the task."""
        return self._task.name

    def built(self, files: Files) -> Any:
        """A task of lm-eval whose documents are those of ``files``."""
        if files not in self._built:
            from lm_eval.api.task import ConfigurableTask

            splits = {_ROLE: self._data.of(files), **({_SHOTS: self._data.of(self._shots)} if self._shots else {})}
            config = self._config(splits)
            with self._working(f"cannot make {self.name} of {', '.join(map(str, files))}"):
                self._built[files] = ConfigurableTask(config=config)
        return self._built[files]

    def documents(self, files: Files) -> Iterator[Mapping[str, Any]]:
        """Those that are run."""
        return islice(iter(self.built(files).eval_docs), self._wanted.limit)

    def digests(self, files: Files) -> list[bytes]:
        """One for each document, of what the model sees of it."""
        if files not in self._digests:
            task = self.built(files)
            with self._working(f"cannot read {', '.join(map(str, files))} as documents of {self.name}"):
                self._digests[files] = [_seen(task, one) for one in self.documents(files)]
        return self._digests[files]

    def run(self, model: Opened, files: Files) -> dict[str, npt.NDArray[np.float64] | None]:
        """``metric,filter`` → what the task makes of each document; None where that is no number."""
        from lm_eval.evaluator import evaluate

        task, wanted = self.built(files), self._wanted
        _check_tokens(model, task, wanted.backend)
        sandboxed = not self._task.trusted
        figures = swapped(task, "aggregation", lambda: defaultdict(lambda: len))  # made here, of rows
        with quietly(), running(model, wanted) as made, quietly(sandboxed=sandboxed), seeded(SEED), figures:
            task.set_fewshot_seed(SEED)
            told = evaluate(
                lm=made,
                task_dict={"tasks": {self.name: task}},
                limit=wanted.limit,
                bootstrap_iters=0,
                apply_chat_template=wanted.chat,
                fewshot_as_multiturn=True,
                confirm_run_unsafe_code=self._allowed,
            )
        task._instances = None  # noqa: SLF001 - requests and answers of a model that is done
        return _columns(task, told["samples"][self.name])

    def _config(self, splits: Mapping[str, Any]) -> dict[str, Any]:
        """The task's settings, with documents and few-shot examples from ``splits`` alone."""
        config = deepcopy(dict(self._task.config))
        config |= {"custom_dataset": lambda **_: splits, "dataset_kwargs": None, "num_fewshot": self._few(config)}
        config |= {"training_split": None, "validation_split": None, "test_split": _ROLE}
        config["fewshot_split"] = _SHOTS if _SHOTS in splits else None
        own = config.get("fewshot_config")
        if isinstance(own, dict):
            config["fewshot_config"] = {k: v for k, v in own.items() if k != "split"}
        return config

    def _few(self, config: Mapping[str, Any]) -> int:
        own = config.get("fewshot_config") or {}
        few = config.get("num_fewshot") if self._wanted.few_shot is None else self._wanted.few_shot
        if few and not self._shots and not own.get("samples"):
            split = own.get("split") or config.get("fewshot_split") or config.get("training_split")
            fix = f'train: "@{split}", or a file' if split else "train: FILE"
            raise RecipeError(Problem(f"{self.name}: few-shot examples need data of their own", fix=fix))
        return int(few or 0)

    @contextmanager
    def _working(self, what: str) -> Iterator[None]:
        """Whatever goes wrong is said to be about ``what``."""
        try:
            with quietly(sandboxed=not self._task.trusted):
                yield
        except StockpotError:
            raise
        except Exception as error:
            raise CheckpointError(Problem(f"{what}: {type(error).__name__}: {error}")) from error


def _columns(task: Any, samples: Sequence[Mapping[str, Any]]) -> dict[str, npt.NDArray[np.float64] | None]:
    """``metric,filter`` → a row of numbers for each document, where these are numbers."""
    rows: dict[tuple[str, str], list[Any]] = {}
    for sample in samples:
        for metric in sample["metrics"]:
            rows.setdefault((metric, sample["filter"]), []).append(sample[metric])
    how = {metric: registered(one) for metric, one in task.aggregation().items()}
    return {
        column(metric, own): numbers_of(how.get(metric), values, f"{metric} of {task.config.task}")
        for (metric, own), values in rows.items()
    }


def _check_tokens(model: Opened, task: Any, backend: str) -> None:
    """Raise when the tokenizer lacks what lm-eval puts before texts, or ends them with."""
    fix = 'name it in tokenizer_config.json beside the base (or first) model: "eos_token": "…"'
    ends, begins = model.tokenizer.eos_token_id is not None, model.tokenizer.bos_token_id is not None
    if task.OUTPUT_TYPE == "generate_until" and not ends:
        message = f"the tokenizer of {model.name} names no end of texts (eos_token), so {task.config.task} cannot stop"
        raise UnsupportedError(Problem(message, fix=fix))
    if not (begins or ends) and (backend == "transformers" or task.OUTPUT_TYPE == "loglikelihood_rolling"):
        message = f"the tokenizer of {model.name} names neither a beginning nor an end of texts (bos_token, eos_token)"
        raise UnsupportedError(Problem(f"{message}, one of which lm-eval puts before them", fix=fix))


def filter_of(task: Any, wanted: str | None) -> str:
    """The filter ``wanted`` of a task of lm-eval; its first where none is."""
    known = [one.name for one in task._filters]  # noqa: SLF001 - there is no other way to know
    if wanted is None or wanted in known:
        return wanted or str(known[0])
    near = nearest(wanted, known)
    fix = f"did you mean {near}?" if near else f"it has: {', '.join(known)}"
    raise RecipeError(Problem(f"{task.config.task} has no filter {wanted!r}", fix=fix))


def _seen(task: Any, document: Mapping[str, Any]) -> bytes:
    """A digest of what the model sees of a document; of what it is to predict where nothing stands before that."""
    text = task.doc_to_text(document)
    choices = task.doc_to_choice(document) if task.config.doc_to_choice is not None else None
    if not isinstance(text, str) or not text.strip():
        text = task.doc_to_target(document)
    return digest(json.dumps([text, choices], default=repr))
