"""What an attacker would put beside weights: tokenizers, settings of 8-bit floats, lists of components, adapters."""

from __future__ import annotations

import json
import os

from attacks import GOOD, header, model, tensor

UNION = "merge_method: linear\nmodels: [{model: ./good}, {model: ./bad}]\ntokenizer: {source: union}\n"
ROWS = {"model.embed_tokens.weight": tensor(0, 16, [2, 2], "F32"), "lm_head.weight": tensor(16, 32, [2, 2], "F32")}
MODEL = {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}


def _asked(folder, text):
    (folder / "x.yml").write_text(text)
    return folder / "x.yml"


def tokenizer(content=None, name="tokenizer.json", link=None, pipe=False):
    """Builds a good model and one whose tokenizer is bad, and a recipe that unites them."""

    def build(folder):
        for own in ("good", "bad"):
            here = model(folder / own, config__json=b'{"model_type": "llama", "vocab_size": 2}')
            (here / "model.safetensors").write_bytes(header(ROWS, bytes(32)))
            (here / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": MODEL}))
        bad = folder / "bad" / name
        if name != "tokenizer_config.json":
            (folder / "bad" / "tokenizer.json").unlink()
        if link:
            bad.symlink_to(link)
        elif pipe:
            os.mkfifo(bad)
        else:
            raw = content() if callable(content) else content
            bad.write_bytes(raw if isinstance(raw, bytes) else json.dumps(raw).encode())
        return _asked(folder, UNION)

    return build


def vocabulary(**changes):
    """Builds one whose ``tokenizer.json`` says something else of its model."""
    return tokenizer({"version": "1.0", "model": {**MODEL, **changes}})


def fp8(config=None, scale=(1, 1), **changes):
    """Builds a model in 8-bit floats with bad settings, and a recipe."""

    def build(folder):
        told = {"quant_method": "fp8", "weight_block_size": [128, 128], **changes} if config is None else config
        down, across = scale
        end = 16 + 4 * down * across
        entries = {
            "l.weight": tensor(0, 16, [4, 4], "F8_E4M3"),
            "l.weight_scale_inv": tensor(16, end, [down, across], "F32"),
        }
        here = model(folder / "good", config__json=json.dumps({"quantization_config": told}).encode())
        (here / "model.safetensors").write_bytes(header(entries, bytes(end)))
        return _asked(folder, "merge_method: linear\nmodels: [{model: ./good}]\n")

    return build


def parts(name, content=None, pipe=False, **links):
    """Builds a pipeline whose list of components is bad, with links as its folders."""

    def build(folder):
        here = model(folder / "good")
        (here / "unet").mkdir()
        (here / "model.safetensors").rename(here / "unet" / "model.safetensors")
        if pipe:
            os.mkfifo(here / name)
        else:
            (here / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        for own, target in links.items():
            (here / own).symlink_to(target)
        return here

    return build


def adapter(entries, metadata=None, payload=None):
    """Builds a model, an adapter in a single file, and a recipe that puts it on."""

    def build(folder):
        model(folder / "good")
        (folder / "good" / "model.safetensors").write_bytes(
            header({"b.q.weight": tensor(0, 64, [4, 4], "F32")}, bytes(64))
        )
        told = {"__metadata__": metadata, **entries} if metadata else entries
        size = max(e["data_offsets"][1] for e in entries.values())
        raw = payload if payload is not None else bytes(min(size, 1000))
        (folder / "x.safetensors").write_bytes(header(told, raw))
        return _asked(folder, "merge_method: linear\nmodels: [{model: ./good+./x.safetensors}]\n")

    return build


def peft(settings, pipe=False):
    """Builds a model, a folder of PEFT with bad settings, and a recipe."""

    def build(folder):
        adapter(FACTORS)(folder)
        (folder / "x").mkdir()
        entries = {
            f"base_model.model.b.q.lora_{x}.weight": e for x, e in zip("AB", list(FACTORS.values()), strict=True)
        }
        (folder / "x" / "adapter_model.safetensors").write_bytes(header(entries, bytes(64)))
        place = folder / "x" / "adapter_config.json"
        if pipe:
            os.mkfifo(place)
        else:
            place.write_bytes(settings if isinstance(settings, bytes) else json.dumps(settings).encode())
        return _asked(folder, "merge_method: linear\nmodels: [{model: ./good+./x}]\n")

    return build


SETTINGS = "lora_adapter_metadata"
FACTORS = {
    "lora_unet_b_q.lora_down.weight": tensor(0, 32, [2, 4], "F32"),
    "lora_unet_b_q.lora_up.weight": tensor(32, 64, [4, 2], "F32"),
}


def secret(folder, kind):
    """A good model in several folders, one of which, or a file in it, links to a folder with secrets; and a recipe."""
    (folder / "secret").mkdir()
    (folder / "secret" / "key.json").write_text("{}")
    (folder / "secret" / "model.safetensors").write_bytes(GOOD)
    whole, inner = kind.split()
    listed = [{"path": "unet"}, {"path": "x"}] if whole == "modules" else {"unet": ["a", "b"], "x": ["a", "b"]}
    parts("modules.json" if whole == "modules" else "model_index.json", listed)(folder)
    if inner == "folder":
        (folder / "good" / "x").symlink_to(folder / "secret")
    else:
        (folder / "good" / "x").mkdir()
        (folder / "good" / "x" / "key.json").symlink_to(folder / "secret" / "key.json")
    return _asked(folder, "merge_method: linear\nmodels: [{model: ./good}]\n")
