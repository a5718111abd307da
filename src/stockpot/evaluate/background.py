"""What a report tells of its run beside figures: command, date, versions, seed, suite, and what models were made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from stockpot.evaluate.candidates import Candidate, named
from stockpot.execute.receipt import labels_of
from stockpot.execute.versions import versions, versions_of
from stockpot.provenance.ancestry import Ancestor, bounded, tree_of
from stockpot.provenance.expressions import as_records
from stockpot.provenance.identity import background_of

__all__ = ["Background", "lineage_of", "lineages"]

_MODELS = ("torch", "transformers", "scikit-learn")
"""What runs models, where it is installed."""


@dataclass(frozen=True)
class Background:
    """How a run came about.

    Args:
        suite: Text of the suite.
        command: As it was given, in a form for a shell.
        when: When it ended.
        seed: Key of the random numbers of merges, over those of recipes; None where none was given.
        versions: Package → version, of what computed.
        lineage: Name → what that model was made of, for those of which something is known.
    """

    suite: str = ""
    command: str = ""
    when: str = ""
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    lineage: Mapping[str, Ancestor] = field(default_factory=dict)

    @classmethod
    def now(
        cls,
        suite: str = "",
        *,
        command: str = "",
        seed: int | None = None,
        lineage: Mapping[str, Ancestor] | None = None,
    ) -> Background:
        """Of a run that ends now, with what is installed here."""
        found = {name: told for name, told in versions_of(*_MODELS).items() if told != "unknown"}
        when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        return cls(suite, command, when, seed, {**versions(), **found}, lineage or {})


def lineages(models: Sequence[Candidate]) -> dict[str, Ancestor]:
    """Name, as tables have it → lineage, of those models that have one."""
    found = {one.name: lineage_of(one) for one in named(models)}
    return {name: tree for name, tree in found.items() if tree is not None and tree.tool is not None}


def lineage_of(one: Candidate) -> Ancestor | None:
    """The tree of what a model was made of, by its recipe or expression and the receipts beside its inputs.

    A stored model without a receipt is a tree of itself alone. None for one that cannot be opened.
    """
    try:
        plan = one.plan
        recipe = plan.recipe
        assert recipe is not None
        labels = labels_of(plan)
        records = as_records(recipe.expression, lambda leaf: labels[leaf.key])
        inputs = {label: background_of(source) for label, source in plan.sources.items()}
    except Exception:  # noqa: BLE001 - whatever is wrong with it, the report says so where its figures would be
        return None
    tree = tree_of({"expression": records, "inputs": inputs}, one.name)
    if len(records) == 1:
        (tree,) = (replace(parent, label=one.name) for parent in tree.parents[:1])
    return bounded(tree)
