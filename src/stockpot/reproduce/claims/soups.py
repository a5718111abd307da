"""Soups of fine-tunes of one start, and why averaging weights is like averaging outputs."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from stockpot.functions import linear
from stockpot.reproduce.beds import beds
from stockpot.reproduce.claim import Asked, Claim, Figures, Measure
from stockpot.search.recipes import stored_model

if TYPE_CHECKING:
    from stockpot.evaluate import Candidate
    from stockpot.reproduce.bench import Shifted
    from stockpot.reproduce.images.bench import Images

__all__ = ["ENSEMBLE", "SOUP"]


def _soup(bench: Shifted) -> Figures:
    from stockpot.evaluate import candidate, evaluate
    from stockpot.reproduce.bench import mean_percent, percent
    from stockpot.search import soup

    suite, models = bench.shifts(), bench.fine_tunes()
    home, *shifts = (task.name for task in suite.tasks)
    found = soup(models, suite, metrics=[f"{home}.accuracy"], ensembles=())
    assert found.report is not None
    best, greedy = found.models[0], found.name
    uniform = "uniform soup" if len(found.members) < len(models) else greedy
    sound = candidate(linear(*map(stored_model, models[:-1])), name="sound", threads=1)
    without = percent(evaluate([sound], suite), "sound", home)
    return {
        "held_out": percent(found.select, greedy, home) - percent(found.select, best, home),
        "test": percent(found.report, greedy, home) - percent(found.report, best, home),
        "shifts": mean_percent(found.report, greedy, shifts) - mean_percent(found.report, best, shifts),
        "members": len(found.members),
        "rejected": float(models[-1].name not in found.members),
        "drop": without - percent(found.report, uniform, home),
    }


SOUP = Claim(
    name="soup-greedy",
    title="A greedy soup is as good as the best fine-tune, better under shift, and leaves out what is broken",
    source="Wortsman et al., Model soups: averaging weights of multiple fine-tuned models improves accuracy without "
    "increasing inference time, 2022, arXiv:2203.05482, recipe 1",
    measures=(
        Measure("held_out", "soup minus best model, held-out accuracy, points"),
        Measure(
            "test", "soup minus best model, test accuracy, points", 0.65, "81.03 and 80.38, CLIP ViT-B/32, table 3"
        ),
        Measure("shifts", "soup minus best model, mean accuracy under shift, points", 2.92, "50.75 and 47.83, table 3"),
        Measure("members", "models in the soup, of 9", 5, "of 72, CLIP ViT-B/32"),
        Measure("rejected", "the diverged model is left out (1) or not (0)"),
        Measure("drop", "what the diverged model costs a uniform soup, test accuracy, points"),
    ),
    asked=(
        Asked("held_out", at_least=0),
        Asked("test", at_least=-0.2),
        Asked("shifts", at_least=0),
        Asked("rejected", at_least=1),
        Asked("drop", at_least=10),
    ),
    beds=beds(
        _soup,
        {"mnist": 60, "digits": 5, "cifar": 75, "reviews": 90},
        papers={"reviews": {"test": (0.5, "BERT on SST-2")}},
    ),
    notes="Chosen by accuracy on select data at home among eight fine-tunes with different settings and one that "
    "diverged.",
)


def _ensemble(bench: Images) -> Figures:
    from stockpot.evaluate import Ensemble, candidate, evaluate
    from stockpot.reproduce.bench import percent

    suite, members = bench.shifts(), bench.place.models(bench.lab.resampled)
    names = tuple(member.name for member in members)
    average = candidate(linear(*map(stored_model, members)), name="average")
    result = evaluate([*members, average], suite, ensembles=[Ensemble("ensemble", names, "logits")])
    clean = {row.name: percent(result, row.name, "clean") for row in result.models}
    single = fmean(clean[name] for name in names)
    strangers = bench.place.models(bench.lab.strangers)
    apart = candidate(linear(*map(stored_model, strangers)), name="average")
    found = evaluate([*strangers, apart], suite)
    alone = fmean(percent(found, m.name, "clean") for m in strangers)
    return {
        "apart": abs(clean["average"] - clean["ensemble"]),
        "average": clean["average"] - single,
        "ensemble": clean["ensemble"] - single,
        "order": _gap(bench, members, 1.0) / _gap(bench, members, 0.5),
        "strangers": alone - percent(found, "average", "clean"),
    }


def _gap(bench: Images, members: Sequence[Candidate], share: float) -> float:
    """Mean distance of the average's logits from the mean logits, with all models drawn to the centre by ``share``."""
    import numpy as np

    import stockpot as sp
    from stockpot.functions import task_arithmetic

    centre = linear(*map(stored_model, members))
    drawn = [centre + share * task_arithmetic(stored_model(m) - centre) for m in members]
    images = bench.lab.pictures.report.images
    outputs = [
        bench.lab.network.logits(sp.compute(one, threads=1, dtype="float32"), images) for one in (centre, *drawn)
    ]
    wide = [found.astype(np.float64) for found in outputs]
    return float(np.abs(wide[0] - np.mean(wide[1:], axis=0)).mean())


ENSEMBLE = Claim(
    name="ensemble",
    title="The average of the weights is as good as the average of the outputs, where models share a start",
    source="Utans, Weight averaging for neural networks and local resampling schemes, 1996; figures: Wortsman et al., "
    "Model soups, 2022, arXiv:2203.05482",
    measures=(
        Measure(
            "apart", "weight average and output ensemble apart, accuracy, points", 0.16, "81.03 and 81.19, table 3"
        ),
        Measure("average", "weight average minus mean model, accuracy, points"),
        Measure("ensemble", "output ensemble minus mean model, accuracy, points"),
        Measure(
            "order", "the gap of their logits shrinks by, when deviations are halved", 4, "theory: of second order"
        ),
        Measure("strangers", "what averaging models of four different inits costs, accuracy, points"),
    ),
    asked=(
        Asked("apart", at_most=0.5),
        Asked("average", at_least=0),
        Asked("ensemble", at_least=0),
        Asked("order", at_least=3),
        Asked("strangers", at_least=40),
    ),
    beds=beds(
        _ensemble,
        {"mnist": 70, "digits": 4, "cifar": 50},
        known={
            "digits": "with 64 pixels, averages of unrelated perceptrons keep more than half of their accuracy.",
            "cifar": "two fine-tunes tell a third of the images differently; on MNIST 2 %.",
        },
    ),
    notes="Four fine-tunes on resampled images; the ensemble averages logits. The paper's figures are of greedy soups.",
)
