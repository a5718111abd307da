"""Claims of the literature in miniature: each is a command that measures it and says whether it holds.

>>> from stockpot.reproduce import Asked, Measure
>>> Asked("gain", at_least=3.0).holds(2.5), Measure("gain", "points", paper=8.3).paper
(False, 8.3)

======================  ==================================================================
:data:`CLAIMS`          every claim, by name
:func:`reproduce`       a claim on a test bed, over seeds → :class:`Outcome`
:func:`bed_of`          the bed of a claim that a name or the data at hand means
======================  ==================================================================
"""

from stockpot.reproduce.claim import Asked, Bed, Claim, Measure, Setting
from stockpot.reproduce.registry import CLAIMS
from stockpot.reproduce.run import Outcome, bed_of, reproduce

__all__ = ["CLAIMS", "Asked", "Bed", "Claim", "Measure", "Outcome", "Setting", "bed_of", "reproduce"]
