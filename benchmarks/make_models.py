"""Make the models that the benchmark merges: a base and fine-tunes in the shape of a Llama.

Base weights are normal with standard deviation 0.02 (norms: around 1), fine-tunes add normal noise
of standard deviation 0.001. The bytes depend on nothing but the options: every block of every
tensor has its own random stream. Headers are built by hand; memory stays at a few blocks.

    python benchmarks/make_models.py .bench/1.1b --size 1.1b --fine-tunes 3
"""

import argparse
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from types import MappingProxyType

import ml_dtypes
import numpy as np

BASE_SIGMA = 0.02
NOISE_SIGMA = 0.001
SHARD_BYTES = 1_000_000_000
BLOCK = 1 << 22
"""Elements drawn from one random stream, and held in float32 by one thread at a time."""

DTYPES = MappingProxyType(
    {
        "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
        "float16": ("F16", np.dtype(np.float16)),
        "float32": ("F32", np.dtype(np.float32)),
    }
)


@dataclass(frozen=True)
class Shape:
    """The numbers of a Llama configuration that decide its tensors."""

    hidden: int
    inner: int
    layers: int
    vocabulary: int
    heads: int
    kv_heads: int

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """All tensor names with their shapes, in the order in which they are stored."""
        kv = self.hidden // self.heads * self.kv_heads
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.hidden)}
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            shapes |= {
                f"{prefix}.input_layernorm.weight": (self.hidden,),
                f"{prefix}.self_attn.q_proj.weight": (self.hidden, self.hidden),
                f"{prefix}.self_attn.k_proj.weight": (kv, self.hidden),
                f"{prefix}.self_attn.v_proj.weight": (kv, self.hidden),
                f"{prefix}.self_attn.o_proj.weight": (self.hidden, self.hidden),
                f"{prefix}.post_attention_layernorm.weight": (self.hidden,),
                f"{prefix}.mlp.gate_proj.weight": (self.inner, self.hidden),
                f"{prefix}.mlp.up_proj.weight": (self.inner, self.hidden),
                f"{prefix}.mlp.down_proj.weight": (self.hidden, self.inner),
            }
        shapes["model.norm.weight"] = (self.hidden,)
        shapes["lm_head.weight"] = (self.vocabulary, self.hidden)
        return shapes

    def config(self, dtype: str) -> dict[str, object]:
        """The `config.json` that goes with the tensors."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "vocab_size": self.vocabulary,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": 2048,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "torch_dtype": dtype,
        }


SIZES = MappingProxyType(
    {
        "1.1b": Shape(2048, 5632, 22, 32000, 32, 4),
        "250m": Shape(1024, 2816, 16, 32000, 16, 4),
        "20m": Shape(384, 1024, 8, 8000, 6, 6),
        "15m": Shape(256, 704, 16, 8000, 4, 1),
    }
)


@dataclass(frozen=True)
class Place:
    """Where one tensor lies: its shard, and the offset of its first byte in that file."""

    name: str
    shape: tuple[int, ...]
    shard: int
    start: int

    @property
    def elements(self) -> int:
        """How many numbers the tensor has."""
        return int(np.prod(self.shape))


@dataclass(frozen=True)
class Shard:
    """One file of a model: its name, all bytes before the data, and its full size in bytes."""

    name: str
    head: bytes
    size: int


def lay_out(shapes: dict[str, tuple[int, ...]], dtype: str) -> tuple[list[Shard], list[Place]]:
    """Spread the tensors over shards of at most `SHARD_BYTES` and build each shard's header."""
    code, stored = DTYPES[dtype]
    groups: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in shapes.items():
        size = int(np.prod(shape)) * stored.itemsize
        if groups[-1] and filled + size > SHARD_BYTES:
            groups.append({})
            filled = 0
        groups[-1][name] = shape
        filled += size
    shards, places = [], []
    for number, group in enumerate(groups):
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, shape in group.items():
            start, end = end, end + int(np.prod(shape)) * stored.itemsize
            entries[name] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        head = len(text).to_bytes(8, "little") + text
        shards.append(Shard(shard_name(number, len(groups)), head, len(head) + end))
        start = len(head)
        for name, shape in group.items():
            places.append(Place(name, shape, number, start))
            start += int(np.prod(shape)) * stored.itemsize
    return shards, places


def shard_name(number: int, count: int) -> str:
    """The usual name of shard `number` of `count`, counted from 0."""
    return "model.safetensors" if count == 1 else f"model-{number + 1:05}-of-{count:05}.safetensors"


def begin(folder: Path, shards: list[Shard], places: list[Place]) -> list[int]:
    """Write a model's headers and index; the open files, at their full sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for shard in shards:
        file = os.open(folder / shard.name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
        os.ftruncate(file, shard.size)
        os.pwrite(file, shard.head, 0)
        files.append(file)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(shard.size - len(shard.head) for shard in shards)},
            "weight_map": {place.name: shards[place.shard].name for place in places},
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    return files


def blocks(places: list[Place]) -> Iterator[tuple[int, Place, int]]:
    """(tensor number, place, first element) of every block of every tensor."""
    for number, place in enumerate(places):
        for first in range(0, place.elements, BLOCK):
            yield number, place, first


def fill(block: tuple[int, Place, int], models: list[list[int]], stored: np.dtype, seed: int) -> None:
    """Draw one block for the base and every fine-tune, and write it to all of the models."""
    number, place, first = block
    count = min(BLOCK, place.elements - first)
    offset = place.start + first * stored.itemsize
    base = BASE_SIGMA * normal((seed, 0, number, first), count)
    if len(place.shape) == 1:
        base += 1
    base = base.astype(stored)
    write_all(models[0][place.shard], base, offset)
    for model, files in enumerate(models[1:], start=1):
        tuned = normal((seed, model, number, first), count)
        tuned *= NOISE_SIGMA
        tuned += base.astype(np.float32)
        write_all(files[place.shard], tuned.astype(stored), offset)


def normal(key: tuple[int, ...], count: int) -> np.ndarray:
    """`count` standard normal float32 numbers, from a stream of their own."""
    generator = np.random.Generator(np.random.SFC64(np.random.SeedSequence(key)))
    return generator.standard_normal(count, dtype=np.float32)


def write_all(file: int, values: np.ndarray, offset: int) -> None:
    """Write the array's bytes at `offset` of an open file."""
    data = values.view(np.uint8).data
    while data:
        done = os.pwrite(file, data, offset)
        data, offset = data[done:], offset + done


def make(
    out: Path,
    shapes: dict[str, tuple[int, ...]],
    config: dict[str, object],
    *,
    fine_tunes: int,
    dtype: str = "bfloat16",
    seed: int = 1,
    threads: int = 2,
) -> None:
    """Write `base`, `ft1`, `ft2` ... under `out`; each is complete once its config is there."""
    shards, places = lay_out(shapes, dtype)
    folders = [out / name for name in ("base", *(f"ft{i + 1}" for i in range(fine_tunes)))]
    models = [begin(folder, shards, places) for folder in folders]
    stored = DTYPES[dtype][1]
    with ThreadPoolExecutor(threads) as pool:
        jobs = pool.map(fill, blocks(places), repeat(models), repeat(stored), repeat(seed))
        for _ in jobs:
            pass
    for folder, files in zip(folders, models, strict=True):
        for file in files:
            os.close(file)
        (folder / "config.json").write_text(json.dumps(config, indent=1))


def big_tensor(gibibytes: float) -> tuple[dict[str, tuple[int, ...]], dict[str, object]]:
    """One bfloat16 matrix of the given size and a small vector, and a config of no known family."""
    rows = int(gibibytes * 2**30) // 2 // 32768
    shapes: dict[str, tuple[int, ...]] = {"norm.weight": (32768,), "table.weight": (rows, 32768)}
    return shapes, {"model_type": "one_big_tensor"}


def main() -> None:
    """Parse the command line and write the models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=[*SIZES, "big"], default="1.1b")
    parser.add_argument("--gib", type=float, default=2.0, help="size of the tensor of --size big")
    parser.add_argument("--fine-tunes", type=int, default=3)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.size == "big":
        shapes, config = big_tensor(options.gib)
    else:
        shapes = SIZES[options.size].tensors()
        config = SIZES[options.size].config(options.dtype)
    make(
        options.out,
        shapes,
        config,
        fine_tunes=options.fine_tunes,
        dtype=options.dtype,
        seed=options.seed,
        threads=options.threads,
    )


if __name__ == "__main__":
    main()
