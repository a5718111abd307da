"""Models and data that are evaluated: classifiers of digits in NumPy, and tiny transformers with tokenizers."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

from files import write_model

MODULE = """
import numpy as np

def logits(tensors, inputs):
    hidden = np.maximum(inputs @ tensors["a.weight"].T + tensors["a.bias"], 0)
    return hidden @ tensors["b.weight"].T + tensors["b.bias"]

def probabilities(tensors, inputs):
    z = logits(tensors, inputs)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)

def labels(tensors, inputs):
    return logits(tensors, inputs).argmax(axis=1)
"""

TEXT = (
    "The kettle was on the fire and the soup had been there since morning.\n"
    "Whoever came by put something in, and nobody took the last spoon.\n"
    "A merge is a guess until it is measured; then it is a figure with an interval.\n"
)


@cache
def digits():
    """Inputs (n, 64) in [0, 1] and labels, shuffled."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    return (bunch.data / 16).astype(np.float32)[order], bunch.target.astype(np.int64)[order]


def trained(rows, seed, start=None, epochs=20):
    """A small network trained on some rows of the digits, from ``start``."""
    x, y = (part[rows] for part in digits())
    rng = np.random.default_rng(seed)
    theta = start or {
        "a.weight": rng.normal(0, 0.2, (32, 64)),
        "a.bias": np.zeros(32),
        "b.weight": rng.normal(0, 0.2, (10, 32)),
        "b.bias": np.zeros(10),
    }
    theta = {name: array.astype(np.float64) for name, array in theta.items()}
    for _ in range(epochs):
        for batch in np.array_split(rng.permutation(len(y)), max(1, len(y) // 32)):
            h = np.maximum(x[batch] @ theta["a.weight"].T + theta["a.bias"], 0)
            z = h @ theta["b.weight"].T + theta["b.bias"]
            p = np.exp(z - z.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            p[np.arange(len(batch)), y[batch]] -= 1
            g = (p @ theta["b.weight"]) * (h > 0)
            step = {"b.weight": p.T @ h, "b.bias": p.sum(axis=0), "a.weight": g.T @ x[batch], "a.bias": g.sum(axis=0)}
            theta = {name: array - 0.3 * step[name] / len(batch) for name, array in theta.items()}
    return {name: array.astype(np.float32) for name, array in theta.items()}


@cache
def networks():
    """base, and two fine-tunes of it on halves of the classes."""
    _, y = digits()
    base = trained(np.arange(200), 0, epochs=4)
    low, high = (np.flatnonzero(part)[:300] for part in (y < 5, y >= 5))
    return {"base": base, "low": trained(low, 1, base, 6), "high": trained(high, 2, base, 6)}


def save_arrays(path, rows, **changed):
    """Some rows of the digits as a .npz file."""
    x, y = digits()
    arrays = {"inputs": x[rows], "labels": y[rows]} | changed
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


def digits_bench(folder):
    """Models, a recipe, a suite with three splits and the user's module, all in ``folder``."""
    folder = Path(folder)
    for name, theta in networks().items():
        write_model(folder / name, theta)
    (folder / "merge.yml").write_text(
        "merge_method: task_arithmetic\nbase_model: base\n"
        "models:\n  - {model: low, parameters: {weight: 0.5}}\n  - {model: high, parameters: {weight: 0.5}}\n"
    )
    (folder / "nets.py").write_text(MODULE)
    for role, rows in (("tune", (600, 800)), ("select", (800, 1000)), ("report", (1000, 1300))):
        save_arrays(folder / f"{role}.npz", np.arange(*rows))
    (folder / "suite.yml").write_text(
        "tasks:\n  clean:\n    kind: classification\n    predict: nets:logits\n"
        "    split: {tune: tune.npz, select: select.npz, report: report.npz}\n"
    )
    return folder


@cache
def _tokenizer_text():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from tokenizers.decoders import ByteLevel

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=sorted(alphabet), show_progress=False
    )
    made.train_from_iterator([TEXT], trainer)
    return made.to_str()


def save_tokenizer(folder, **special):
    """A byte-level tokenizer in the layout of transformers; ``special`` are its tokens."""
    (folder / "tokenizer.json").write_text(_tokenizer_text())
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"} | special
    (folder / "tokenizer_config.json").write_text(json.dumps(told))


def language_model(folder, seed=0, *, dtype="float32", bos=True, tied=True):
    """A tiny Llama with random weights and a tokenizer."""
    import torch
    import transformers

    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=tied, initializer_range=0.2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    save_tokenizer(Path(folder), **({"bos_token": "<s>"} if bos else {}))
    return model.eval()


def sentence_model(folder, seed=0):
    """A tiny BERT with random weights and a tokenizer."""
    import torch
    import transformers

    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    model = transformers.BertModel(config)
    model.save_pretrained(folder)
    save_tokenizer(Path(folder))
    return model.eval()


def write_lines(path, rows):
    """Lines of JSON."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
