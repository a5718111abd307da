"""Two tiny models with tokenizers of different kinds, and a transplant as a textbook computes it."""

from __future__ import annotations

import json

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from files import write_model

WORDS = ["the", "model", "merge", "weights", "of", "two", "models", "is", "a", "mean", "of", "their", "merged", "rows"]
TEXT = [" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))] * 3
RARE = ["tokens transplant merges meanwhile theirs modelled weighted rowing"] * 9


def byte_level(size=300):
    """BPE over bytes, trained; its end of text is ``<|end|>``."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<|begin|>", "<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXT, trainer)
    return made, {"bos_token": "<|begin|>", "eos_token": "<|end|>"}


def metaspace(size=360):
    """BPE over characters with bytes to fall back to, trained; its end of text is ``</s>``."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    made.train_from_iterator(TEXT + RARE, trainer)
    document = json.loads(made.to_str())
    document["added_tokens"] = [t for t in document["added_tokens"] if t["id"] < 3]
    return Tokenizer.from_str(json.dumps(document)), {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def model(folder, tokenizer, *, seed, width, tied=False, dtype=np.float32, rows=None, more=None, config=None):
    """A folder with a model of one layer, its tokenizer beside it."""
    made, roles = tokenizer
    count = made.get_vocab_size() if rows is None else rows
    rng = np.random.default_rng(seed)
    arrays = {"model.embed_tokens.weight": rng.normal(size=(count, width)).astype(dtype)}
    arrays["model.layers.0.mlp.up_proj.weight"] = rng.normal(size=(width, width)).astype(dtype)
    if not tied:
        arrays["lm_head.weight"] = rng.normal(size=(count, width)).astype(dtype)
    ids = made.get_vocab()
    settings = {
        "model_type": "llama", "vocab_size": count, "hidden_size": width, "tie_word_embeddings": tied,
        "bos_token_id": ids[roles["bos_token"]], "eos_token_id": ids[roles["eos_token"]],
    }  # fmt: skip
    write_model(folder, {**arrays, **(more or {})}, config={**settings, **(config or {})})
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **roles}))
    return folder


def like(new, old):
    """New number → old number of what stands for the same text or has the same role; and those by role alone."""
    (new, new_roles), (old, old_roles) = new, old
    characters = {}
    for byte in range(256):
        characters[chr(byte)] = bytes([byte])
    free = iter(range(256, 512))
    for byte in [b for b in range(256) if not (33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255)]:
        characters.pop(chr(byte), None)
        characters[chr(next(free))] = bytes([byte])
    texts = {}
    for token, number in sorted(old.get_vocab().items(), key=lambda item: item[1]):
        if token not in old_roles.values():
            texts.setdefault(b"".join(characters[c] for c in token), number)
    found, by_role = {}, {}
    for token, number in new.get_vocab().items():
        role = next((r for r, t in new_roles.items() if t == token), None)
        if role is not None:
            if role in old_roles:
                by_role[number] = old.get_vocab()[old_roles[role]]
            continue
        byte = token.startswith("<0x") and len(token) == 6
        text = bytes([int(token[3:5], 16)]) if byte else token.replace("▁", " ").encode()
        if byte and any(t.replace("▁", " ").encode() == text for t in new.get_vocab()):
            continue
        if text in texts:
            found[number] = texts[text]
    return found, by_role


def plain_pursuit(x, atoms, k):
    """Orthogonal matching pursuit as in a textbook, least squares anew at every step: rows taken, coefficients."""
    unit = atoms / np.linalg.norm(atoms, axis=1, keepdims=True)
    support, residual = [], x
    for _ in range(k):
        scores = np.abs(unit @ residual)
        scores[support] = 0
        support.append(int(np.argmax(scores)))
        solution = np.linalg.lstsq(unit[support].T, x, rcond=None)[0]
        residual = x - solution @ unit[support]
    return support, solution / np.linalg.norm(atoms[support], axis=1), residual


def made_row(method, x, donor, ours, k):
    """One row by ``method``: ``donor`` and ``ours`` are the rows of the tokens in common."""
    if method == "omp":
        support, values, _ = plain_pursuit(x, donor, k)
        return values @ ours[support]
    if method == "interpolation":
        cosines = donor @ x / np.linalg.norm(donor, axis=1) / np.linalg.norm(x)
        nearest = np.argsort(-cosines)[:k]
        weights = np.maximum(cosines[nearest], 0)
        return weights @ ours[nearest] / weights.sum()
    square = donor.T @ donor
    ridge = 1e-6 * np.trace(square) / len(square) * np.eye(len(square))
    return x @ np.linalg.solve(square + ridge, donor.T @ ours)
