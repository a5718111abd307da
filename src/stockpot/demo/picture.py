"""One picture of the results: how well every model holds on shifted images, and on which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from stockpot.demo.results import DemoResult, Kind, Row

__all__ = ["compose", "draw"]

_GROUPS: dict[Kind, tuple[str, str]] = {
    "start": ("shared start", "#3d4651"),
    "single": ("single models", "#8d959e"),
    "merge": ("merged by recipe", "#0b7a75"),
    "ensemble": ("output ensemble", "#b8562b"),
}
"""Title and colour of each kind of row, from top to bottom."""
_INK, _FAINT = "#20262d", "#6b737c"
_SHADES = LinearSegmentedColormap.from_list("shades", ["#f3f6f8", "#a9c8d8", "#2f6f94"])
_LOWEST = 60.0
"""Left end of the accuracy axis in %; what lies below is written beside it."""
_DARK = 0.75
"""Shade from which figures are written in white."""
_INCHES_A_ROW = 0.29
_HEAD_INCHES, _FOOT_INCHES = 0.95, 0.6


@dataclass(frozen=True)
class _Line:
    """A row of the table at its height in the picture."""

    row: Row
    y: float
    colour: str


def draw(result: DemoResult, path: Path) -> None:
    """Write the picture as a PNG."""
    compose(result).savefig(path)


def compose(result: DemoResult) -> Figure:
    """Lay the picture out: a line for each row, with dots on the left and cells on the right."""
    lines, titles, depth = _arrange(result)
    height = _INCHES_A_ROW * depth + _HEAD_INCHES + _FOOT_INCHES
    figure = Figure(figsize=(11, height), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    dots, cells = figure.subplots(1, 2, sharey=True, width_ratios=(1.05, 1))
    _draw_dots(dots, lines, result.best("single"))
    _draw_cells(cells, lines)
    _name_rows(dots, lines, titles)
    dots.set_ylim(depth - 0.4, -0.3)
    figure.subplots_adjust(
        left=0.145,
        right=0.985,
        top=1 - _HEAD_INCHES / height,
        bottom=_FOOT_INCHES / height,
        wspace=0.04,
    )
    _write_heading(figure, result, height)
    return figure


def _arrange(result: DemoResult) -> tuple[list[_Line], list[tuple[Kind, float]], float]:
    """Return the lines, sorted in their groups, the groups' titles, and the depth in rows."""
    lines: list[_Line] = []
    titles: list[tuple[Kind, float]] = []
    y = 0.0
    for kind, (_, colour) in _GROUPS.items():
        titles.append((kind, y))
        rows = sorted(result.of_kind(kind), key=lambda row: row.scores.shifted, reverse=True)
        lines.extend(_Line(row, y + 1 + i, colour) for i, row in enumerate(rows))
        y += len(rows) + 1.35
    return lines, titles, y


def _draw_dots(axes: Axes, lines: Sequence[_Line], best_single: Row) -> None:
    """Draw a filled dot for the shifted and a ring for the clean accuracy of each model, in %."""
    goal = 100 * best_single.scores.shifted
    axes.axvline(goal, color=_FAINT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
    for line in lines:
        shifted, clean = 100 * line.row.scores.shifted, 100 * line.row.scores.clean
        if shifted < _LOWEST:
            text = f"◂ {shifted:.0f} shifted, {clean:.0f} clean"
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            axes.text(_LOWEST + 0.3, line.y, text, va="center", fontsize=8, color=_FAINT, bbox=box)
            continue
        axes.plot([shifted, clean], [line.y] * 2, color=line.colour, linewidth=1.2, alpha=0.45)
        axes.plot(shifted, line.y, "o", color=line.colour, markersize=7.5)
        axes.plot(clean, line.y, "o", color=line.colour, markersize=6, markerfacecolor="white")
    axes.set_xlim(_LOWEST, 100.8)
    axes.set_xlabel("accuracy on the report's images, %", fontsize=9, color=_FAINT)
    axes.tick_params(axis="x", length=0, labelsize=8.5, labelcolor=_FAINT)
    axes.grid(axis="x", color="#e6e9ec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def _draw_cells(axes: Axes, lines: Sequence[_Line]) -> None:
    """Draw the accuracy in every column, shaded from the column's lowest to its highest value."""
    columns = [*lines[0].row.scores.by_column, "mean"]
    table = 100 * np.array([[*line.row.scores.by_column.values(), line.row.scores.shifted] for line in lines])
    low = np.min(np.where(table < _LOWEST, np.inf, table), axis=0)
    shade = np.clip((table - low) / np.maximum(table.max(axis=0) - low, 1e-9), 0, 1)
    for i, line in enumerate(lines):
        for j, value in enumerate(table[i]):
            corner = (j + 0.03, line.y - 0.45)
            axes.add_patch(Rectangle(corner, 0.94, 0.9, color=_SHADES(shade[i, j]), linewidth=0))
            ink = "white" if shade[i, j] > _DARK else _INK
            axes.text(j + 0.5, line.y, f"{value:.1f}", ha="center", va="center", fontsize=8.5, color=ink)
    for j, name in enumerate(columns):
        axes.text(j + 0.5, 0.1, name, ha="center", va="center", fontsize=8.5, color=_FAINT)
    axes.set_xlim(-0.15, len(columns))
    axes.set_axis_off()


def _name_rows(axes: Axes, lines: Sequence[_Line], titles: Sequence[tuple[Kind, float]]) -> None:
    """Write the models' names and, above each group, its title."""
    axes.set_yticks([line.y for line in lines], [_name(line.row) for line in lines])
    axes.tick_params(axis="y", length=0, labelsize=9.5, labelcolor=_INK, pad=6)
    for kind, y in titles:
        title, colour = _GROUPS[kind]
        axes.annotate(
            title,
            (0, y + 0.1),
            xycoords=("axes fraction", "data"),
            xytext=(-6, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=9.5,
            weight="bold",
            color=colour,
        )


def _name(row: Row) -> str:
    return row.name if row.passes == 1 else f"{row.name}, {row.passes}x cost"


def _write_heading(figure: Figure, result: DemoResult, height: float) -> None:
    """Write the title, the note and the legend above the panels."""
    single, merge = result.best("single"), result.best("merge")
    title = (
        f"Merged: {100 * merge.scores.shifted:.1f} % on shifted digits ({merge.name}); "
        f"best single model: {100 * single.scores.shifted:.1f} % ({single.name})"
    )
    note = (
        "Dashed: that single model, chosen on other held-out images. "
        "Cells: accuracy in %, shaded by column; mean: of the shifts."
    )
    figure.text(0.018, 1 - 0.33 / height, title, fontsize=13, weight="bold", color=_INK)
    figure.text(0.018, 1 - 0.6 / height, note, fontsize=9, color=_FAINT)
    shapes = {"shifted (mean)": _INK, "clean": "white"}
    marks = [
        Line2D([], [], marker="o", ls="", ms=6.5, color=_INK, markerfacecolor=fill, label=label)
        for label, fill in shapes.items()
    ]
    legend = figure.legend(handles=marks, loc="upper right", ncols=2, frameon=False, fontsize=9)
    legend.set_bbox_to_anchor((0.99, 1 - 0.4 / height))
