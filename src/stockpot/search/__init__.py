"""Which merge is best? Soups of models and curves over one number, chosen on select data, told on report data.

>>> from stockpot.search import KINDS, SWEEPS
>>> list(KINDS), list(SWEEPS)
(['greedy', 'uniform', 'diwa', 'ratatouille', 'learned', 'cocktail'], ['interpolate', 'add', 'negate', 'analogy'])

======================  ====================================================================
:func:`soup`            uniform, greedy, learned soups and cocktails, beside their models and output ensembles
:class:`Learning`       how shares are learned; :class:`Mixing`, how a cocktail's are made of losses
:func:`sweep`           curves: WiSE-FT's alpha, the lambda of task vectors, negation, analogies
:func:`greedy`          the greedy rule alone
:class:`RunningAverage` a mean to which models come one by one
:class:`Line`           any point along a difference, quickly
======================  ====================================================================
"""

from stockpot.search.average import RunningAverage
from stockpot.search.line import Line
from stockpot.search.mixing.cocktail import Cocktail, Mixing
from stockpot.search.mixing.learned import Learned, Learning
from stockpot.search.objective import Objective, objective_of
from stockpot.search.rule import Step, greedy, ranked
from stockpot.search.soups import KINDS, Soup, soup
from stockpot.search.sweeps import SWEEPS, Sweep, sweep

__all__ = [
    "KINDS",
    "SWEEPS",
    "Cocktail",
    "Learned",
    "Learning",
    "Line",
    "Mixing",
    "Objective",
    "RunningAverage",
    "Soup",
    "Step",
    "Sweep",
    "greedy",
    "objective_of",
    "ranked",
    "soup",
    "sweep",
]
