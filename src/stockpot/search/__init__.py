"""Which merge is best? Soups, curves, searches over recipes: chosen on held-out data, told on report data.

>>> from stockpot.search import KINDS, SWEEPS
>>> list(KINDS), list(SWEEPS)
(['greedy', 'uniform', 'diwa', 'ratatouille', 'learned', 'cocktail'], ['interpolate', 'add', 'negate', 'analogy'])

======================  ======================================================================
:func:`soup`            uniform, greedy, learned soups and cocktails, beside their models and output ensembles
:class:`Learning`       how shares are learned; :class:`Mixing`, how a cocktail's are made of losses
:func:`sweep`           curves: WiSE-FT's alpha, the lambda of task vectors, negation, analogies
:func:`search`          values for what a recipe leaves open, beside the baselines that they should beat
:func:`load_space`      a recipe with open values
:func:`greedy`          the greedy rule alone
:class:`RunningAverage` a mean to which models come one by one
:class:`Line`           any point along a difference, quickly
:func:`cosines`         between task vectors
======================  ======================================================================
"""

from stockpot.search.average import RunningAverage
from stockpot.search.line import Line
from stockpot.search.mixing.cocktail import Cocktail, Mixing
from stockpot.search.mixing.learned import Learned, Learning
from stockpot.search.objective import Objective, objective_of
from stockpot.search.rule import Step, greedy, ranked
from stockpot.search.soups import KINDS, Soup, soup
from stockpot.search.spaces.space import Space, load_space
from stockpot.search.sweeps import SWEEPS, Normalised, Sweep, cosines, sweep
from stockpot.search.tuning.found import Search, Told
from stockpot.search.tuning.rounds import Progress
from stockpot.search.tuning.samplers import SAMPLERS
from stockpot.search.tuning.search import search
from stockpot.search.tuning.trials import Outcome, Trial

__all__ = [
    "KINDS",
    "SAMPLERS",
    "SWEEPS",
    "Cocktail",
    "Learned",
    "Learning",
    "Line",
    "Mixing",
    "Normalised",
    "Objective",
    "Outcome",
    "Progress",
    "RunningAverage",
    "Search",
    "Soup",
    "Space",
    "Step",
    "Sweep",
    "Told",
    "Trial",
    "cosines",
    "greedy",
    "load_space",
    "objective_of",
    "ranked",
    "search",
    "soup",
    "sweep",
]
