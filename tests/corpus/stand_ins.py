"""Tiny models that stand in for those of a recipe: of the right family, layers and all, with tokenizers.

A recipe names models by hub ids and by paths of other people's machines. A copy of it is written that names stand-ins
instead: one folder for each model, whose weights are a link to those of its family, and a tokenizer of its own: every
model adds a token that no other has, beside those that the recipe speaks of.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from stockpot.expression import Leaf
from stockpot.recipe.records import normalized
from stockpot.recipe.references import parted

VOCAB = 96
"""Rows of an embedding; more than a tokenizer has, as in models whose embedding is padded."""

DECODER = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 32,
}
VISION = {"depth": 2, "embed_dim": 16, "num_heads": 2, "hidden_size": 16}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}


@dataclass(frozen=True)
class Family:
    """A kind of model: its config class and model class in transformers, and how many layers it has.

    Args:
        key: Of the config, for the number of layers.
        nested: Configs within the config: key → (class, arguments).
    """

    config: str
    model: str
    layers: int
    given: dict[str, Any] = field(default_factory=lambda: DECODER)
    key: str = "num_hidden_layers"
    nested: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)


def causal(name: str, layers: int, **given: Any) -> Family:
    """A language model."""
    return Family(f"{name}Config", f"{name}ForCausalLM", layers, {**DECODER, **given})


MISTRAL_7B = causal("Mistral", 32)
LLAMA_7B, LLAMA_13B, LLAMA_34B, LLAMA_70B = (causal("Llama", n) for n in (32, 40, 60, 80))
TINY_LLAMA, SOLAR = causal("Llama", 22), causal("Llama", 48)
NEMO_12B, MISTRAL_11B = causal("Mistral", 40), causal("Mistral", 48)
QWEN_7B, QWEN_32B = causal("Qwen2", 28), causal("Qwen2", 64)
QWEN3_8B = causal("Qwen3", 36)
GEMMA2_2B, GEMMA2_9B = causal("Gemma2", 26), causal("Gemma2", 42)
MIXTRAL = causal("Mixtral", 32, num_local_experts=2)
PHI2 = causal("Phi", 32)
GEMMA3_27B = Family(
    "Gemma3Config",
    "Gemma3ForConditionalGeneration",
    62,
    {"mm_tokens_per_image": 4, "image_token_index": VOCAB - 1},
    "text_config.num_hidden_layers",
    {
        "text_config": ("Gemma3TextConfig", DECODER),
        "vision_config": (
            "SiglipVisionConfig",
            {
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 16,
                "patch_size": 8,
            },
        ),
    },
)
QWEN2_VL = Family(
    "Qwen2VLConfig",
    "Qwen2VLForConditionalGeneration",
    28,
    {},
    "text_config.num_hidden_layers",
    {
        "text_config": ("Qwen2VLTextConfig", {**DECODER, "rope_parameters": ROPE}),
        "vision_config": ("Qwen2VLVisionConfig", VISION),
    },
)
GPT2 = Family(
    "GPT2Config",
    "GPT2LMHeadModel",
    12,
    {"vocab_size": VOCAB, "n_embd": 16, "n_head": 2, "n_positions": 32},
    "n_layer",
)
BERT = Family(
    "BertConfig",
    "BertForMaskedLM",
    12,
    {"vocab_size": VOCAB, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24},
)
ZAMBA2 = Family(
    "Zamba2Config",
    "Zamba2ForCausalLM",
    81,
    {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "mamba_d_state": 4,
        "mamba_ngroups": 1,
        "n_mamba_heads": 4,
        "mamba_headdim": 8,
        "adapter_rank": 2,
        "layers_block_type": ["hybrid" if i == 11 or i % 6 == 5 else "mamba" for i in range(81)],
    },
)

_FAMILIES: tuple[tuple[Family, str], ...] = (
    (LLAMA_7B, "002 003 006 020 034 038 043 045 046 061 080 082 153 184 185 186 188 205 218 232 241 242"),
    (LLAMA_13B, "028 059 127 132 158 195 196 197 206 207 215 237 239"),
    (LLAMA_34B, "040 087 092 129 220"),
    (LLAMA_70B, "113 115"),
    (TINY_LLAMA, "069"),
    (SOLAR, "180 187"),
    (NEMO_12B, "048 054 078 114 133"),
    (MISTRAL_11B, "170 176"),
    (QWEN_7B, "066 067 231"),
    (QWEN_32B, "140"),
    (QWEN3_8B, "200"),
    (GEMMA2_2B, "151 201"),
    (GEMMA2_9B, "044"),
    (GEMMA3_27B, "052"),
    (QWEN2_VL, "068"),
    (GPT2, "030 213 228 229"),
    (BERT, "209"),
    (ZAMBA2, "168"),
    (MIXTRAL, "234 235"),
    (PHI2, "104 107"),
)


def family_of(number: str) -> Family:
    """The family of the models of a recipe, by its number in the corpus."""
    return next((family for family, numbers in _FAMILIES if number in numbers.split()), MISTRAL_7B)


class StandIns:
    """Stand-ins below ``folder``; models of a family are made once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[int, Path] = {}

    def copy(self, recipe: Path, models: Iterable[Leaf]) -> Path:
        """A copy of ``recipe`` in which every one of its ``models`` is a stand-in of its family."""
        family = family_of(recipe.name[:3])
        home = self._folder / recipe.stem
        home.mkdir()
        text = recipe.read_text("utf-8")
        words = _tokens(text)
        places: dict[str, Path] = {}
        for leaf in models:
            place = home / f"model-{len(places)}"
            if leaf.adapter:
                _adapter(place, family)
            else:
                self._model(place, family, words)
            places[normalized(leaf.reference)] = place
        documents = [_renamed(document, places) for document in yaml.safe_load_all(text)]
        copy = home / "recipe.yml"
        copy.write_text(yaml.safe_dump_all(documents, sort_keys=False))
        return copy

    def _model(self, place: Path, family: Family, words: list[str]) -> None:
        made = self._weights(family)
        place.mkdir()
        for file in made.iterdir():
            (place / file.name).hardlink_to(file)
        _tokenizer(place, [*words, f"<own-{place.name}>"])

    def _weights(self, family: Family) -> Path:
        """A folder with config and weights of a family."""
        if id(family) not in self._made:
            place = self._folder / f"family-{len(self._made)}"
            _new(family).save_pretrained(place)
            self._made[id(family)] = place
        return self._made[id(family)]


def _new(family: Family) -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    given = {**family.given}
    nested = {key: (name, {**own}) for key, (name, own) in family.nested.items()}
    *outer, key = family.key.split(".")
    (nested[outer[0]][1] if outer else given)[key] = family.layers
    configs = {key: getattr(transformers, name)(**own) for key, (name, own) in nested.items()}
    config = getattr(transformers, family.config)(**{**given, **configs})
    return getattr(transformers, family.model)(config).to(torch.bfloat16)


def _tokens(text: str) -> list[str]:
    """The tokens that the tokenizer sections of a recipe speak of."""
    found: list[str] = []
    for document in yaml.safe_load_all(text):
        section = document.get("tokenizer")
        for token, rule in ((section or {}).get("tokens") or {}).items():
            found.append(token)
            source = rule.get("source")
            if isinstance(source, dict) and "token" in source:
                found.append(source["token"])
    return list(dict.fromkeys(found))


@functools.lru_cache(1)
def _base_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 3, trainer)
    return tokenizer.to_str()


def _tokenizer(place: Path, words: list[str]) -> None:
    """A tokenizer that has ``words`` as added tokens."""
    from tokenizers import AddedToken, Tokenizer

    tokenizer = Tokenizer.from_str(_base_tokenizer())
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    assert tokenizer.get_vocab_size() <= VOCAB
    tokenizer.save(str(place / "tokenizer.json"))
    template = "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "chat_template": template,
    }
    (place / "tokenizer_config.json").write_text(json.dumps(config))


def _adapter(place: Path, family: Family) -> None:
    """A LoRA adapter on the attention of the first and last layer."""
    import torch
    from safetensors.torch import save_file

    size, inner = family.given["hidden_size"], family.given["num_attention_heads"] * family.given["head_dim"]
    tensors = {}
    for layer in (0, family.layers - 1):
        stem = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{stem}.lora_A.weight"] = torch.ones(2, size)
        tensors[f"{stem}.lora_B.weight"] = torch.ones(inner, 2)
    place.mkdir()
    save_file(tensors, place / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (place / "adapter_config.json").write_text(json.dumps(config))


def _renamed(node: Any, places: dict[str, Path]) -> Any:
    """``node`` with every model named by its stand-in."""
    if isinstance(node, dict):
        key = next((k for k in ("path", "model") if isinstance(node.get(k), str) and "revision" in node), None)
        if key is not None:
            place = places[normalized(f"{node[key]}@{node['revision']}")]
            return {k: str(place) if k == key else v for k, v in node.items() if k != "revision"}
        return {key: _renamed(value, places) for key, value in node.items()}
    if isinstance(node, list):
        return [_renamed(item, places) for item in node]
    if not isinstance(node, str):
        return node
    if normalized(node) in places:
        return str(places[normalized(node)])
    model, adapter = parted(node, None) or (node, None)
    if adapter is not None and normalized(model) in places and normalized(adapter) in places:
        return f"{places[normalized(model)]}+{places[normalized(adapter)]}"
    return node
