"""Adapters with damaged settings, and single files with strange names, planned on a small base."""

from __future__ import annotations

import json
import struct

import fuzz_damage as damage
import numpy as np

import stockpot as sp

_SETTINGS = (
    {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "rank_pattern": {"q": 2},
        "alpha_pattern": {"^b.q": 3.5},
        "bias": "none",
    },
    {
        "peft_type": "LOHA",
        "r": 2,
        "alpha": 1,
        "rank_pattern": {},
        "use_effective_conv2d": True,
        "modules_to_save": ["n"],
    },
    {"peft_type": "LOKR", "r": 2, "alpha": 1.5, "decompose_both": False, "alpha_pattern": {"(a|b)": 2}},
    {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_rslora": True, "fan_in_fan_out": True, "use_dora": False},
)
_BASE = {"b.q.weight": (4, 6), "b.conv.weight": (4, 6, 3, 3), "b.q.bias": (4,), "n.weight": (4,)}
_ADAPTERS = (
    {"b.q.lora_A.weight": (2, 6), "b.q.lora_B.weight": (4, 2)},
    {"b.q.hada_w1_a": (4, 2), "b.q.hada_w1_b": (2, 6), "b.q.hada_w2_a": (4, 2), "b.q.hada_w2_b": (2, 6)},
    {"b.q.lokr_w1": (2, 2), "b.q.lokr_w2_a": (2, 2), "b.q.lokr_w2_b": (2, 3)},
    {"b.q.lora_A.weight": (2, 6), "b.q.lora_B.weight": (4, 2)},
)
_STARTS = (
    "lora_unet_",
    "lora_te_",
    "lora_te2_",
    "lycoris_",
    "unet.",
    "text_encoder.",
    "",
    "base_model.model.",
    "lora_x_",
)
_MODULES = {"b.q": (4, 6), "b.conv": (4, 6, 3, 3), "b_q": (4, 6), "n": (4,), "c": (4, 6), "..": (1, 1)}
_PARTS = {
    "lora": lambda o, i, k: {"lora_down.weight": (2, i, *k), "lora_up.weight": (o, 2, *(1 for _ in k))},
    "core": lambda o, i, k: {"lora_down.weight": (2, i), "lora_up.weight": (o, 2), "lora_mid.weight": (2, 2, *k)},
    "loha": lambda o, i, k: {
        f"hada_w{n}_{x}": (o, 2) if x == "a" else (2, i * int(np.prod(k))) for n in "12" for x in "ab"
    },
    "lokr": lambda o, i, k: {"lokr_w1": (2, 2), "lokr_w2": (o // 2, i // 2, *k)},
    "factors": lambda o, i, k: {"lokr_w1_a": (2, 1), "lokr_w1_b": (1, 2), "lokr_w2": (o // 2, i // 2, *k)},
    "diff": lambda o, i, k: {"diff": (o, i, *k), "diff_b": (o,)},
    "dora": lambda o, i, k: {"lora_A.weight": (2, i, *k), "lora_B.weight": (o, 2), "dora_scale": (o, 1)},
    "others": lambda o, _i, _k: {"oft_blocks": (1, o, o), "on_input": (), "scalar": ()},
}
_ODD = (
    "alpha",
    "hada_t1",
    "lokr_t2",
    "lora_mid.weight",
    "lokr_w2_a",
    "dora_scale",
    "w_norm",
    "x",
    "lora_A",
    "weight",
    "",
)


def make_settings(chance):
    """The settings of an adapter, damaged; the first byte says of which."""
    kind = chance.randrange(len(_SETTINGS))
    text = json.dumps(_SETTINGS[kind])
    text = damage.of_json(chance, text, json.dumps(chance.choice(_SETTINGS)), chance.choice((0, 1, 1, 2, 3, 6)))
    data = text.encode("utf-8", "surrogatepass")
    return bytes([kind]) + (damage.of_bytes(chance, data) if chance.random() < 0.1 else data)


def make_table(chance):
    """A single file with parts of some modules, some of them strange, odd, missing, or of other shapes."""
    shapes = {}
    start = chance.choice(_STARTS)
    for _ in range(chance.choice((1, 1, 2, 3))):
        module = chance.choice(tuple(_MODULES))
        own, (rows, columns, *kernel) = (
            chance.choice(_STARTS) if chance.random() < 0.2 else start,
            (*_MODULES[module], 1)[:4],
        )
        parts = chance.choice(tuple(_PARTS.values()))(rows, columns, kernel if len(_MODULES[module]) == 4 else ())
        name = own + (module.replace(".", "_") if chance.random() < 0.7 else module)
        shapes |= {f"{name}.{part}": shape for part, shape in parts.items()}
        if chance.random() < 0.5:
            shapes[f"{name}.alpha"] = chance.choice(((), (), (1,), (2,)))
        if chance.random() < 0.2:
            shapes[f"{name}.{chance.choice(_ODD)}"] = tuple(
                chance.choice((0, 1, 2, 4)) for _ in range(chance.randrange(4))
            )
    if chance.random() < 0.3:
        name = chance.choice(tuple(shapes))
        if chance.random() < 0.5:
            del shapes[name]
        else:
            shapes[name] = tuple(chance.choice((0, 1, 2, 3, n)) for n in shapes[name])
    codes = {n: ("F32", np.float32) if chance.random() < 0.97 else ("I32", np.int32) for n in shapes}
    metadata = {}
    if chance.random() < 0.2:
        said = json.dumps({"unet.r": 2, "unet.lora_alpha": 3, "text_encoder.r": 2, "r": 2})
        metadata = {"lora_adapter_metadata": damage.of_json(chance, said, said, chance.choice((0, 1, 2)))}
    arrays = {n: np.full(s, chance.choice((0.5, 2, -1)), codes[n][1]) for n, s in shapes.items()}
    return _encoded(arrays, {n: code for n, (code, _) in codes.items()}, metadata)


def _encoded(arrays, codes, metadata):
    header, place, payload = {"__metadata__": metadata} if metadata else {}, 0, []
    for name, values in arrays.items():
        data = values.tobytes()
        header[name] = {"dtype": codes[name], "shape": list(values.shape), "data_offsets": [place, place + len(data)]}
        place += len(data)
        payload.append(data)
    body = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(body)) + body + b"".join(payload)


def read_settings(path):
    """Plan the fold of the adapter whose settings ``path`` is."""
    data = path.read_bytes()
    kind = data[0] % len(_ADAPTERS) if data else 0
    folder = _base(path).with_name(f"adapter-{kind}")
    if not folder.is_dir():
        folder.mkdir()
        arrays = {f"base_model.model.{n}": np.ones(s, np.float32) for n, s in _ADAPTERS[kind].items()}
        (folder / "adapter_model.safetensors").write_bytes(_encoded(arrays, dict.fromkeys(arrays, "F32"), {}))
    (folder / "adapter_config.json").write_bytes(data[1:])
    sp.plan(sp.open(_base(path), adapter=folder), threads=1)


def read_table(path):
    """Compute the fold of the single file; every tensor of the base is there and no other."""
    found = sp.compute(sp.open(_base(path), adapter=path), threads=1)
    assert {n: v.shape for n, v in found.items()} == _BASE


def _base(path):
    folder = path.parent / "base"
    if not folder.is_dir():
        folder.mkdir()
        arrays = {n: np.ones(s, np.float32) for n, s in _BASE.items()}
        (folder / "model.safetensors").write_bytes(_encoded(arrays, dict.fromkeys(arrays, "F32"), {}))
    return folder
