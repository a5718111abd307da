"""PyTorch's pickles, against PyTorch itself: same names, shapes and bytes."""

from __future__ import annotations

import json
import warnings
import zipfile
from argparse import Namespace
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from stockpot.checkpoint import Checkpoint, PayloadReader, open_checkpoint
from stockpot.errors import CheckpointError, Problem

torch = pytest.importorskip("torch", reason="PyTorch writes the files that these tests read")

Saved = Callable[..., Path]
BOTH = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """A function that saves a value with PyTorch, in either of its formats."""

    def save(value: Any, zipped: bool = True, name: str = "model.pt") -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch deprecates things that files in the wild hold
            torch.save(value, tmp_path / name, _use_new_zipfile_serialization=zipped)
        return tmp_path / name

    return save


def payload(checkpoint: Checkpoint, name: str) -> bytes:
    """All bytes of a tensor, read as a merge would read them."""
    ref = checkpoint.tensors[name]
    room = bytearray(ref.nbytes)
    with PayloadReader() as reader:
        reader.read(ref, 0, memoryview(room))
    return bytes(room)


def expected(tensor: Any) -> bytes:
    """The bytes of a PyTorch tensor."""
    flat = tensor.detach().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy().tobytes()) if flat.numel() else b""


def same(path: Path, state: dict[str, Any]) -> Checkpoint:
    """Open ``path`` and compare all of it with what PyTorch saved."""
    found = open_checkpoint(str(path))
    assert list(found.tensors) == list(state)
    for name, tensor in state.items():
        assert found.tensors[name].shape == tuple(tensor.shape)
        assert f"torch.{found.tensors[name].dtype.torch_name}" == str(tensor.dtype)
        assert payload(found, name) == expected(tensor)
    return found


def problem_of(path: Path) -> Problem:
    """The first problem with which opening fails."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(path))
    assert caught.value.problems[0].file == str(path)
    return caught.value.problems[0]


DTYPES = [
    "float64", "float32", "bfloat16", "float16", "int64", "int32", "int16", "int8", "uint8", "bool",
    "complex64",
]  # fmt: skip


@BOTH
def test_dtypes_and_shapes(saved: Saved, zipped: bool) -> None:
    """Every dtype and shape, scalars and empty tensors too."""
    shapes: list[tuple[int, ...]] = [(), (1,), (3, 5), (0, 4), (2, 1, 3)]
    state = {
        f"{dtype}{shape}": (torch.rand(shape) * 100).to(getattr(torch, dtype)) for dtype in DTYPES for shape in shapes
    }
    same(saved(state, zipped), state)


def test_newer_dtypes(saved: Saved) -> None:
    """Dtypes without a storage class of their own are saved otherwise; they are read too."""
    state = {
        dtype: torch.arange(8, dtype=torch.uint8).view(getattr(torch, dtype))
        for dtype in ("float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64")
    }
    same(saved(state), state)


@BOTH
def test_views_and_tied_weights(saved: Saved, zipped: bool) -> None:
    """Tensors that share a storage lie at the same bytes; views start where they should."""
    whole = torch.arange(24, dtype=torch.float32).reshape(6, 4)
    state = {
        "whole": whole,
        "tied": whole,
        "rows": whole[2:4],
        "column": whole[:, :1][3:4],
        "first": whole[0],
    }
    found = same(saved(state, zipped), state)
    assert found.tensors["whole"].offset == found.tensors["tied"].offset
    assert found.tensors["rows"].offset == found.tensors["whole"].offset + 32


@BOTH
def test_module_state_dict(saved: Saved, zipped: bool) -> None:
    """A module's own state dict (with its hidden _metadata), parameters, and buffers."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    same(saved(module.state_dict(), zipped), dict(module.state_dict()))
    parameters = dict(module.named_parameters())
    same(saved(parameters, zipped), parameters)


def test_parameters_with_attributes(saved: Saved) -> None:
    """Tensors that carry Python attributes are wrapped once more in the pickle."""
    weight = torch.nn.Parameter(torch.ones(2))
    weight.note = "extra"
    tensor = torch.ones(3)
    tensor.note = "extra"
    same(saved({"w": weight, "t": tensor}), {"w": weight, "t": tensor})


@BOTH
def test_training_checkpoint(saved: Saved, zipped: bool) -> None:
    """The model is found in what a training script saves; the rest is listed, not lost silently."""
    module = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    value = {
        "epoch": 3,
        "state_dict": OrderedDict(module.state_dict()),
        "optimizer": optimizer.state_dict(),
        "best_acc": torch.tensor(91.5),
        "score": np.float64(0.5),
        "args": Namespace(lr=0.1, device=torch.device("cpu")),
        "history": defaultdict(list, {"loss": [1.0, 0.5]}),
        "dtype": torch.float32,
        "size": torch.Size([2, 3]),
    }
    found = same(saved(value, zipped), dict(module.state_dict()))
    assert found.identity["skipped"] == [
        "epoch", "optimizer", "best_acc", "score", "args", "history", "dtype", "size",
    ]  # fmt: skip


def test_nested_wrappers(saved: Saved) -> None:
    """Wrappers within wrappers are unwrapped; averaged copies of the weights do not count."""
    weights = {"w": torch.ones(2), "version": 3}
    value = {"outer": {"model": weights, "model_ema": {"w": torch.zeros(2)}}, "step": 1}
    found = same(saved(value), {"w": torch.ones(2)})
    assert found.identity["skipped"] == ["step", "outer.model_ema", "outer.model.version"]


@pytest.mark.parametrize(
    "value",
    [
        {"generator": {"w": 1}, "discriminator": {"w": 1}},
        {"state_dict": {"w": 1}, "model": {"w": 1}},
        {"w": 1, "head": {"w": 1}},
        {"w": 1, "state_dict": {"w": 1}},
    ],
)
def test_ambiguous_files(saved: Saved, value: dict[str, Any]) -> None:
    """Where more than one thing can be the model, nothing is guessed."""

    def with_tensors(node: Any) -> Any:
        return {k: with_tensors(v) for k, v in node.items()} if isinstance(node, dict) else torch.ones(2)

    assert "can be the model" in problem_of(saved(with_tensors(value))).message


@pytest.mark.parametrize("value", [{}, {"a": 1}, [torch.zeros(2)] * 2, torch.ones(2), {1: {2: {}}}, None])
def test_files_without_named_tensors(saved: Saved, value: Any) -> None:
    """What holds no named tensors is told as such."""
    assert "no named tensors" in problem_of(saved(value)).message


@BOTH
def test_non_contiguous(saved: Saved, zipped: bool) -> None:
    """A transposed view cannot be streamed: every such tensor is named, with the way out."""
    whole = torch.arange(6.0).reshape(2, 3)
    path = saved({"ok": whole, "t": whole.T, "s": whole[:, ::2]}, zipped)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(path))
    assert [p.tensor for p in caught.value.problems] == ["t", "s"]
    assert all("safetensors" in (p.fix or "") for p in caught.value.problems)


def test_tensors_that_are_no_plain_numbers(saved: Saved) -> None:
    """Sparse, quantised, conjugated and complex128 tensors are named, not misread."""
    kinds = {
        "sparse": torch.eye(3).to_sparse(),
        "conjugate": torch.ones(2, dtype=torch.complex64).conj(),
        "wide": torch.ones(2, dtype=torch.complex128),
        "fine": torch.ones(2),
    }
    path = saved(kinds)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(path))
    assert [p.tensor for p in caught.value.problems] == ["sparse", "conjugate", "wide"]


@BOTH
def test_truncated_files(saved: Saved, zipped: bool) -> None:
    """A file cut anywhere is refused, never half read."""
    path = saved({"a": torch.arange(50.0), "b": torch.arange(20.0)}, zipped)
    content = path.read_bytes()
    for length in range(0, len(content), 37):
        path.write_bytes(content[:length])
        assert problem_of(path)


@BOTH
def test_flipped_bytes(saved: Saved, zipped: bool) -> None:
    """A file with damaged bytes is refused, or reads tensors that lie inside the file."""
    path = saved({"a": torch.arange(9.0), "b": torch.ones(2, 3)}, zipped)
    content = path.read_bytes()
    chance = Random(0)
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            found = open_checkpoint(str(path))
        except CheckpointError:
            continue
        assert all(0 < t.offset <= len(content) - t.nbytes for t in found.tensors.values())


def repack(path: Path, change: Callable[[str, bytes], bytes], compress: int = zipfile.ZIP_STORED) -> None:
    """Write the zip file anew with changed members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compress) as archive:
        for name, data in members.items():
            archive.writestr(name, change(name, data))


def test_zip_without_padding(saved: Saved) -> None:
    """Members need no particular alignment: a re-packed file reads the same."""
    state = {"a": torch.arange(5.0), "b": torch.ones(3, dtype=torch.float16)}
    path = saved(state)
    repack(path, lambda _, data: data)
    same(path, state)


def test_compressed_zip(saved: Saved) -> None:
    """Compressed members cannot be streamed; the message says so."""
    path = saved({"a": torch.zeros(1000)})
    repack(path, lambda _, data: data, zipfile.ZIP_DEFLATED)
    assert "compressed" in problem_of(path).message


def test_big_endian(saved: Saved) -> None:
    """Files of big-endian machines are refused, not misread."""
    path = saved({"a": torch.zeros(2)})
    repack(path, lambda name, data: b"big" if name.endswith("byteorder") else data)
    assert "big-endian" in problem_of(path).message


def test_data_shorter_than_its_tensor(saved: Saved) -> None:
    """A tensor that claims more bytes than its storage has is named."""
    path = saved({"a": torch.zeros(100)})
    repack(path, lambda name, data: data[:-4] if "/data/" in name and len(data) == 400 else data)
    problem = problem_of(path)
    assert (problem.tensor, "beyond its storage" in problem.message) == ("a", True)


def test_missing_data(saved: Saved) -> None:
    """A tensor whose storage is not in the file is named."""
    path = saved({"a": torch.zeros(100)})
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read("model/data.pkl")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickled)
    assert "missing from the file" in problem_of(path).message


def test_torchscript(tmp_path: Path) -> None:
    """A TorchScript program is told from a state dict."""
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        for name in ("script/data.pkl", "script/constants.pkl", "script/code/a.py"):
            archive.writestr(name, b"")
    assert "TorchScript" in problem_of(tmp_path / "script.pt").message


def test_sharded_folder(saved: Saved, tmp_path: Path) -> None:
    """A folder of pytorch_model shards with their index, beside an optimizer's state."""
    saved({"a": torch.ones(2)}, name="pytorch_model-00001-of-00002.bin")
    saved({"b": torch.zeros(3)}, name="pytorch_model-00002-of-00002.bin")
    saved({"state": {}}, name="optimizer.pt")
    first, second = (f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2))
    index = json.dumps({"weight_map": {"b": second, "a": first}})
    (tmp_path / "pytorch_model.bin.index.json").write_text(index)
    found = open_checkpoint(str(tmp_path))
    assert list(found.tensors) == ["a", "b"]
    assert found.identity["files"][0]["bytes"] == (tmp_path / first).stat().st_size


def test_safetensors_come_before_pickles(saved: Saved, tmp_path: Path, save: Callable[..., Path]) -> None:
    """A folder with both kinds is read from safetensors."""
    saved({"old": torch.ones(2)}, name="pytorch_model.bin")
    save(tmp_path / "weights.safetensors", {"new": np.ones(2, np.float32)})
    assert list(open_checkpoint(str(tmp_path)).tensors) == ["new"]


def test_real_files(shared: Path) -> None:
    """Real CIFAR-10 ResNets of 2018 read as PyTorch reads them."""
    folder = shared / "data" / "weights" / "cifar10_resnets"
    files = sorted(folder.glob("*.th"))
    assert len(files) == 3
    for path in files:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        found = same(path, dict(state))
        assert found.identity["skipped"] == ["best_prec1"]
    with pytest.raises(CheckpointError, match="in two files"):
        open_checkpoint(str(folder))
