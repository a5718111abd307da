"""Which merge is best? Models and merges measured on a suite of tasks, without a merge being written.

>>> from stockpot.evaluate import Metric
>>> Metric("error", "lower", lambda columns: columns["predicted"] != columns["labels"]).better
'lower'

==========================  =====================================================
:func:`load_suite`          ``suite.yml`` → tasks, with data to tune, select and report
:func:`candidate`           a folder, hub id, adapter, recipe or expression → what can be evaluated
:func:`evaluate`            models over a suite → :class:`Result`
:class:`Cache`              predictions that are made once
:class:`Metric`             a measure of one's own
:class:`Opened`             a model in memory: arrays, or torch on the same memory
:class:`Blend`              any point between two models, quickly
:class:`Ensemble`           the mean outputs of models, as a row beside them
:class:`Inputs`             checkpoints that many candidates open once
==========================  =====================================================
"""

from stockpot.evaluate.blend import Blend
from stockpot.evaluate.cache import Cache
from stockpot.evaluate.candidates import Candidate, candidate
from stockpot.evaluate.ensemble import Ensemble
from stockpot.evaluate.opened import Opened
from stockpot.evaluate.protocol import EXAMPLE, Metric, Predictions, Task
from stockpot.evaluate.results import Cell, Figure, ModelRow, Result
from stockpot.evaluate.run import evaluate
from stockpot.evaluate.suite import Suite, SuiteTask, load_suite
from stockpot.evaluate.why import Triple
from stockpot.planning.inputs import Inputs

__all__ = [
    "EXAMPLE",
    "Blend",
    "Cache",
    "Candidate",
    "Cell",
    "Ensemble",
    "Figure",
    "Inputs",
    "Metric",
    "ModelRow",
    "Opened",
    "Predictions",
    "Result",
    "Suite",
    "SuiteTask",
    "Task",
    "Triple",
    "candidate",
    "evaluate",
    "load_suite",
]
