"""The output's layout: golden files, the safetensors library reads them, shards and resuming."""

from __future__ import annotations

import json
import sys
from math import prod
from pathlib import Path
from random import Random

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from stockpot.checkpoint import (
    DTYPES,
    DType,
    PayloadReader,
    ShardLayout,
    create_files,
    index_files,
    layout,
    open_checkpoint,
    storage,
)
from stockpot.errors import CheckpointError, ExecutionError, StorageError

F32, BF16, U8, I64 = (DTYPES[code] for code in ("F32", "BF16", "U8", "I64"))
Named = tuple[str, DType, tuple[int, ...]]


def fill(folder: Path, shards: tuple[ShardLayout, ...], payload: dict[str, bytes]) -> None:
    """Write every tensor at its place, last one first: the order must not matter."""
    for shard in shards:
        with (folder / shard.file).open("r+b") as file:
            for name, offset in reversed(list(shard.offsets.items())):
                file.seek(offset)
                file.write(payload[name])


def test_golden_file(tmp_path: Path) -> None:
    """One small model, byte for byte."""
    shards = layout([("w", F32, (2,)), ("b", BF16, ())], 1000)
    create_files(tmp_path, shards)
    fill(tmp_path, shards, {"w": np.array([1, -2], "<f4").tobytes(), "b": b"\x80\x3f"})
    text = (
        b'{"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"b":{"dtype":"BF16","shape":[],"data_offsets":[8,10]}}'
    )
    text += b" " * (-len(text) % 8)
    expected = bytes([len(text), 0, 0, 0, 0, 0, 0, 0]) + text + b"\0\0\x80\x3f\0\0\0\xc0\x80\x3f"
    assert (tmp_path / "model.safetensors").read_bytes() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_several_shards_get_an_index(tmp_path: Path) -> None:
    """Names, index and sizes are as transformers writes them; a large tensor stands alone."""
    tensors: list[Named] = [
        ("a", F32, (2,)),
        ("huge", F32, (100,)),
        ("b", F32, (1,)),
        ("c", F32, (1,)),
    ]
    shards = layout(tensors, 16)
    assert [(s.file, list(s.offsets)) for s in shards] == [
        ("model-00001-of-00003.safetensors", ["a"]),
        ("model-00002-of-00003.safetensors", ["huge"]),
        ("model-00003-of-00003.safetensors", ["b", "c"]),
    ]
    create_files(tmp_path, shards)
    ((name, content),) = index_files(shards).items()
    assert name == "model.safetensors.index.json"
    assert content.decode() == (
        "{\n"
        '  "metadata": {\n    "total_size": 416\n  },\n'
        '  "weight_map": {\n'
        '    "a": "model-00001-of-00003.safetensors",\n'
        '    "b": "model-00003-of-00003.safetensors",\n'
        '    "c": "model-00003-of-00003.safetensors",\n'
        '    "huge": "model-00002-of-00003.safetensors"\n'
        "  }\n}\n"
    )
    (tmp_path / name).write_bytes(content)
    assert all((tmp_path / s.file).stat().st_size == s.size for s in shards)
    assert list(open_checkpoint(str(tmp_path)).tensors) == ["a", "huge", "b", "c"]


def test_payload_is_aligned() -> None:
    """The payload begins at a multiple of 8, each tensor at a multiple of its element's size."""
    tensors: list[Named] = [
        ("odd", U8, (3,)),
        ("w", F32, (1,)),
        ("i", I64, (1,)),
        ("h", BF16, (1,)),
    ]
    (shard,) = layout(tensors, 1000)
    assert len(shard.header) % 8 == 0
    assert list(shard.offsets) == ["i", "w", "h", "odd"]
    sizes = {name: dtype.itemsize for name, dtype, _ in tensors}
    assert all(offset % sizes[name] == 0 for name, offset in shard.offsets.items())


def test_order_is_kept_for_one_dtype() -> None:
    """Tensors of one dtype stay in the order given, whatever their names."""
    (shard,) = layout([(name, F32, (1,)) for name in "zebra"], 1000)
    assert "".join(shard.offsets) == "zebra"


def test_nothing_to_write(tmp_path: Path) -> None:
    """No tensors make one file without tensors, which the safetensors library reads."""
    shards = layout([], 10)
    create_files(tmp_path, shards)
    assert load_file(tmp_path / "model.safetensors") == {}
    assert index_files(shards) == {}


def test_other_stem(tmp_path: Path) -> None:
    """Diffusion models name their files otherwise; files and index follow the stem."""
    shards = layout([("a", F32, (1,)), ("b", F32, (1,))], 4, stem="diffusion_pytorch_model")
    create_files(tmp_path, shards)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "diffusion_pytorch_model-00001-of-00002.safetensors",
        "diffusion_pytorch_model-00002-of-00002.safetensors",
    ]
    assert list(index_files(shards)) == ["diffusion_pytorch_model.safetensors.index.json"]


def test_create_again_keeps_the_payload(tmp_path: Path) -> None:
    """A merge that was broken off is resumed: creating the same files again loses nothing."""
    shards = layout([("w", U8, (4,))], 1000)
    create_files(tmp_path, shards)
    fill(tmp_path, shards, {"w": b"kept"})
    create_files(tmp_path, shards)
    assert load_file(tmp_path / "model.safetensors")["w"].tobytes() == b"kept"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="space is reserved by Linux's fallocate")
def test_space_is_reserved(tmp_path: Path) -> None:
    """A file has its space before a byte of its payload is written, and a disk that is too small shows at once."""
    shards = layout([("w", U8, (2**22,))], 2**41)
    create_files(tmp_path, shards)
    assert (tmp_path / "model.safetensors").stat().st_blocks * 512 >= 2**22
    huge = layout([("w", U8, (2**50,))], 2**51, stem="huge")
    with pytest.raises(StorageError, match=r"huge\.safetensors.*\n  fix: "):
        create_files(tmp_path, huge)


def test_files_are_made_where_space_cannot_be_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without reservations gets the same files, of holes."""
    monkeypatch.setattr(storage, "_fallocate", lambda: None)
    shards = layout([("w", U8, (2**30,))], 2**41)
    create_files(tmp_path, shards)
    status = (tmp_path / "model.safetensors").stat()
    assert status.st_size == shards[0].size
    assert status.st_blocks * 512 < 2**20


def test_names_are_checked() -> None:
    """Two tensors of one name, and the name that the format keeps, are refused together."""
    with pytest.raises(CheckpointError) as caught:
        layout([("a", F32, ()), ("a", F32, ()), ("__metadata__", F32, ()), ("\ud800", F32, ())], 10)
    assert [p.tensor for p in caught.value.problems] == ["a", "__metadata__", "'\\ud800'"]
    with pytest.raises(CheckpointError, match="at least one byte"):
        layout([], 0)


def test_unwritable_folder_is_told(tmp_path: Path) -> None:
    """A file that cannot be created is an ExecutionError that names it."""
    with pytest.raises(ExecutionError, match=r"model\.safetensors"):
        create_files(tmp_path / "none", layout([], 10))


DTYPES_OF_NUMPY = {code: dtype for code, dtype in DTYPES.items() if dtype.numpy is not None and dtype.itemsize >= 1}
TENSORS = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda t: t.isprintable() and t != "__metadata__"),
    st.tuples(
        st.sampled_from(sorted(DTYPES_OF_NUMPY)),
        st.lists(st.sampled_from([0, 1, 2, 7]), max_size=3),
        st.randoms(use_true_random=False),
    ),
    max_size=6,
)


@settings(max_examples=100, deadline=None)
@given(tensors=TENSORS, shard_size=st.sampled_from([1, 64, 10_000]))
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    tensors: dict[str, tuple[str, list[int], Random]],
    shard_size: int,
) -> None:
    """What is written comes back, for any names, dtypes, shapes, bytes and shard size."""
    folder = tmp_path_factory.mktemp("round")
    named = [(name, DTYPES[code], tuple(shape)) for name, (code, shape, _) in tensors.items()]
    payload = {name: tensors[name][2].randbytes(dtype.nbytes(prod(shape))) for name, dtype, shape in named}
    shards = layout(named, shard_size)
    create_files(folder, shards)
    fill(folder, shards, payload)
    found = open_checkpoint(str(folder)).tensors
    assert {n: (t.dtype, t.shape) for n, t in found.items()} == {n: (d, s) for n, d, s in named}
    with PayloadReader(max_files=1) as reader:
        for name, ref in found.items():
            room = bytearray(ref.nbytes)
            reader.read(ref, 0, memoryview(room))
            assert room == payload[name]


def test_the_safetensors_library_reads_it(tmp_path: Path) -> None:
    """Files load with the reference library, with the values that were written."""
    arrays = {
        "f": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.arange(3, dtype=np.float32).astype(ml_dtypes.bfloat16),
        "u": np.arange(5, dtype=np.uint8),
    }
    codes = {"f": F32, "b": BF16, "u": U8}
    shards = layout([(n, codes[n], a.shape) for n, a in arrays.items()], 1000)
    create_files(tmp_path, shards)
    fill(tmp_path, shards, {n: a.tobytes() for n, a in arrays.items()})
    found = load_file(tmp_path / "model.safetensors")
    assert all(np.array_equal(found[n], a) and found[n].dtype == a.dtype for n, a in arrays.items())


def test_index_names_every_tensor_once() -> None:
    """The index maps each tensor to the file that holds it."""
    shards = layout([(f"t{i}", F32, (4,)) for i in range(10)], 40)
    index = json.loads(next(iter(index_files(shards).values())))
    assert index["metadata"]["total_size"] == 160
    assert index["weight_map"] == {n: s.file for s in shards for n in s.offsets}
