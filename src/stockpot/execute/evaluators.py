"""The evaluator for a node of a plan, by its method's family."""

from __future__ import annotations

from collections.abc import Mapping

from stockpot.checkpoint.reader import PayloadReader
from stockpot.execute.adapter import Adapter
from stockpot.execute.combination import Combination
from stockpot.execute.decoder import Decoder
from stockpot.execute.evaluate import Evaluator, Settled
from stockpot.execute.matrices import Blocks, Whole
from stockpot.execute.noise import Noisy
from stockpot.execute.pieces import Joined
from stockpot.execute.products import HadamardAdapter, KroneckerAdapter
from stockpot.execute.requantiser import Requantiser
from stockpot.execute.rows import Rows
from stockpot.execute.sparse import Gathered
from stockpot.execute.transplanted import Transplant
from stockpot.methods.declare import Blockwise, Elementwise, solves
from stockpot.planning.adapters.products import Hadamard, Kronecker
from stockpot.planning.blocks import Grid, operand_grid
from stockpot.planning.coded import Decoded, Requantised
from stockpot.planning.forms import Form, LowRank, Noise, Pieces
from stockpot.planning.model import Compute, Read
from stockpot.planning.tokens.rows import SparseRows
from stockpot.planning.tokens.transplanted import Transplanted

__all__ = ["evaluator_of"]


_FORMS: Mapping[type[Form], type[Evaluator]] = {
    LowRank: Adapter,
    Hadamard: HadamardAdapter,
    Kronecker: KroneckerAdapter,
    Pieces: Joined,
    SparseRows: Gathered,
    Transplanted: Transplant,
    Decoded: Decoder,
    Requantised: Requantiser,
    Noise: Noisy,
}


def evaluator_of(node: Compute, grid: Grid, reader: PayloadReader, settled: Settled) -> Evaluator:
    """The evaluator for ``node``; statistics of the whole model that are ``settled`` are taken over."""
    children = tuple(
        child if isinstance(child, Read) else evaluator_of(child, operand_grid(node, child, grid), reader, settled)
        for child in node.operands
    )
    made = _kind(node)(node, grid, reader, children)
    known = settled.get((node.group, node.key[0])) if node.group else None
    if known is not None:
        made.adopt(known)
    return made


def _kind(node: Compute) -> type[Evaluator]:
    if node.form is not None:
        return _FORMS[type(node.form)]
    family = node.method.family if node.method is not None else None
    if isinstance(family, Elementwise):
        return Rows
    if isinstance(family, Blockwise):
        return Whole if family.whole else Blocks
    return Whole if solves(node.method, node.resolved, node.shape) else Combination
