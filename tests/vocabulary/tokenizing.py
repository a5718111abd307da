"""Tiny tokenizers made by the tokenizers library, and tiny models with as many rows as they have tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from files import write_model

WIDTH = 8


def byte_level(words: Sequence[str], added: Sequence[str | AddedToken] = ()) -> Tokenizer:
    """BPE over bytes that makes each of ``words`` (with a space before) one token."""
    vocabulary = {token: number for number, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []
    for word in words:
        left = "Ġ"
        for character in word:
            if left + character not in vocabulary:
                vocabulary[left + character] = len(vocabulary)
                merges.append((left, character))
            left += character
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>"])
    made.add_tokens([*added])
    return made


def word_pieces(words: Sequence[str], added: Sequence[str | AddedToken] = ()) -> Tokenizer:
    """WordPiece of whole words and letters."""
    letters = [chr(n) for n in range(97, 123)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), *words]
    made = Tokenizer(models.WordPiece({t: i for i, t in enumerate(dict.fromkeys(tokens))}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    made.add_tokens([*added])
    return made


def unigram(words: Sequence[str], added: Sequence[str | AddedToken] = ()) -> Tokenizer:
    """Unigram of letters and words."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -4.0)]
    pieces += [(chr(n), -6.0) for n in range(97, 123)] + [(f"▁{word}", -5.0) for word in words]
    made = Tokenizer(models.Unigram(pieces, unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.add_tokens([*added])
    return made


KINDS = {"bytes": byte_level, "pieces": word_pieces, "unigram": unigram}


def model(
    folder: Path,
    tokenizer: Tokenizer | None,
    *,
    seed: int,
    rows: int | None = None,
    tied: bool = False,
    dtype: Any = np.float64,
    width: int = WIDTH,
    settings: dict[str, Any] | None = None,
    files: dict[str, str] | None = None,
) -> Path:
    """A folder with a one-layer model whose every number is told by ``seed``, and with its tokenizer."""
    count = rows if rows is not None else len(tokenizer.get_vocab()) if tokenizer is not None else 0
    rng = np.random.default_rng(seed)
    arrays = {
        "model.embed_tokens.weight": rng.normal(size=(count, width)).astype(dtype),
        "model.layers.0.mlp.up_proj.weight": rng.normal(size=(width, width)).astype(dtype),
        "model.norm.weight": rng.normal(size=width).astype(dtype),
    }
    if not tied:
        arrays["lm_head.weight"] = rng.normal(size=(count, width)).astype(dtype)
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": count, "hidden_size": width,
        "intermediate_size": width, "num_attention_heads": 1, "num_hidden_layers": 1, "tie_word_embeddings": tied,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    write_model(folder, arrays, config=config)
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))
        told = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
        if "<s>" not in tokenizer.get_vocab():
            told = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
        (folder / "tokenizer_config.json").write_text(json.dumps({**told, **(settings or {})}))
    for name, text in (files or {}).items():
        (folder / name).write_text(text)
    return folder


def ids_of(folder: Path) -> dict[str, int]:
    """Token → number, as the tokenizers library reads it."""
    return Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
