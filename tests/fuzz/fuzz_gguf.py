"""Files with damaged GGUF headers."""

from __future__ import annotations

import struct

import fuzz_damage as damage

from stockpot.checkpoint.gguf.types import GGML_TYPES
from stockpot.checkpoint.open import open_checkpoint

_LARGE = (0, 1, 31, 2**31, 2**32 - 1, 2**32, 2**62, 2**63, 2**64 - 1, 250_001, 1_000_001)
_TYPES = (*GGML_TYPES, 4, 9, 36, 255)
_NAMES = (
    "token_embd.weight",
    "output_norm.weight",
    "blk.0.attn_q.weight",
    "blk.0.attn_norm.weight",
    "rope_freqs.weight",
)
_ODD = ("", "\x1b[2J", "é", "blk.00.attn_q.weight", "blk.999999.ffn_up.weight", "x" * 3000, "blk.0.ffn_gate_inp.weight")
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}


def make(chance):
    """A header that is right or has one strange number, then bytes damaged or not."""
    strange = chance.random() < 0.5
    metadata = _metadata(chance, strange)
    tensors, payload = _tensors(chance, strange)
    counts = [len(tensors), len(metadata)]
    if chance.random() < 0.08:
        counts[chance.randrange(2)] = chance.choice(_LARGE)
    version = chance.choice((3, 3, 3, 3, 2, 1, 4, 0x03000000)) if strange else 3
    data = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(metadata) + b"".join(tensors)
    data += bytes(-len(data) % 32) + bytes(payload)
    if chance.random() < 0.1:
        data = data[: chance.randrange(len(data) + 1)]
    return damage.of_bytes(chance, data) if chance.random() < 0.4 else data


def _text(text):
    raw = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw)) + raw


def _metadata(chance, strange):
    arch = chance.choice(("llama", "llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "falcon"))
    words = {
        "block_count": 1, "embedding_length": 32, "feed_forward_length": 32, "context_length": 64,
        "attention.head_count": 2, "attention.head_count_kv": 1, "rope.dimension_count": 16,
    }  # fmt: skip
    found = [_text("general.architecture") + struct.pack("<I", 8) + _text(arch)]
    for word, value in words.items():
        if not strange or chance.random() < 0.9:
            odd = strange and chance.random() < 0.1
            found.append(_text(f"{arch}.{word}") + (_value(chance, 0) if odd else struct.pack("<II", 4, value)))
    eps = struct.pack("<If", 6, 1e-5)
    found.append(_text(f"{arch}.attention.layer_norm_rms_epsilon") + eps)
    if strange:
        keys = ("general.alignment", "split.count", f"{arch}.rope.scaling.type", f"{arch}.rope.freq_base", "x", "x")
        found += [_text(chance.choice(keys)) + _value(chance, 0) for _ in range(chance.randrange(4))]
    return found


def _value(chance, depth):
    """Type and value: a number, a text, or an array of any."""
    kind = chance.choice((*_SCALARS, 8, 9, 9, 13))
    if kind in _SCALARS:
        form = _SCALARS[kind]
        raw = struct.pack("<d", chance.choice((0.0, 1e400, float("nan"), 1e5)))
        low = chance.choice(_LARGE).to_bytes(8, "little") if form not in ("<f", "<d") else raw
        return struct.pack("<I", kind) + low[: struct.calcsize(form)]
    if kind == 8:
        return struct.pack("<I", 8) + _text(chance.choice(("linear", "yarn", "\x1b[2J", "x" * 5000, "é")))
    if kind == 9 and depth < 8:
        inner = chance.choice((*_SCALARS, 8, 9, 13))
        count = chance.choice((0, 1, 2, *_LARGE)) if chance.random() < 0.3 else chance.randrange(4)
        items = b"".join(_value(chance, depth + 1)[4:] for _ in range(min(count, 3)))
        return struct.pack("<IIQ", 9, inner, count) + items
    return struct.pack("<I", 99)


def _tensors(chance, strange):
    found, place = [], 0
    for number in range(chance.choice((0, 1, 2, 3, 5))):
        name = chance.choice(_ODD) if strange and chance.random() < 0.2 else _NAMES[number]
        kind = chance.choice(_TYPES) if strange else chance.choice(list(GGML_TYPES))
        dtype = GGML_TYPES.get(kind, GGML_TYPES[0])
        shape = [dtype.per * chance.choice((1, 1, 2)), *(2 for _ in range(chance.choice((0, 1, 1))))]
        elements = shape[0] * (2 if len(shape) > 1 else 1)
        if strange and chance.random() < 0.15:
            shape[chance.randrange(len(shape))] = chance.choice(_LARGE)
        if strange and chance.random() < 0.1:
            shape = shape * chance.choice((0, 2, 5, 40))
        offset = chance.choice((place + 1, *_LARGE)) if strange and chance.random() < 0.1 else place
        numbers = struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        found.append(_text(name) + numbers)
        place += -(-dtype.nbytes(elements) // 32) * 32
    return found, place


def read(path):
    """Open the file; what is accepted lies inside it, and is a tensor each."""
    found = open_checkpoint(str(path))
    size = path.stat().st_size
    assert all(ref.offset + ref.nbytes <= size for ref in found.tensors.values())
    assert found.codings.keys() <= found.tensors.keys()
    assert found.values.keys() | found.aside == found.tensors.keys()
