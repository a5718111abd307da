"""The model card that lies in a merged folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from stockpot.arrangements import Mixture
from stockpot.checkpoint.model import Checkpoint
from stockpot.execute.receipt import labels_of
from stockpot.planning.model import Plan
from stockpot.printable import printable, redacted
from stockpot.provenance.ancestry import Ancestor, bounded, from_data
from stockpot.provenance.draw import code_block, code_span, mermaid
from stockpot.provenance.expressions import as_records, methods_in
from stockpot.provenance.identity import background_of, licence_of
from stockpot.provenance.licences import Licence, shared
from stockpot.provenance.routers import routing_told

__all__ = ["model_card"]

Backgrounds = Mapping[str, Mapping[str, Any]]


def model_card(plan: Plan) -> str:
    """README.md: front matter for the hub, the inputs with their licences, the recipe, the tree of merges.

    A function of recipe and inputs alone. What strangers wrote (labels, licences, the recipe) stands in code
    or as escaped characters, so that it shows as it is.
    """
    routers = _routers(plan)
    models = {label: source for label, source in sorted(plan.sources.items()) if label not in routers}
    backgrounds = {label: background_of(source) for label, source in models.items()}
    lines = [*_front_matter(plan, backgrounds), "", "# Merged model", "", "Made with stockpot from:", ""]
    lines += [_input(label, background) for label, background in backgrounds.items()]
    lines += ["", *_licence_told(backgrounds)]
    lines += _routing(plan)
    if plan.recipe_text:
        lines += ["", "## Recipe", "", *code_block(plan.recipe_text, "yaml")]
    lines += ["", "## Lineage", "", "```mermaid", mermaid(_tree(plan, backgrounds)), "```", ""]
    lines += ["`stockpot verify FOLDER` checks every byte of this folder against `stockpot-receipt.json`.", ""]
    return "\n".join(lines)


def _routing(plan: Plan) -> list[str]:
    """How the routers of a mixture route, where that was measured."""
    told = [text for source in _routers(plan).values() if (text := routing_told(source))]
    return ["", "## Routing", "", *(line for text in told for line in code_block(text, "text"))] if told else []


def _routers(plan: Plan) -> dict[str, Checkpoint]:
    """The routers of mixtures, by label: what was made for this model, by nobody who could license it."""
    expression = plan.recipe.expression if plan.recipe is not None else None
    if not isinstance(expression, Mixture):
        return {}
    label = labels_of(plan)[expression.router.key]
    return {label: plan.sources[label]}


def _front_matter(plan: Plan, backgrounds: Backgrounds) -> list[str]:
    """What the hub reads. It takes ids of its own models as ``base_model`` and refuses anything else there."""
    hubs = dict.fromkeys(b["hub"] for b in backgrounds.values() if b.get("hub"))
    lines = ["---"]
    if hubs:
        lines += ["base_model:", *(f"- {_quoted(name)}" for name in hubs)]
    if _for_transformers(plan):
        lines.append("library_name: transformers")
    licence = _shared(backgrounds)
    if licence is not None:
        told = {"license": licence.word, "license_name": licence.name, "license_link": licence.link}
        lines += [f"{key}: {_quoted(value)}" for key, value in told.items() if value is not None]
    return [*lines, "tags:", "- merge", "- stockpot", "---"]


def _quoted(text: str) -> str:
    """A string of YAML; JSON's strings are such."""
    return json.dumps(printable(redacted(text)), ensure_ascii=False)


def _for_transformers(plan: Plan) -> bool:
    donor = plan.recipe.donor if plan.recipe is not None else None
    source = plan.sources.get(labels_of(plan).get(donor.key, "")) if donor is not None else None
    return source is not None and isinstance(source.config.get("model_type"), str)


def _input(label: str, background: Mapping[str, Any]) -> str:
    hub, revision = background.get("hub"), background.get("revision")
    told = f"- {code_span(label)}"
    if hub is not None and label not in (hub, f"{hub}@{revision}"):
        told += f", {code_span(hub)} at the hub"
    return told if revision is None else f"{told}, revision {code_span(revision)}"


def _shared(backgrounds: Backgrounds) -> Licence | None:
    return shared(licence_of(background) for background in backgrounds.values())


def _licence_told(backgrounds: Backgrounds) -> list[str]:
    licence = _shared(backgrounds)
    if licence is not None:
        return [f"All of them state the licence {code_span(str(licence))}, which this model inherits."]
    lines = ["They do not all state the same licence, so none is claimed for this model:", ""]
    for label, background in backgrounds.items():
        own = licence_of(background)
        lines.append(f"- {code_span(label)}: {'states none' if own is None else code_span(str(own))}")
    return lines


def _tree(plan: Plan, backgrounds: Backgrounds) -> Ancestor:
    records = [] if plan.recipe is None else as_records(plan.recipe.expression, lambda leaf: leaf.reference)
    parents = tuple(
        from_data({**(b.get("ancestry") or {}), "label": label, "hub": b.get("hub"), "revision": b.get("revision")})
        for label, b in backgrounds.items()
    )
    return bounded(Ancestor("this model", tool="stockpot", methods=methods_in(records), parents=parents))
