"""The model card that lies in a merged folder."""

from __future__ import annotations

from stockpot.planning.model import Plan

__all__ = ["model_card"]


def model_card(plan: Plan) -> str:
    """README.md with front matter: base models, tags, the recipe and where each input came from."""
    labels = sorted(plan.sources)
    models = [f"- {_quoted(label)}" for label in labels]
    front = ["---", "base_model:", *models, "tags:", "- merge", "- stockpot", "---"]
    lines = [*front, "", "# Merged model", "", "Made with stockpot from:", ""]
    lines += [f"- `{label}`" for label in labels]
    if plan.recipe_text:
        lines += ["", "## Recipe", "", "```yaml", plan.recipe_text.rstrip(), "```"]
    lines += ["", "Hashes of all tensors stand in `stockpot-receipt.json`.", ""]
    return "\n".join(lines)


def _quoted(label: str) -> str:
    return '"' + label.replace("\\", "\\\\").replace('"', '\\"') + '"'
