"""Opening checkpoints: every layout in the wild, and every way in which one can be broken."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import pytest

from stockpot.checkpoint import open_checkpoint, read_header
from stockpot.errors import CheckpointError, Problem, UnsupportedError

Save = Callable[..., Path]


def ones(*names: str) -> dict[str, np.ndarray[Any, Any]]:
    """Small tensors of these names."""
    return {name: np.ones(2, np.float32) for name in names}


def problem_of(reference: str | Path, **options: Any) -> Problem:
    """The first problem with which opening fails."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(reference), offline=True, **options)
    return caught.value.problems[0]


@pytest.fixture
def model(tmp_path: Path, save_folder: Save) -> Path:
    """A model in three shards, listed in an order that is not theirs."""
    return save_folder(
        tmp_path / "model",
        {
            "model-00003-of-00003.safetensors": ones("z"),
            "model-00001-of-00003.safetensors": ones("a", "b"),
            "model-00002-of-00003.safetensors": ones("m"),
        },
        torch_dtype="float32",
    )


def test_sharded_folder(model: Path) -> None:
    """Shards come in natural order; config, files and identity describe the folder."""
    found = open_checkpoint(str(model))
    assert list(found.tensors) == ["a", "b", "m", "z"]
    assert found.label == str(model)
    assert found.folder == model
    assert found.config["torch_dtype"] == "float32"
    assert [f.name for f in found.files] == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert found.identity == {
        "reference": str(model),
        "path": str(model),
        "revision": None,
        "files": [{"name": f.name, "bytes": f.stat().st_size, "header_xxh3": read_header(f).xxh3} for f in found.files],
    }
    ref = found.tensors["b"]
    raw = Path(ref.file or "").read_bytes()[ref.offset : ref.offset + ref.nbytes]
    assert np.frombuffer(raw, np.float32).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["model.safetensors"], ["model.safetensors"]),
        (
            ["model.safetensors", "consolidated.safetensors", "pytorch_model.bin"],
            ["model.safetensors"],
        ),
        (
            ["diffusion_pytorch_model.safetensors", "other.safetensors"],
            ["diffusion_pytorch_model.safetensors"],
        ),
        (["consolidated.safetensors"], ["consolidated.safetensors"]),
        (["consolidated.safetensors", "weights.safetensors"], ["weights.safetensors"]),
        (["my-merge.safetensors"], ["my-merge.safetensors"]),
        (
            ["model-10.safetensors", "model-9.safetensors"],
            ["model-9.safetensors", "model-10.safetensors"],
        ),
        (["model.safetensors", "adapter_model.safetensors"], ["model.safetensors"]),
        (["weights.safetensors", "optimizer.safetensors"], ["weights.safetensors"]),
    ],
)
def test_which_files_of_a_folder(tmp_path: Path, save: Save, files: list[str], chosen: list[str]) -> None:
    """What transformers or diffusers would load is opened; shards without an index are united."""
    for name in files:
        save(tmp_path / name, ones(f"in {name}"))
    found = open_checkpoint(str(tmp_path))
    assert [f.name for f in found.files] == chosen
    assert list(found.tensors) == [f"in {name}" for name in chosen]


def test_index_of_a_diffusion_model(tmp_path: Path, save: Save) -> None:
    """The index of another stem is followed, and files that it does not name are left alone."""
    save(tmp_path / "diffusion_pytorch_model-00001-of-00001.safetensors", ones("x"))
    save(tmp_path / "leftover.safetensors", ones("y"))
    index = {"weight_map": {"x": "diffusion_pytorch_model-00001-of-00001.safetensors"}}
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert list(open_checkpoint(str(tmp_path)).tensors) == ["x"]


def test_single_file(tmp_path: Path, save: Save) -> None:
    """One file is a checkpoint; its folder counts only when a config lies there."""
    path = save(tmp_path / "x.safetensors", ones("w"))
    assert open_checkpoint(str(path)).folder is None
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    found = open_checkpoint(str(path))
    assert found.folder == tmp_path
    assert found.config == {"model_type": "gpt2"}


def test_content_decides_not_the_name(tmp_path: Path, save: Save) -> None:
    """A safetensors file under another name is still read as one."""
    path = save(tmp_path / "weights.bin", ones("w"))
    assert list(open_checkpoint(str(path)).tensors) == ["w"]


def test_relative_paths(tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is tried below the recipe's folder first, then below the working directory."""
    save(tmp_path / "recipes" / "m.safetensors", ones("by recipe"))
    save(tmp_path / "m.safetensors", ones("by cwd"))
    save(tmp_path / "n.safetensors", ones("by cwd"))
    monkeypatch.chdir(tmp_path)
    recipes = str(tmp_path / "recipes")
    assert list(open_checkpoint("m.safetensors", folder=recipes).tensors) == ["by recipe"]
    assert list(open_checkpoint("n.safetensors", folder=recipes).tensors) == ["by cwd"]
    assert list(open_checkpoint("m.safetensors").tensors) == ["by cwd"]
    assert Path(open_checkpoint("m.safetensors").identity["path"]).is_absolute()


def test_home_folder(tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    """``~`` is the home folder."""
    save(tmp_path / "m.safetensors", ones("w"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert list(open_checkpoint("~/m.safetensors").tensors) == ["w"]


@pytest.mark.parametrize("reference", ["", "./none", "none.safetensors", "a/b/c", "D:/models/x", "/none", "nul\0byte"])
def test_what_is_no_path_and_no_hub_id(reference: str) -> None:
    """A misspelt path is told at once, without asking any server; the recipe's line is named."""
    problem = problem_of(reference, line=12)
    assert "no such file or folder" in problem.message
    assert problem.line == 12


def test_quantised_config_is_kept(tmp_path: Path, save: Save) -> None:
    """Whether a quantised checkpoint can be merged is the planner's decision."""
    save(tmp_path / "model.safetensors", ones("w"))
    config = {"quantization_config": {"quant_method": "gptq"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(str(tmp_path)).config == config


def test_missing_shards_are_told_together(model: Path) -> None:
    """Every missing or truncated shard is named in one error."""
    (model / "model-00001-of-00003.safetensors").unlink()
    os.truncate(model / "model-00003-of-00003.safetensors", 40)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(model), line=4)
    first, second = caught.value.problems
    assert "missing" in first.message
    assert first.file == str(model / "model-00001-of-00003.safetensors")
    assert "longer than the file" in second.message or "truncated" in second.message
    assert {first.line, second.line} == {4}


def test_index_and_shard_disagree(model: Path, save: Save) -> None:
    """A tensor that the index puts in a shard which lacks it is named."""
    save(model / "model-00001-of-00003.safetensors", ones("a"))
    problem = problem_of(model)
    assert (problem.tensor, "puts it here" in problem.message) == ("b", True)


def test_tensors_that_the_index_leaves_out(model: Path, save: Save) -> None:
    """A shard's tensors that the index does not list are part of the model."""
    save(model / "model-00002-of-00003.safetensors", ones("m", "extra"))
    assert list(open_checkpoint(str(model)).tensors) == ["a", "b", "m", "extra", "z"]


def test_name_in_two_shards(model: Path, save: Save) -> None:
    """A name in two files is refused: which one is meant cannot be told."""
    save(model / "model-00002-of-00003.safetensors", ones("m", "a", "b"))
    problem = problem_of(model)
    assert problem.tensor == "a"
    assert "1 more" in problem.message
    assert "model-00001-of-00003" in problem.message


@pytest.mark.parametrize(
    "name",
    [
        "/etc/model.safetensors",
        "../x.safetensors",
        "a/../../x.safetensors",
        "C:\\x.safetensors",
        "..\\x",
    ],
)
def test_index_that_leaves_the_folder(tmp_path: Path, save: Save, name: str) -> None:
    """An index may not name a file outside its folder, even one that exists."""
    folder = tmp_path / "model"
    folder.mkdir()
    save(tmp_path / "x.safetensors", ones("w"))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    assert "outside its folder" in problem_of(folder).message


def test_link_that_leaves_the_folder(model: Path, tmp_path: Path) -> None:
    """A shard that is a link to a file elsewhere is refused; a link inside the folder is not."""
    shard = model / "model-00002-of-00003.safetensors"
    shard.rename(model / "real.safetensors")
    shard.symlink_to("real.safetensors")
    assert "m" in open_checkpoint(str(model)).tensors
    (model / "real.safetensors").rename(tmp_path / "real.safetensors")
    shard.unlink()
    shard.symlink_to(tmp_path / "real.safetensors")
    assert "leads out of its folder" in problem_of(model).message


def in_hub_cache(model: Path, cache: Path) -> Path:
    """The model moved to a cache laid out as the hub's library does: links into blobs."""
    repository = cache / "models--org--name"
    snapshot = repository / "snapshots" / ("0123456789" * 4)
    (repository / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(model.iterdir())):
        file.rename(repository / "blobs" / f"blob{number}")
        (snapshot / file.name).symlink_to(f"../../blobs/blob{number}")
    return snapshot


def test_links_of_the_hub_cache(model: Path, tmp_path: Path) -> None:
    """The hub's cache is links into its blobs: those are followed, and the commit is known."""
    snapshot = in_hub_cache(model, tmp_path / "cache")
    found = open_checkpoint(str(snapshot))
    assert list(found.tensors) == ["a", "b", "m", "z"]
    assert found.identity["revision"] == "0123456789" * 4
    shard = snapshot / "model-00002-of-00003.safetensors"
    shard.unlink()
    assert "run once with network" in (problem_of(snapshot).fix or "")
    shard.symlink_to("/etc/hostname")
    assert "leads out" in problem_of(snapshot).message


def test_forged_blobs_folder(model: Path, tmp_path: Path) -> None:
    """Blobs that are themselves a link to elsewhere do not open a way out."""
    snapshot = in_hub_cache(model, tmp_path / "cache")
    blobs = snapshot.parent.parent / "blobs"
    shutil.move(blobs, tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    assert "leads out" in problem_of(snapshot).message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ("{}", "no weight_map"),
        ('{"weight_map": {}}', "names no tensor"),
        ('{"weight_map": {"a": 1}}', "no weight_map"),
        ('{"weight_map": {"a": ""}}', "outside its folder"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_broken_index(tmp_path: Path, content: str, words: str) -> None:
    """An index that is none is told as such."""
    (tmp_path / "model.safetensors.index.json").write_text(content)
    assert words in problem_of(tmp_path).message


def test_absurd_shard_names(tmp_path: Path) -> None:
    """Names that no file system takes are missing files, not crashes."""
    index = {"weight_map": {"a": "9" * 5000, "b": "nul\0"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "missing" in problem_of(tmp_path).message


def test_broken_config(tmp_path: Path, save: Save) -> None:
    """A config that is no JSON object is told with its file."""
    save(tmp_path / "model.safetensors", ones("w"))
    (tmp_path / "config.json").write_text("{...")
    problem = problem_of(tmp_path)
    assert "not valid JSON" in problem.message
    assert problem.file == str(tmp_path / "config.json")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
def test_adapter_folder(tmp_path: Path, name: str) -> None:
    """An adapter's folder is understood, and told not to be a whole model."""
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(UnsupportedError, match="adapter") as caught:
        open_checkpoint(str(tmp_path), line=3)
    assert caught.value.problems[0].line == 3


def test_adapter_file(tmp_path: Path, save: Save) -> None:
    """An adapter's file is refused like its folder: averaging A and B separately would be wrong."""
    path = save(tmp_path / "adapter_model.safetensors", ones("lora_A.weight"))
    with pytest.raises(UnsupportedError, match="adapter"):
        open_checkpoint(str(path))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("weights.bin", b"lmgg\x01\0\0\0", "GGML"),
        ("tf_model.h5", b"\x89HDF\r\n\x1a\n", "Keras"),
    ],
)
def test_foreign_formats(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    """Known formats that are not read are called by their names, as file and as folder."""
    (tmp_path / name).write_bytes(content)
    for reference in (tmp_path / name, tmp_path):
        with pytest.raises(UnsupportedError, match=words):
            open_checkpoint(str(reference))


def test_no_weights(tmp_path: Path, save: Save) -> None:
    """A folder without weights is told, with those of its folders that hold some."""
    assert "no weights" in problem_of(tmp_path).message
    (tmp_path / "training_args.bin").write_bytes(b"x")
    (tmp_path / "optimizer.pt").write_bytes(b"x")
    assert "no weights" in problem_of(tmp_path).message
    save(tmp_path / "unet" / "diffusion_pytorch_model.safetensors", ones("w"))
    assert "unet" in (problem_of(tmp_path).fix or "")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipe_does_not_hang(tmp_path: Path) -> None:
    """A named pipe without a writer is refused, not waited for."""
    os.mkfifo(tmp_path / "weights.bin")
    assert "not a regular file" in problem_of(tmp_path / "weights.bin").message
    assert "not a regular file" in problem_of(tmp_path).message


def test_unknown_file(tmp_path: Path) -> None:
    """A file that is nothing we know is told so, whatever its name says."""
    for content in (b"", b"\x80", b"\0\x01hello, this is no checkpoint", b"<!DOCTYPE html>"):
        (tmp_path / "weights.bin").write_bytes(content)
        assert "not a checkpoint" in problem_of(tmp_path / "weights.bin").message


@pytest.fixture
def stranger() -> Iterator[None]:
    """Run as a user who may not read what others protect (root may read everything)."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def open_way(model: Path) -> None:
    """Let others pass through the folders that pytest made for a test."""
    for above in model.parents:
        if above == Path(gettempdir()):
            return
        above.chmod(0o755)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no Unix permissions")
def test_no_permission(model: Path, request: pytest.FixtureRequest) -> None:
    """A file, and a folder, that may not be read are told as such."""
    open_way(model)
    (model / "model-00001-of-00003.safetensors").chmod(0)
    request.getfixturevalue("stranger")
    problem = problem_of(model)
    assert "no permission" in problem.message
    assert problem.file == str(model / "model-00001-of-00003.safetensors")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no Unix permissions")
def test_no_permission_for_the_folder(model: Path, request: pytest.FixtureRequest) -> None:
    """A folder that may not be searched is told as such, not as a hub id."""
    open_way(model)
    model.chmod(0)
    request.getfixturevalue("stranger")
    try:
        assert "no permission" in problem_of(model).message
    finally:
        if os.geteuid() == 65534:
            os.seteuid(0)
        model.chmod(0o755)


def test_real_adapters_and_foreign_files(shared: Path) -> None:
    """Real files: LoRA adapters and a Keras model are told what they are."""
    weights = shared / "data" / "weights"
    with pytest.raises(UnsupportedError, match="adapter"):
        open_checkpoint(str(weights / "lora_gpt2_domains" / "legal"))
    assert "legal, medical, sports" in (problem_of(weights / "lora_gpt2_domains").fix or "")
    with pytest.raises(UnsupportedError, match="Keras"):
        open_checkpoint(str(weights / "mobilenet_v1_0.25_224_imagenet.h5"))
    assert "not a checkpoint" in problem_of(weights / "stories260K" / "stories260K.bin").message
