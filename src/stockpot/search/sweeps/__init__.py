"""Sweeps over one number: WiSE-FT's alpha, the lambda of sums of task vectors, of negation and of analogies."""

from stockpot.search.sweeps.choice import negatable
from stockpot.search.sweeps.cosines import Cosine, cosines
from stockpot.search.sweeps.kinds import SWEEPS, Kind
from stockpot.search.sweeps.normalised import Normalised
from stockpot.search.sweeps.result import Sweep
from stockpot.search.sweeps.run import sweep

__all__ = ["SWEEPS", "Cosine", "Kind", "Normalised", "Sweep", "cosines", "negatable", "sweep"]
