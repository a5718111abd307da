"""An adapter at another rank; what it holds beside factors is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.architecture.lora import Lora, Module, lora_of
from stockpot.checkpoint.adapters import open_adapter
from stockpot.checkpoint.folder import natural
from stockpot.checkpoint.reader import PayloadReader
from stockpot.errors import PlanError, Problem, UnsupportedError
from stockpot.execute.lora import stored_values
from stockpot.execute.matrices import one_thread
from stockpot.lora.changes import NO_PAIRS, pairs_alone
from stockpot.lora.engine import checked, hashes_of
from stockpot.lora.factors import Product, Wanted, cut, cut_bytes
from stockpot.lora.merging import named_dtype
from stockpot.lora.output import Factors, Files, Made, Writing, one_method, written
from stockpot.lora.report import Loss, Report
from stockpot.lora.settings import merged_config
from stockpot.planning.model import Limits, Read

__all__ = ["resize"]


def resize(
    adapter: str,
    out: Path,
    wanted: Wanted,
    limits: Limits,
    *,
    dtype: str | None = None,
    asked: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    durable: bool = True,
) -> Made:
    """Cut ``adapter`` to the rank or energy that is wanted, module by module, by QR and the SVD of the small core.

    The lengths of DoRA, biases and tensors that are stored whole are those of the adapter; the factors of DoRA are cut
    as they are, so that what is reported is said of B · A alone.

    Raises:
        StockpotError: for an adapter that is not understood, numbers that are not finite, too little memory.
    """
    opened = open_adapter(adapter)
    lora = lora_of(opened)
    if not pairs_alone(lora):
        raise UnsupportedError(Problem(f"{adapter} {NO_PAIRS[0]}", fix=NO_PAIRS[1]))
    if not lora.modules:
        raise PlanError(Problem(f"{adapter} has no factors: there is no rank to change"))
    memory = checked(max(map(_bytes, lora.modules.values())), limits)
    with PayloadReader(stamps=opened.stamps, hashing=True) as reader, one_thread():

        def fill(file: Writing) -> Files:
            kind = named_dtype(dtype, next(iter(lora.modules.values())).a.dtype)
            wide = [ref for ref in lora.replaced.values() if ref.dtype.bits > kind.bits]
            for ref in wide:
                file.copy(ref, reader)
            losses, ranks = [], {}
            for factors in _factors(lora, wanted, reader):
                for name, values in factors.tensors():
                    file.add(name, kind, values)
                losses.append(factors.loss)
                ranks[factors.module] = factors.rank
            for ref in lora.replaced.values():
                if ref not in wide:
                    file.copy(ref, reader)
            whole = tuple(ref.name for ref in lora.replaced.values())
            report = Report(tuple(losses), whole, memory=memory)
            biased, dora = (any(m.bias for m in lora.modules.values()), any(m.magnitude for m in lora.modules.values()))
            config = merged_config([opened.config], ranks, whole, lora_bias=biased, dora=dora)
            read = hashes_of(reader, [Read(ref, adapter) for ref in opened.tensors.values()])
            return Files(
                config,
                asked or {},
                {adapter: opened},
                read,
                "Adapter of another rank",
                report,
                0,
                one_method("lora resize"),
            )

        return written(out, list(opened.tensors), fill, overwrite=overwrite, durable=durable)


def _bytes(module: Module) -> int:
    return cut_bytes(module.b.shape[0], int(np.prod(module.a.shape[1:])), module.rank) + module.a.nbytes


def _factors(lora: Lora, wanted: Wanted, reader: PayloadReader) -> Iterator[Factors]:
    for name, module in sorted(lora.modules.items(), key=lambda pair: natural(pair[0])):
        a, b = (stored_values(ref, 0, ref.elements, reader) for ref in (module.a, module.b))
        product = Product(module.scale * b.reshape(-1, module.rank), a.reshape(module.rank, -1))
        found = cut(product, wanted)
        loss = Loss(name, found.rank, found.norm, found.retained)
        own = module.bias
        bias = None if own is None else module.scale * stored_values(own, 0, own.elements, reader)
        magnitude = None
        if module.magnitude is not None:
            ref = module.magnitude
            ending = ref.name[ref.name.index("lora_magnitude_vector") :]
            magnitude = (ending, stored_values(ref, 0, ref.elements, reader).reshape(ref.shape))
        shaped_a = found.product.right.reshape(found.rank, *module.a.shape[1:])
        shaped_b = found.product.left.reshape(module.b.shape[0], found.rank, *module.b.shape[2:])
        yield Factors(name, shaped_a, shaped_b, loss, module.embedding, bias, magnitude)
