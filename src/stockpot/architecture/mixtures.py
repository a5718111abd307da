"""Mixtures of experts that dense models can become: names of tensors, configs, and what each can express.

A dense layer's MLP (``gate_proj``, ``up_proj``, ``down_proj``) becomes expert 0, 1, … of a block with a router; all
else keeps its name. What a layout cannot express, such as a bias that its attention lacks, is named.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stockpot.architecture.layers import parse_layer, recomputed_buffer

__all__ = ["ALIASES", "LAYOUTS", "PARTS", "STACK", "Block", "Layout", "defaults_of", "faults_of", "layout_for"]

PARTS = ("gate_proj", "up_proj", "down_proj")
"""The matrices of a dense MLP."""

STACK = "model.layers"

_MIXTRAL = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
_SAME = {part: part for part in PARTS}

_ATTENTION = tuple(f"self_attn.{p}_proj.weight" for p in "qkvo")
_BIASES = tuple(f"self_attn.{p}_proj.bias" for p in "qkvo")
_NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")
_HEAD_NORMS = ("self_attn.q_norm.weight", "self_attn.k_norm.weight")
_MLP = tuple(f"mlp.{part}.weight" for part in PARTS)
_OUTSIDE = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")

_DROPPED = ("auto_map", "mlp_bias", "pretraining_tp", "attention_bias", "qkv_bias", "layer_types")
"""Keys of a dense config that say nothing true of the mixture; a layout writes its own where it has them."""

_COMMON: Mapping[str, Any] = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {**_COMMON, "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
    "mistral": {
        **_COMMON,
        "max_position_embeddings": 131072,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
    },
    "qwen2": {**_COMMON, "max_position_embeddings": 32768, "num_key_value_heads": 32, "use_sliding_window": False},
    "qwen3": {
        **_COMMON,
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "use_sliding_window": False,
    },
}
"""What the classes of transformers take where a config is silent: other classes take other values."""

_THETA = 10000.0


@dataclass(frozen=True)
class Block:
    """The numbers of a mixture's blocks.

    Args:
        experts: How many.
        per_token: How many a token goes to.
        width: Intermediate size of an expert.
        shared_width: That of the shared expert; 0 without one.
    """

    experts: int
    per_token: int
    width: int
    shared_width: int = 0


@dataclass(frozen=True)
class Layout:
    """A kind of mixture.

    Args:
        name: Its model_type.
        model: Its class.
        sources: Model types of the dense models that it can be made of.
        block: What its block is called within a layer.
        parts: Dense matrix → its name in an expert.
        shared: Name of the shared expert; None where there is none.
        always_shared: Whether a block has a shared expert in any case.
        own_width: Whether the shared expert may be of another size than the others.
        scores: How gate scores become weights, for people.
    """

    name: str
    model: str
    sources: tuple[str, ...]
    block: str
    parts: Mapping[str, str]
    shared: str | None
    always_shared: bool = False
    own_width: bool = False
    scores: str = "softmax"

    def expert(self, layer: int, number: int, part: str) -> str:
        """Name of a matrix of expert ``number``."""
        return f"{STACK}.{layer}.{self.block}.experts.{number}.{self.parts[part]}.weight"

    def shared_expert(self, layer: int, part: str) -> str:
        """Name of a matrix of the shared expert."""
        return f"{STACK}.{layer}.{self.block}.{self.shared}.{self.parts[part]}.weight"

    def router(self, layer: int) -> str:
        """Name of the router: one row for each expert."""
        return f"{STACK}.{layer}.{self.block}.gate.weight"

    def shared_gate(self, layer: int) -> str | None:
        """Name of the gate of the shared expert, where it has one."""
        return f"{STACK}.{layer}.{self.block}.shared_expert_gate.weight" if self.name == "qwen2_moe" else None

    def correction(self, layer: int) -> str | None:
        """Name of what is added to the scores before the best are chosen, where there is that."""
        return f"{STACK}.{layer}.{self.block}.gate.e_score_correction_bias" if self.name == "glm4_moe" else None

    def config(self, dense: Mapping[str, Any], names: Collection[str], block: Block) -> dict[str, Any]:
        """The mixture's config.

        Args:
            dense: The config of the model that gives all but the experts.
            names: The names of its tensors.
            block: The numbers of the blocks.
        """
        known = _complete(dense)
        kept = {key: value for key, value in known.items() if key not in _DROPPED}
        own = _OWN[self.name](known, block, _biased(names))
        return {**kept, "architectures": [self.model], "model_type": self.name, **own}


def _complete(dense: Mapping[str, Any]) -> dict[str, Any]:
    """A dense config in which everything is said that another class would take otherwise."""
    known = {**defaults_of(dense), **dense}
    if known.get("num_key_value_heads") is None:
        known["num_key_value_heads"] = known.get("num_attention_heads")
    rope = known.get("rope_parameters")
    if not (isinstance(rope, dict) and "rope_theta" in rope) and known.get("rope_theta") is None:
        known["rope_theta"] = _THETA
    return known


def defaults_of(dense: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a dense model's class takes where its config is silent."""
    return _DEFAULTS.get(str(dense.get("model_type")), {})


def _biased(names: Collection[str]) -> bool:
    return any(name.endswith(_BIASES) for name in names)


def _mixtral(known: Mapping[str, Any], block: Block, biased: bool) -> dict[str, Any]:
    del biased
    window = known.get("sliding_window") if known["model_type"] == "mistral" else None
    return {
        "intermediate_size": block.width,
        "num_local_experts": block.experts,
        "num_experts_per_tok": block.per_token,
        "sliding_window": window,
        "router_aux_loss_coef": 0.001,
        "output_router_logits": False,
    }


def _sparse(block: Block) -> dict[str, Any]:
    """What the mixtures of Qwen share."""
    return {
        "intermediate_size": block.width,
        "moe_intermediate_size": block.width,
        "num_experts": block.experts,
        "num_experts_per_tok": block.per_token,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "router_aux_loss_coef": 0.001,
        "output_router_logits": False,
    }


def _qwen2(known: Mapping[str, Any], block: Block, biased: bool) -> dict[str, Any]:
    found = {**_sparse(block), "shared_expert_intermediate_size": block.shared_width, "qkv_bias": biased}
    windows = _windows(known)
    if not any(windows):
        return {**found, "use_sliding_window": False}
    types = ["sliding_attention" if slides else "full_attention" for slides in windows]
    return {**found, "use_sliding_window": True, "layer_types": types}


def _qwen3(known: Mapping[str, Any], block: Block, biased: bool) -> dict[str, Any]:
    return {**_sparse(block), "attention_bias": biased, "use_sliding_window": any(_windows(known))}


def _deepseek(known: Mapping[str, Any], block: Block, biased: bool) -> dict[str, Any]:
    del known
    code = "deepseek-ai/deepseek-moe-16b-base--"
    return {
        **_routed(block, biased),
        "first_k_dense_replace": 0,
        "moe_layer_freq": 1,
        "scoring_func": "softmax",
        "n_shared_experts": 1 if block.shared_width else None,
        "auto_map": {
            "AutoConfig": f"{code}configuration_deepseek.DeepseekConfig",
            "AutoModel": f"{code}modeling_deepseek.DeepseekModel",
            "AutoModelForCausalLM": f"{code}modeling_deepseek.DeepseekForCausalLM",
        },
    }


def _glm(known: Mapping[str, Any], block: Block, biased: bool) -> dict[str, Any]:
    rope = known.get("rope_parameters")
    whole = {"rope_parameters": {**rope, "partial_rotary_factor": 1.0}} if isinstance(rope, dict) else {}
    return {
        **_routed(block, biased),
        **whole,
        "partial_rotary_factor": 1.0,
        "head_dim": _head_dim(known),
        "use_qk_norm": known["model_type"] == "qwen3",
        "n_shared_experts": 1,
        "first_k_dense_replace": 0,
        "num_nextn_predict_layers": 0,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
    }


def _routed(block: Block, biased: bool) -> dict[str, Any]:
    """What DeepSeek's mixtures and their likes share."""
    return {
        "intermediate_size": block.width,
        "moe_intermediate_size": block.width,
        "n_routed_experts": block.experts,
        "num_experts_per_tok": block.per_token,
        "norm_topk_prob": True,
        "attention_bias": biased,
        "attention_dropout": 0.0,
    }


def _head_dim(known: Mapping[str, Any]) -> Any:
    heads, hidden = known.get("num_attention_heads"), known.get("hidden_size")
    even = hidden // heads if isinstance(heads, int) and isinstance(hidden, int) and heads else None
    return known.get("head_dim") or even


def _windows(known: Mapping[str, Any]) -> list[bool]:
    """Of each layer, whether its attention is limited to a window."""
    layers = known.get("num_hidden_layers")
    count = layers if isinstance(layers, int) else 0
    window, kind = known.get("sliding_window"), known.get("model_type")
    if not window or kind == "llama" or (kind != "mistral" and not known.get("use_sliding_window")):
        return [False] * count
    types = known.get("layer_types")
    if isinstance(types, list) and len(types) == count:
        return [word == "sliding_attention" for word in types]
    first = 0 if kind == "mistral" else known.get("max_window_layers", 28)
    return [i >= first for i in range(count)]


_OWN = {"mixtral": _mixtral, "qwen2_moe": _qwen2, "qwen3_moe": _qwen3, "deepseek": _deepseek, "glm4_moe": _glm}

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout("mixtral", "MixtralForCausalLM", ("llama", "mistral"), "block_sparse_moe", _MIXTRAL, None),
        Layout(
            "qwen2_moe",
            "Qwen2MoeForCausalLM",
            ("llama", "mistral", "qwen2"),
            "mlp",
            _SAME,
            "shared_expert",
            always_shared=True,
            own_width=True,
        ),
        Layout("qwen3_moe", "Qwen3MoeForCausalLM", ("qwen3",), "mlp", _SAME, None),
        Layout("deepseek", "DeepseekForCausalLM", ("llama", "mistral"), "mlp", _SAME, "shared_experts"),
        Layout(
            "glm4_moe",
            "Glm4MoeForCausalLM",
            ("llama", "mistral", "qwen2", "qwen3"),
            "mlp",
            _SAME,
            "shared_experts",
            always_shared=True,
            scores="sigmoid",
        ),
    )
}

ALIASES: Mapping[str, str] = {"qwen": "qwen2_moe", "qwen2": "qwen2_moe", "qwen3": "qwen3_moe", "glm": "glm4_moe"}
"""Other words for layouts in recipes."""

_FIRST_CHOICE = {
    ("llama", False): "mixtral",
    ("mistral", False): "mixtral",
    ("llama", True): "deepseek",
    ("mistral", True): "deepseek",
    ("qwen2", False): "qwen2_moe",
    ("qwen2", True): "qwen2_moe",
    ("qwen3", False): "qwen3_moe",
    ("qwen3", True): "glm4_moe",
}


def layout_for(config: Mapping[str, Any], *, shared: bool) -> Layout | None:
    """The layout that a dense model becomes when none is asked for; None for a model of another kind.

    >>> layout_for({"model_type": "llama"}, shared=False).name
    'mixtral'
    """
    name = _FIRST_CHOICE.get((str(config.get("model_type")), shared))
    return None if name is None else LAYOUTS[name]


Fault = tuple[str | None, str, str]
"""Tensor, what is wrong, and how to mend it."""


def faults_of(layout: Layout, dense: Mapping[str, Any], names: Collection[str]) -> Iterator[Fault]:
    """What of a dense model the layout cannot express."""
    kind, known = dense.get("model_type"), _complete(dense)
    if kind not in layout.sources:
        fitting = [name for name, other in LAYOUTS.items() if kind in other.sources]
        fix = (
            f"architecture: {' or '.join(fitting)}" if fitting else "mixtures are made of llama, mistral, qwen2, qwen3"
        )
        yield None, f"a {kind} model cannot become a {layout.name}", fix
        return
    yield from _misplaced(layout, names)
    yield from _attention(layout, names)
    yield from _limits(layout, known)


def _misplaced(layout: Layout, names: Collection[str]) -> Iterator[Fault]:
    allowed = {*_ATTENTION, *_BIASES, *_NORMS, *_HEAD_NORMS, *_MLP}
    for name in names:
        layer = parse_layer(name)
        if recomputed_buffer(name) or (layer is None and name in _OUTSIDE):
            continue
        if layer is not None and layer.stack == STACK and layer.rest.lstrip(".") in allowed:
            continue
        if layer is not None and layer.rest.startswith(".mlp.") and layer.rest.endswith(".bias"):
            yield name, "an MLP with biases, which experts lack", "use models whose MLPs have none (mlp_bias: false)"
        else:
            yield name, f"a {layout.name} has no place for it", "use a dense model in the layout of transformers"


def _attention(layout: Layout, names: Collection[str]) -> Iterator[Fault]:
    biases = {word for name in names for word in _BIASES if name.endswith(word)}
    normed = any(name.endswith(_HEAD_NORMS) for name in names)
    three, four = set(_BIASES[:3]), set(_BIASES)
    fitting = {
        "mixtral": (set(),),
        "qwen2_moe": (set(), three),
        "qwen3_moe": (set(), four),
        "deepseek": (set(), four),
        "glm4_moe": (set(), three),
    }[layout.name]
    if biases not in fitting:
        told = ", ".join(word.removeprefix("self_attn.") for word in _BIASES if word in biases) or "none"
        yield (
            None,
            f"biases of attention ({told}), which a {layout.name} has no place for",
            "choose another architecture",
        )
    if normed and layout.name not in ("qwen3_moe", "glm4_moe"):
        yield None, f"norms of queries and keys, which a {layout.name} lacks", "architecture: qwen3_moe or glm4_moe"


def _limits(layout: Layout, known: Mapping[str, Any]) -> Iterator[Fault]:
    windows = _windows(known)
    mixed = layout.name == "qwen3_moe" and any(windows) and not all(windows)
    if mixed or (layout.name in ("deepseek", "glm4_moe") and any(windows)):
        which = "in some layers only" if mixed else "at all"
        fix = "architecture: mixtral or qwen2_moe" if known.get("model_type") != "qwen3" else "use a base without it"
        yield None, f"a sliding window ({known.get('sliding_window')}), which a {layout.name} cannot have {which}", fix
    if layout.name == "deepseek" and known.get("head_dim") not in (None, _head_dim({**known, "head_dim": None})):
        message = f"heads of {known['head_dim']} dimensions; those of a deepseek have hidden_size / num_attention_heads"
        yield None, message, "architecture: mixtral or glm4_moe"
    if known.get("hidden_act") != "silu":
        yield None, f"hidden_act {known.get('hidden_act')}; mixtures are made of models with silu", "use other models"
