"""Plots as SVG within a page, made of plain values: light and dark, no scripts, nothing fetched.

Each function gives one ``<svg>`` (empty text where there is nothing to draw) that takes its colours from the style of
:func:`stockpot.evaluate.page.document`. Points tell their figures when the mouse rests on them.

==================  ===============================================================
:func:`curves`      figures over a number, with intervals
:func:`scatter`     points in order, one figure against another
:func:`pareto`      trials, models and the front, one figure against another
:func:`history`     the value of each trial, and the best so far
:func:`slices`      the value against each dimension that was searched
:func:`strips`      figures with units of their own, and what is asked of them
:func:`genome`      numbers by model and tensor, such as the weights of a soup
==================  ===============================================================
"""

from stockpot.search.plots.frame import Axis
from stockpot.search.plots.fronts import Spot, nondominated, pareto
from stockpot.search.plots.genomes import genome
from stockpot.search.plots.lines import Curve, curves, scatter
from stockpot.search.plots.strips import Strip, strips
from stockpot.search.plots.trials import Dot, Slice, Trial, history, slices

__all__ = [
    "Axis",
    "Curve",
    "Dot",
    "Slice",
    "Spot",
    "Strip",
    "Trial",
    "curves",
    "genome",
    "history",
    "nondominated",
    "pareto",
    "scatter",
    "slices",
    "strips",
]
