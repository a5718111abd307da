"""Models on disk and merges of them, for tests of what receipts tell."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import xxhash

import stockpot as sp
from files import files_below, tensor_hash, write_model
from stockpot.cli.main import main
from stockpot.execute.local import execute
from stockpot.execute.receipt import RECEIPT_NAME, receipt_bytes

NAMES = ("model.embed_tokens.weight", "model.layers.0.w", "model.layers.1.w", "model.norm.weight")
CONFIG = {"model_type": "toy", "num_hidden_layers": 2}


def arrays(seed, shape=(6, 8)):
    """Weights of a small model; the norm has one dimension."""
    rng = np.random.default_rng(seed)
    found = {n: rng.normal(size=shape).astype(np.float32) for n in NAMES[:-1]}
    return {**found, NAMES[-1]: rng.normal(size=shape[-1:]).astype(np.float32)}


def model(folder, seed=0, *, front=None, config=CONFIG, files=1):
    """A model on disk; ``front`` is the front matter of its README.md."""
    write_model(folder, arrays(seed), config=config, files=files)
    if front is not None:
        (Path(folder) / "README.md").write_text(f"---\n{front}\n---\n# A model\n")
    return Path(folder)


def cached(home, name, seed=0, *, front=None, commit="0123456789abcdef0123456789abcdef01234567"):
    """A model in the layout of the hub's cache, its weights a link to a blob named by its sha256."""
    import hashlib

    repository = Path(home) / f"models--{name.replace('/', '--')}"
    snapshot = model(repository / "snapshots" / commit, seed, front=front)
    weights = snapshot / "model.safetensors"
    blob = repository / "blobs" / hashlib.sha256(weights.read_bytes()).hexdigest()
    blob.parent.mkdir()
    weights.rename(blob)
    weights.symlink_to(Path("../../blobs") / blob.name)
    return snapshot


def merged(what, out, **options):
    """The receipt of ``what`` merged into ``out``."""
    return execute(sp.plan(what, out, **options), Path(out), durable=False).receipt


def read_hashes(plan):
    """Key → hash of every tensor of every input."""
    found = {}
    for source in plan.sources.values():
        for ref in source.tensors.values():
            if ref.file is None:
                data = ref.array.tobytes()
            else:
                data = Path(ref.file).read_bytes()[ref.offset : ref.offset + ref.nbytes]
            found[ref.key] = tensor_hash(data)
    return found


def small_hashes(folder):
    """Name → hash of every file that holds no tensors."""
    names = [n for n in files_below(folder) if not n.endswith(".safetensors") and n != RECEIPT_NAME]
    return {
        n: xxhash.xxh3_128_hexdigest((Path(folder) / n).read_bytes()) for n in names if (Path(folder) / n).is_file()
    }


def recipe(folder, text, name="recipe.yml"):
    """A recipe file in ``folder``."""
    path = Path(folder) / name
    path.write_text(text)
    return path


def rewritten(folder, change):
    """The receipt in ``folder`` after ``change`` was made to its data, its own hash made to fit."""
    from stockpot.provenance.receipts import sealed

    path = Path(folder) / RECEIPT_NAME
    data = json.loads(path.read_bytes())
    change(data)
    path.write_bytes(receipt_bytes(sealed(data)))
    return data


def run(capsys, *arguments):
    """(exit code, standard output, standard error) of a verb."""
    code = main([str(a) for a in arguments])
    told = capsys.readouterr()
    return code, told.out, told.err
