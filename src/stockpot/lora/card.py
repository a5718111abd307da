"""The card of an adapter that was made: what of, with what, and what was lost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from stockpot.lora.report import table
from stockpot.provenance.draw import code_block, code_span
from stockpot.provenance.identity import background_of

if TYPE_CHECKING:
    from stockpot.lora.output import Files

__all__ = ["adapter_card"]

_ROWS = 40


def adapter_card(files: Files) -> str:
    """README.md: front matter for the hub, the inputs, what was asked for, the modules that lost most."""
    lines = ["---", f"library_name: {'diffusers' if files.config is None else 'peft'}"]
    hubs = dict.fromkeys(b["hub"] for c in files.inputs.values() if (b := background_of(c)).get("hub"))
    if hubs:
        lines += ["base_model:", *(f"- {json.dumps(name)}" for name in hubs)]
    lines += ["tags:", "- lora", "- stockpot", "---", "", f"# {files.title}", "", "Made with stockpot from:", ""]
    lines += [f"- {code_span(label)}" for label in sorted(files.inputs)]
    lines += ["", "Asked for:", "", *code_block(json.dumps(dict(files.asked), indent=1, ensure_ascii=False), "json")]
    report = files.report
    told = f"{100 * report.retained:.2f} % of the squared norm of all changes is kept"
    if report.distance is not None:
        told += f"; the result is {report.distance:.3f} (relative) from the exact merge of the changes"
    lines += ["", f"{told}. Modules, those that lost most first:", ""]
    lines += [*code_block("\n".join(table(report.modules, _ROWS)), "text"), ""]
    if report.whole:
        lines += ["Stored whole:", "", *(f"- {code_span(name)}" for name in report.whole), ""]
    if report.dropped:
        lines += ["Left out on demand, with the norm of the change:", ""]
        lines += [f"- {code_span(name)}: {norm:.4g}" for name, norm in report.dropped.items()] + [""]
    lines += ["`stockpot verify FOLDER` checks every byte of this folder against `stockpot-receipt.json`.", ""]
    return "\n".join(lines)
