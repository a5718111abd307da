"""``stockpot inspect MODEL``."""

from __future__ import annotations

from typing import Any

import click

from stockpot.cli.options import human, print_json, progress_bar, say

__all__ = ["command"]


@click.command("inspect")
@click.argument("model")
@click.option("--hash", "hashed", is_flag=True, help="Hash every tensor, which reads the whole model.")
@click.option("--tensors", is_flag=True, help="List every tensor.")
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
def command(model: str, hashed: bool, tensors: bool, as_json: bool) -> None:
    """Show what MODEL (a folder, a file or a hub id) holds; from headers alone without --hash."""
    from stockpot.checkpoint.open import open_checkpoint
    from stockpot.execute.verify import hash_tensors, model_hash

    checkpoint = open_checkpoint(model)
    hashes: dict[str, str] = {}
    if hashed:
        with progress_bar("hashing", quiet=as_json) as progress:
            hashes = hash_tensors(checkpoint, progress=progress)
    data = _summary(checkpoint)
    if hashed:
        data["hash"] = model_hash(hashes)
    rows = [
        {"name": r.name, "dtype": r.dtype.code, "shape": list(r.shape), "bytes": r.nbytes, "hash": hashes.get(r.name)}
        for r in checkpoint.tensors.values()
    ]
    if as_json:
        print_json({**data, "tensors": rows})
        return
    for key, value in data.items():
        say(f"{key:<12}{value}", lines=False)
    for ref in checkpoint.tensors.values() if tensors or hashed else ():
        line = f"{ref.name}  {ref.dtype.code}{list(ref.shape)}  {human(ref.nbytes)}  {hashes.get(ref.name, '')}"
        say(line.rstrip(), lines=False)


def _summary(checkpoint: Any) -> dict[str, Any]:
    from collections import Counter

    from stockpot.architecture.layers import layer_counts

    refs = [checkpoint.tensors[name] for name in checkpoint.values]
    dtypes = Counter(r.dtype.code for r in refs)
    stacks = layer_counts(checkpoint.values)
    coded = ((checkpoint.tensors[name].dtype, coding.dtype) for name, coding in checkpoint.codings.items())
    quantised = Counter(values.torch_name for stored, values in coded if stored != values)
    told = ", ".join(f"{count} as {name}" for name, count in quantised.most_common())
    more = {"dequantised": told} if told else {}
    if checkpoint.unfit:
        more["unfit"] = checkpoint.unfit[0].message
    return {
        "model": checkpoint.label,
        "type": checkpoint.config.get("model_type", "unknown"),
        "parameters": f"{sum(r.elements for r in refs):,}",
        "tensors": len(refs),
        "size": human(checkpoint.nbytes),
        "dtypes": ", ".join(f"{code} ({count})" for code, count in dtypes.most_common()),
        "layers": ", ".join(f"{stack} ({count})" for stack, count in stacks.items()) or "none",
        "files": ", ".join(fact["name"] for fact in checkpoint.identity["files"]),
        **more,
    }
