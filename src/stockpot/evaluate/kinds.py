"""The kinds of tasks that a suite may name: their keys, and how settings become a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from stockpot.evaluate.code import Own
from stockpot.evaluate.harness.backends import BACKENDS, Wanted
from stockpot.evaluate.harness.entry import harness_task, placed_by
from stockpot.evaluate.metrics import METRICS
from stockpot.evaluate.portions import ArrayRows, Cut, Lines, Spans
from stockpot.evaluate.protocol import Files, Metric, Task
from stockpot.evaluate.tasks.choices import Choices
from stockpot.evaluate.tasks.classification import Classification
from stockpot.evaluate.tasks.own import OwnTask
from stockpot.evaluate.tasks.sentences import Probe, Similarity
from stockpot.evaluate.tasks.texts import Texts
from stockpot.recipe.keys import Choice, Flag, Integer, Key, ListOf, MapOf, Named, Number, Place, Text

__all__ = ["KINDS", "ROLES", "SPLIT", "SUITE", "TASK", "Kind", "Settings"]

ROLES = ("tune", "select", "report")
"""What data is for: fitting merges, choosing among them, and the figures that are told in the end."""


@dataclass(frozen=True)
class Settings:
    """What a suite says of one task.

    Args:
        values: The keys of its kind as plain data, those that are given.
        metrics: At least one; none where they are the task's own.
        code: What keys that hold ``module:name`` mean.
        folder: That paths are relative to.
        asked: Metrics that are named, of a task that has metrics of its own: those by name.
        data: Role → files, and those of ``train``.
        allowed: Whether code may run.
    """

    values: Mapping[str, Any]
    metrics: tuple[Metric, ...]
    code: Mapping[str, Own]
    folder: Path
    asked: tuple[Metric | str, ...] = ()
    data: Mapping[str, Files] = field(default_factory=dict)
    allowed: bool = False

    def given(self, *names: str) -> dict[str, Any]:
        """Those of ``names`` that are given."""
        return {name: self.values[name] for name in names if name in self.values}

    def files(self, name: str) -> Files:
        """The path or paths under ``name``."""
        value = self.values[name]
        return tuple(self.folder / path for path in ([value] if isinstance(value, str) else value))


@dataclass(frozen=True)
class Kind:
    """One kind of task.

    Args:
        about: One line.
        keys: Beside those that every task has.
        metrics: Measured where the suite names none, by name; the first ranks. None where tasks have
            metrics of their own.
        make: Settings → task.
        code: Keys that hold ``module:name``.
        named: Whether ``@NAME`` in the place of a file is a split of the task's own data.
        note: What is worth telling of settings, if anything.
        cut: Settings → how data is cut into pieces; None where it cannot be.
        placed: Task and what a suite names as its data → the files that it reads, in order.
        measures: Keys of a task → the built-in metrics that it has columns for.
    """

    about: str
    keys: tuple[Key, ...]
    metrics: tuple[str, ...]
    make: Callable[[Settings], Task]
    code: tuple[str, ...] = ()
    named: bool = False
    note: Callable[[Mapping[str, Any]], str | None] = lambda _: None
    cut: Callable[[Settings], Cut | None] = lambda _: None
    placed: Callable[[Task, Files], Files] = lambda _, files: files
    measures: Callable[[Mapping[str, Any]], tuple[str, ...]] = lambda _: tuple(METRICS)


_BATCH = Key("batch_tokens", Integer(1), "tokens that are computed at a time; no figure depends on it")
_MOST = Key("max_tokens", Integer(2), "tokens of a sentence; what the model can, at most 2048, by default")


_CLASSES = ("accuracy", "loss", "calibration_error")


def _of_outputs(values: Mapping[str, Any]) -> tuple[str, ...]:
    return ("accuracy",) if values.get("outputs") == "labels" else _CLASSES


def _classification(s: Settings) -> Task:
    given = s.given("outputs", "inputs", "labels", "batch")
    return Classification(s.code["predict"], s.metrics, **given, learn=s.code.get("learn"))


def _texts(s: Settings) -> Task:
    return Texts(s.metrics, **s.given("documents", "context", "stride", "first", "batch_tokens"))


def _choices(s: Settings) -> Task:
    return Choices(s.metrics, **s.given("context", "batch_tokens"))


def _similarity(s: Settings) -> Task:
    return Similarity(s.metrics, **s.given("max_tokens", "batch_tokens"))


def _probe(s: Settings) -> Task:
    return Probe(s.metrics, s.files("train"), **s.given("strength", "max_tokens", "batch_tokens"))


def _lm_eval(s: Settings) -> Task:
    given = s.given("few_shot", "limit", "backend", "batch", "context", "chat", "settings")
    wanted = Wanted(filtered=s.values.get("filter"), **given)
    return harness_task(s.values["task"], s.folder, wanted, s.data, s.asked, allowed=s.allowed)


def _writes(values: Mapping[str, Any]) -> str | None:
    told = "vLLM reads folders, so each merge is written to a temporary one"
    return told if values.get("backend") == "vllm" else None


def _own(s: Settings) -> Task:
    return OwnTask(s.code["run"], s.metrics, s.values.get("settings", {}))


def _rows(s: Settings) -> Cut:
    return ArrayRows((s.values.get("inputs", "inputs"), s.values.get("labels", "labels")))


def _lines(_: Settings) -> Cut:
    return Lines()


def _documents(s: Settings) -> Cut:
    return Spans() if s.values.get("documents", "file") == "file" else Lines()


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "classification": Kind(
            "arrays in .npz files, classified by a function of tensors and inputs",
            (
                Key("predict", Text(), "module:function of (tensors, inputs), which gives outputs", required=True),
                Key(
                    "learn", Text(), "module:function, the same for tensors of torch: what learned soups differentiate"
                ),
                Key("outputs", Choice(("logits", "probabilities", "labels")), "what it gives; logits by default"),
                Key("inputs", Text(), "name of the array of inputs; inputs by default"),
                Key("labels", Text(), "name of the array of labels; labels by default"),
                Key("batch", Integer(1), "examples that are handed over at a time; 1024 by default"),
            ),
            ("accuracy", "loss"),
            _classification,
            ("predict", "learn"),
            cut=_rows,
            measures=_of_outputs,
        ),
        "perplexity": Kind(
            "the likelihood of local texts",
            (
                Key("documents", Choice(("file", "line", "jsonl")), "what a document is; a whole file by default"),
                Key("context", Integer(1), "tokens of context; the model's own, at most 2048, by default"),
                Key("stride", Integer(1), "tokens that the window moves on by; the context by default"),
                Key("first", Choice(("prefix", "skip")), "predict the first token after BOS (else EOS), or skip it"),
                _BATCH,
            ),
            ("perplexity", "bits_per_byte"),
            _texts,
            cut=_documents,
            measures=lambda _: ("perplexity", "bits_per_byte"),
        ),
        "choice": Kind(
            "multiple choice, by the likelihood of the answers",
            (Key("context", Integer(2), "tokens of context; the model's own, at most 2048, by default"), _BATCH),
            ("accuracy", "accuracy_bytes", "loss"),
            _choices,
            cut=_lines,
            measures=lambda _: (*_CLASSES, "accuracy_bytes", "accuracy_tokens"),
        ),
        "similarity": Kind(
            "similarity of pairs of sentences, beside human scores",
            (_MOST, _BATCH),
            ("spearman",),
            _similarity,
            cut=_lines,
            measures=lambda _: ("spearman",),
        ),
        "probe": Kind(
            "classes of texts, by logistic regression on the model's embeddings",
            (
                Key("train", Named("later"), "file or files that the probe is fitted on", required=True),
                Key("strength", Number(), "inverse of the L2 penalty; 1 by default"),
                _MOST,
                _BATCH,
            ),
            ("accuracy", "loss"),
            _probe,
            cut=_lines,
            measures=lambda _: _CLASSES,
        ),
        "lm_eval": Kind(
            "a task, or a group of tasks, of EleutherAI's lm-evaluation-harness",
            (
                Key("task", Text(), "task or group: name that lm-eval knows, or path of its .yaml", required=True),
                Key("few_shot", Integer(0), "examples before each document; as many as the task says by default"),
                Key("train", Named("later"), "file or files, or a split (@train), that few-shot examples come from"),
                Key("limit", Integer(1), "documents at most, the first ones"),
                Key("filter", Text(), "the filter whose results are measured; the task's first by default"),
                Key("backend", Choice(BACKENDS), f"{' or '.join(BACKENDS)}; {BACKENDS[0]} by default"),
                Key("batch", Integer(1), "sequences that are computed at a time; 8 by default"),
                Key("context", Integer(2), "tokens of context; the model's own by default"),
                Key("chat", Flag(), "put prompts into the model's chat template; false by default"),
                Key("settings", MapOf(Named("later"), "settings"), "handed on to vLLM"),
            ),
            (),
            _lm_eval,
            named=True,
            note=_writes,
            placed=placed_by,
        ),
        "own": Kind(
            "a function of yours of (model, files), which gives columns",
            (
                Key("run", Text(), "module:function of (model, files, **settings)", required=True),
                Key("settings", MapOf(Named("later"), "settings"), "handed on to it"),
            ),
            ("accuracy",),
            _own,
            ("run",),
        ),
    }
)
"""Name → kind."""

_PATHS = Named("later")
SPLIT = Place("split", tuple(Key(role, _PATHS, f"file or files to {role} with") for role in ROLES))
SUITE = Place(
    "a suite",
    (
        Key("tasks", MapOf(Named("later"), "tasks"), "name: {kind: …, split: {…}}", required=True),
        Key("name", Text(), "name of the suite"),
        Key("seed", Integer(0, 2**63 - 1), "key of the draws of the bootstrap; 0 by default"),
        Key("resamples", Integer(1, 100_000), "draws of the bootstrap; 1000 by default"),
    ),
)
_EVERY = (
    Key("kind", Choice(tuple(KINDS)), f"one of {', '.join(KINDS)}", required=True),
    Key(
        "split",
        Named("later"),
        "{tune: FILE, select: FILE, report: FILE}, each a file or a list of files",
        required=True,
    ),
    Key("metrics", ListOf(Text(), "metrics", at_least=1), "names, or module:metric; the first one ranks"),
)
TASK: Mapping[str, Place] = MappingProxyType(
    {name: Place(f"a task of the kind {name}", (*_EVERY, *kind.keys)) for name, kind in KINDS.items()}
)
"""Kind → the keys of its tasks."""
