"""Names in an adapter that is a single file: which module a tensor belongs to, and which part of its change it is.

Trainers of diffusion models (kohya's scripts, LyCORIS, diffusers) write one file, whose names tell everything:
``lora_unet_mid_block_attentions_0_proj_in.lora_down.weight``, ``unet.conv_in.lora_A.weight``,
``lora_te1_text_model_encoder_layers_0_mlp_fc1.hada_w1_a``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["COMPONENTS", "Piece", "is_table", "piece_of", "spelling_of"]

COMPONENTS = (
    "unet", "text_encoder", "text_encoder_2", "text_encoder_3", "transformer", "transformer_2", "prior", "vae",
)  # fmt: skip
"""Folders of a diffusers pipeline that adapters change."""

_FLAT = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "text_encoder_3",
    "lora_transformer_": "transformer",
    "lora_prior_unet_": "prior",
    "lora_prior_te_": "text_encoder",
    "lycoris_": "",
}
"""How names without dots begin → component; none where the name does not tell."""

_WORDS = {
    "lora_down.weight": "down", "lora_up.weight": "up", "lora_mid.weight": "mid",
    "lora.down.weight": "down", "lora.up.weight": "up",
    "lora_linear_layer.down.weight": "down", "lora_linear_layer.up.weight": "up",
    "lora_A.weight": "down", "lora_B.weight": "up", "lora_A": "down", "lora_B": "up",
    "lora_magnitude_vector": "dora_scale", "lora_magnitude_vector.weight": "dora_scale",
    "w_norm": "diff", "b_norm": "diff_b",
}  # fmt: skip
"""What parts are called → the one word for each."""

_PARTS = (
    r"lora_(?:down|up|mid)\.weight|lora\.(?:down|up)\.weight|lora_linear_layer\.(?:down|up)\.weight"
    r"|lora_[AB](?:\.weight)?|lora_magnitude_vector(?:\.weight)?|alpha|dora_scale"
    r"|hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2|diff|diff_b|[wb]_norm"
    r"|oft_blocks|oft_diag|oft_r|rescale|on_input|[ab][12]\.weight|bm\.weight|scalar"
)
_PIECE = re.compile(rf"(?P<module>[^.].*)\.(?P<part>{_PARTS})", re.ASCII)
_PROCESSOR = re.compile(r"(?P<module>.+)\.processor\.(?P<own>to_(?:q|k|v|out))_lora\.(?P<part>down|up)\.weight")
_NO_DELTA = {"alpha", "scalar", "rescale", "a1.weight", "a2.weight", "b1.weight", "b2.weight", "bm.weight"}
"""Parts whose names occur in models too."""


@dataclass(frozen=True)
class Piece:
    """A tensor's place: component (empty where the name does not tell), module in it, and part of the change."""

    component: str
    module: str
    part: str

    @property
    def key(self) -> tuple[str, str]:
        """Equal for all parts of one change."""
        return (self.component, self.module)


def piece_of(name: str) -> Piece | None:
    """What ``name`` is a part of; None for what is no part of an adapter.

    >>> piece_of("lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha")
    Piece(component='text_encoder_2', module='text_model_encoder_layers_0_mlp_fc1', part='alpha')
    >>> piece_of("unet.mid_block.attentions.0.proj_in.lora_A.weight")
    Piece(component='unet', module='mid_block.attentions.0.proj_in', part='down')
    >>> piece_of("mid_block.attentions.0.proj_in.weight") is None
    True
    """
    old = _PROCESSOR.fullmatch(name)
    if old is not None:
        own = f"{old['own']}.0" if old["own"] == "to_out" else old["own"]
        return Piece(*_placed(f"{old['module']}.{own}"), old["part"])
    found = _PIECE.fullmatch(name)
    if found is None:
        return None
    return Piece(*_placed(found["module"]), _WORDS.get(found["part"], found["part"]))


def spelling_of(name: str) -> tuple[str, str] | None:
    """(the module as it is written, what the part is called), of a part of an adapter; None for what is none.

    >>> spelling_of("unet.attn1.processor.to_q_lora.down.weight")
    ('unet.attn1.processor.to_q_lora', 'down.weight')
    """
    old = _PROCESSOR.fullmatch(name)
    if old is not None:
        part = f"{old['part']}.weight"
        return name.removesuffix(f".{part}"), part
    found = _PIECE.fullmatch(name)
    return None if found is None else (found["module"], found["part"])


def _placed(module: str) -> tuple[str, str]:
    """(component, name in it) of a module."""
    if "." not in module:
        start = next((s for s in _FLAT if module.startswith(s)), None)
        return ("", module) if start is None else (_FLAT[start], module.removeprefix(start))
    first, _, rest = module.partition(".")
    if first == "base_model":
        return "", module.removeprefix("base_model.model.")
    return (first, rest) if first in COMPONENTS else ("", module.removeprefix("diffusion_model."))


def is_table(names: Iterable[str]) -> bool:
    """Whether tensors of these names are an adapter in a single file, and nothing else."""
    pieces = [piece_of(name) for name in names]
    return bool(pieces) and all(pieces) and any(p.part not in _NO_DELTA for p in pieces if p is not None)
