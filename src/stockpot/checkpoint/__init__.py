"""Checkpoints: opening, reading and writing them. Headers first; payloads only when asked for.

==========================  =====================================================
:func:`open_checkpoint`     a path or hub id → :class:`Checkpoint`, from headers alone
:func:`from_arrays`         arrays in memory → :class:`Checkpoint`
:class:`PayloadReader`      bytes of a tensor, from any thread
:func:`layout`              names, dtypes, shapes → the output's files, byte for byte
:func:`create_files`        those files, with headers, waiting for their payload
:func:`plan_sidecars`       config, tokenizer and the like to write beside the tensors
==========================  =====================================================
"""

from stockpot.checkpoint.dtypes import DTYPES, DType, dtype_named
from stockpot.checkpoint.header import Header, HeaderEntry, encode_header, read_header
from stockpot.checkpoint.model import Checkpoint, TensorRef, from_arrays
from stockpot.checkpoint.open import open_checkpoint
from stockpot.checkpoint.reader import PayloadReader
from stockpot.checkpoint.sidecars import Sidecar, plan_sidecars
from stockpot.checkpoint.writer import ShardLayout, create_files, index_files, layout

__all__ = [
    "DTYPES",
    "Checkpoint",
    "DType",
    "Header",
    "HeaderEntry",
    "PayloadReader",
    "ShardLayout",
    "Sidecar",
    "TensorRef",
    "create_files",
    "dtype_named",
    "encode_header",
    "from_arrays",
    "index_files",
    "layout",
    "open_checkpoint",
    "plan_sidecars",
    "read_header",
]
