"""What claims are given of the beds of texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from stockpot.evaluate import Candidate, Suite
from stockpot.reproduce.bench import Forgetting, Workplace, Written, classified, read, run_by
from stockpot.reproduce.claim import Setting
from stockpot.reproduce.texts.domains import DOMAINS, domains_of
from stockpot.reproduce.texts.encoder import Examples
from stockpot.reproduce.texts.prose import PEERS, comments_of, prose_of
from stockpot.reproduce.texts.sentences import FINE_TUNES, TASKS, sentences_of

__all__ = ["BENCHES", "Comments", "Domains", "Prose", "Reviews", "Sentences"]

_SAMPLES, _TOKENS = 1000, 24
"""Texts that a model writes, and tokens of each."""
_LAMBDAS = tuple(round(0.05 * i, 2) for i in range(21))
"""How far is gone to forget."""


class Sentences:
    """Five tasks of one sentence."""

    def __init__(self, setting: Setting) -> None:
        self._lab, self._place = sentences_of(setting), Workplace(setting.folder)

    def tasks(self) -> Suite:
        """All of them."""
        own = self._lab.tasks.items()
        return self._place.suite({n: _task(n, {"select": t.select, "report": t.report}) for n, t in own})

    def specialists(self) -> list[Candidate]:
        """The base, and the fine-tune of it on each task, called as the task."""
        return self._place.models({"base": self._lab.base, **{n: self._lab.specialist(n) for n in TASKS}})

    def together(self) -> Candidate:
        """A fine-tune of the base on all tasks at once."""
        return self._place.model("together", self._lab.together)


class Reviews:
    """Is it praise? At home in sentences about films."""

    def __init__(self, setting: Setting) -> None:
        self._lab, self._place = sentences_of(setting), Workplace(setting.folder)

    def shifts(self) -> Suite:
        """``films``, and a task for each kind of goods that no model has seen."""
        home = {"select": self._lab.home.select, "report": self._lab.home.report}
        shifts = {name: {"report": own} for name, own in self._lab.shifts.items()}
        return self._place.suite({n: _task("sentiment", roles) for n, roles in {"films": home, **shifts}.items()})

    def ends(self) -> tuple[Candidate, Candidate]:
        """The start, and its ordinary fine-tune."""
        return self._place.model("start", self._lab.start), self._place.model("tuned", self._lab.fine_tune("plain"))

    def fine_tunes(self) -> list[Candidate]:
        """Fine-tunes with different settings, the last of which diverged."""
        return self._place.models({run.name: self._lab.fine_tune(run.name) for run in FINE_TUNES})


class Domains:
    """Is it praise? Reviews of many kinds of goods, each kind a domain."""

    def __init__(self, setting: Setting) -> None:
        self._lab, self._place = domains_of(setting), Workplace(setting.folder)

    def tasks(self) -> Suite:
        """The twelve domains that a base knows."""
        own = self._lab.tasks.items()
        return self._place.suite({n: _task("sentiment", {"select": t.select, "report": t.report}) for n, t in own})

    def specialists(self) -> list[Candidate]:
        """The base, and the fine-tune of it on each domain, called as the domain."""
        return self._place.models({"base": self._lab.base, **{n: self._lab.specialist(n) for n in DOMAINS}})

    def together(self) -> Candidate:
        """A fine-tune of the base on the twelve domains at once."""
        return self._place.model("together", self._lab.together)

    def domains(self) -> Suite:
        """``seen``, the four domains of the runs, and a task for each domain left out."""
        seen = {"select": self._lab.seen.select, "report": self._lab.seen.report}
        away = {name: {"report": own} for name, own in self._lab.left_out.items()}
        return self._place.suite({n: _task("sentiment", roles) for n, roles in {"seen": seen, **away}.items()})

    def diverse(self) -> list[Candidate]:
        """Runs with mild settings, from the base with a probed head."""
        return self._place.models(self._lab.diverse)

    def recycled(self) -> list[Candidate]:
        """The same runs, from that base and from fine-tunes on other domains."""
        return self._place.models(self._lab.recycled)


class Comments:
    """A model of comments and a novel, and its fine-tune on toxic ones."""

    def __init__(self, setting: Setting) -> None:
        self._lab, self._place, self._seed = comments_of(setting), Workplace(setting.folder), setting.seed

    def forgetting(self) -> Forgetting:
        """Toxic words in what the model writes; the control is the perplexity of other texts."""
        module = "stockpot.reproduce.texts.writing"
        asked = {"seed": self._seed, "samples": _SAMPLES, "tokens": _TOKENS, "words": self._lab.toxic_words}
        control = read({role: self._lab.control(role) for role in ("select", "report")})
        target = run_by(f"{module}:toxic", f"{module}:rude", {"report": asked})
        base, tuned = (
            _saved(self._lab, self._place, name, state)
            for name, state in (("base", self._lab.base), ("tuned", self._lab.fine_tune))
        )
        suite = self._place.suite({"others": control, "toxic": target})
        return Forgetting(suite, base, tuned, "toxic", "others", 0.95, _LAMBDAS)


class Prose:
    """A model of plays, novels, essays, science and source code, and peers that read on in one of them."""

    def __init__(self, setting: Setting) -> None:
        self.lab, self._place = prose_of(setting), Workplace(setting.folder)

    def base(self) -> Candidate:
        """The model of all texts."""
        return _saved(self.lab, self._place, "base", self.lab.base)

    def peers(self) -> list[Candidate]:
        """Its fine-tunes, called as the texts that they read."""
        return [_saved(self.lab, self._place, name, self.lab.peer(name)) for name in PEERS]

    def suite(self, roles: Mapping[str, list[str]]) -> Suite:
        """One task, ``mixture``: the perplexity of texts, by role."""
        return self._place.suite({"mixture": read(roles)})


BENCHES: Mapping[str, Callable[[Setting], Any]] = MappingProxyType(
    {"sentences": Sentences, "reviews": Reviews, "domains": Domains, "comments": Comments, "prose": Prose}
)
"""Name of a bed → what claims are given of it."""


def _task(head: str, roles: Mapping[str, Examples]) -> Written:
    data = {role: (own.inputs.astype(np.int32), own.labels) for role, own in roles.items()}
    return classified(f"stockpot.reproduce.texts.encoder:{head}", data, batch=256)


def _saved(lab: Any, place: Workplace, name: str, state: Mapping[str, Any]) -> Candidate:
    """A model of transformers, with its tokenizer."""
    lab.save(state, place.folder_of(name))
    return place.stored(name)
