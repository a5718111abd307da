"""Models in several folders: pipelines and sentence-transformers with modules, merged whole or by component."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import stockpot as sp
from files import read_model, write_model
from stockpot.checkpoint.open import open_checkpoint
from stockpot.execute.reproduce import reproduce
from stockpot.execute.verify import verify

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

INDEX = {
    "_class_name": "StableDiffusionXLPipeline",
    "_diffusers_version": "0.30.0",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "image_encoder": [None, None],
}
CLIP = {
    "vocab_size": 96,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "eos_token_id": 2,
}
T5 = {"vocab_size": 96, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
UNET = {
    "conv_in.weight": (8, 4, 3, 3),
    "down_blocks.0.resnets.0.conv1.weight": (8, 8, 3, 3),
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight": (8, 8),
    "mid_block.resnets.0.conv1.weight": (8, 8, 3, 3),
    "conv_out.weight": (4, 8, 3, 3),
}
VAE = {"encoder.conv_in.weight": (8, 3, 3, 3), "decoder.conv_out.weight": (3, 8, 3, 3)}


def arrays(shapes, seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def text_encoders(seed):
    torch.manual_seed(seed)
    clip = transformers.CLIPTextModel(transformers.CLIPTextConfig(**CLIP))
    return clip, transformers.T5EncoderModel(transformers.T5Config(**T5))


def pipeline(folder, seed):
    """A folder as diffusers writes it; the autoencoder is in another dtype, the denoiser in two files."""
    for name, shapes, dtype, files in (("unet", UNET, np.float32, 2), ("vae", VAE, np.float16, 1)):
        made = write_model(folder / name, arrays(shapes, seed, dtype), files=files, config={"_class_name": name})
        for file in sorted(made.iterdir()):
            new = made / file.name.replace("model", "diffusion_pytorch_model")
            file.rename(new)
            if new.name.endswith(".index.json"):
                new.write_text(new.read_text().replace('"model-', '"diffusion_pytorch_model-'))
    for name, model in zip(("text_encoder", "text_encoder_2"), text_encoders(seed), strict=True):
        model.save_pretrained(folder / name)
    for name in ("tokenizer/vocab.json", "tokenizer/merges.txt", "scheduler/scheduler_config.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    (folder / "model_index.json").write_text(json.dumps(INDEX))
    (folder / "v1-5-pruned.ckpt").write_bytes(b"the same again")
    return folder


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    return [pipeline(tmp_path_factory.mktemp(f"pipeline-{seed}"), seed) for seed in range(2)]


WEIGHTS = ("unet", "vae", "text_encoder", "text_encoder_2")


def test_a_pipeline_is_one_model(pipelines):
    """Every tensor of every component, by folder and name; nothing else."""
    found = open_checkpoint(str(pipelines[0]))
    expected = {f"{part}/{name}" for part in WEIGHTS for name in read_model(pipelines[0] / part)}
    assert set(found.tensors) == expected
    assert {fact["name"].partition("/")[0] for fact in found.identity["files"]} == set(WEIGHTS)


def test_a_pipeline_is_merged_component_by_component(pipelines, tmp_path):
    """The result is a pipeline: every component's weights, configs, tokenizer, scheduler and index; it loads."""
    a, b = map(sp.open, pipelines)
    sp.save(0.25 * a + 0.75 * b, tmp_path / "out", shard_size=4_000)
    out = tmp_path / "out"
    for part in WEIGHTS:
        made, one, two = (read_model(folder / part) for folder in (out, *pipelines))
        assert made.keys() == one.keys()
        for name, value in made.items():
            expected = 0.25 * one[name].astype(np.float64) + 0.75 * two[name].astype(np.float64)
            assert value.tobytes() == expected.astype(one[name].dtype).tobytes()
        assert json.loads((out / part / "config.json").read_text()) == {
            k: v
            for k, v in json.loads((pipelines[0] / part / "config.json").read_text()).items()
            if k != "_name_or_path"
        }
    for name in ("model_index.json", "tokenizer/vocab.json", "tokenizer/merges.txt", "scheduler/scheduler_config.json"):
        assert (out / name).read_bytes() == (pipelines[0] / name).read_bytes()
    assert not list(out.glob("*.safetensors"))
    assert not list(out.glob("*.ckpt"))
    assert (out / "unet" / "diffusion_pytorch_model.safetensors.index.json").exists()
    for part, cls in (("text_encoder", transformers.CLIPTextModel), ("text_encoder_2", transformers.T5EncoderModel)):
        _, info = cls.from_pretrained(out / part, output_loading_info=True)
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert verify(out) == ()
    assert reproduce(out, tmp_path / "again").differences == ()


def test_one_component_by_filter(pipelines, tmp_path):
    """``filter: unet/`` takes a value for the denoiser alone; the others are the base's, byte for byte."""
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(pipelines[0]),
        "models": [
            {"model": str(pipelines[1]), "parameters": {"weight": [{"filter": "unet/", "value": 0.5}, {"value": 0.0}]}}
        ],
    }
    (tmp_path / "recipe.yml").write_text(json.dumps(recipe))
    sp.merge(tmp_path / "recipe.yml", tmp_path / "out")
    for part in WEIGHTS:
        made, base = read_model(tmp_path / "out" / part), read_model(pipelines[0] / part)
        same = [made[name].tobytes() == base[name].tobytes() for name in base]
        assert not any(same) if part == "unet" else all(same)


def test_one_component_by_path(pipelines, tmp_path):
    """A component's folder is a model of its own, and so is the result."""
    a, b = (sp.open(folder / "unet") for folder in pipelines)
    sp.save(sp.slerp(a, b, t=0.5), tmp_path / "out")
    assert set(read_model(tmp_path / "out")) == set(UNET)
    assert (tmp_path / "out" / "config.json").exists()
    assert not (tmp_path / "out" / "model_index.json").exists()


def test_verify_sees_every_component(pipelines, tmp_path):
    """A changed byte, a missing file, one file more, a changed setting: each is named with its folder."""
    sp.save(sp.linear(*map(sp.open, pipelines)), tmp_path / "out")
    out = tmp_path / "out"

    def broken(change):
        shutil.rmtree(tmp_path / "broken", ignore_errors=True)
        shutil.copytree(out, tmp_path / "broken")
        change(tmp_path / "broken")
        return "\n".join(verify(tmp_path / "broken"))

    def flip(folder):
        path = folder / "vae" / "diffusion_pytorch_model.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    assert broken(flip) == "vae/decoder.conv_out.weight: its bytes have changed"
    assert "unet/diffusion_pytorch_model.safetensors: missing" in broken(
        lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    )
    assert broken(lambda f: (f / "unet" / "extra.safetensors").write_bytes(b"x")) != ""
    assert "scheduler/scheduler_config.json" in broken(
        lambda f: (f / "scheduler" / "scheduler_config.json").write_text("x")
    )


def test_a_pipeline_that_was_broken_off_continues(pipelines, tmp_path, monkeypatch):
    """What was finished is kept, in whatever folder it lies; an output is replaced whole with --overwrite."""
    from stockpot.execute import local

    a, b = map(sp.open, pipelines)
    real, calls = local.make_receipt, []

    def once(*given):
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(local, "make_receipt", once)
    with pytest.raises(KeyboardInterrupt):
        sp.save(sp.linear(a, b), tmp_path / "out")
    result = sp.save(sp.linear(a, b), tmp_path / "out")
    assert result.resumed == len(result.receipt["tensors"])
    with pytest.raises(sp.PlanError, match="the output exists"):
        sp.save(sp.linear(b, a), tmp_path / "out")
    sp.save(sp.linear(b, a), tmp_path / "out", overwrite=True)
    assert verify(tmp_path / "out") == ()


def test_layers_of_a_component_are_stacked_and_counted_in_its_config(pipelines, tmp_path):
    """A text encoder of three layers in the pipeline: its own config says so, and it loads."""
    stack = next(
        s
        for s in ("text_encoder/text_model.encoder.layers", "text_encoder/encoder.layers")
        if any(n.startswith(s) for n in open_checkpoint(str(pipelines[0])).tensors)
    )
    a = sp.open(pipelines[0])
    sp.save(sp.stack(sp.layers(a, 0, 2, stack=stack), sp.layers(a, 1, 2, stack=stack)), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "text_encoder" / "config.json").read_text())["num_hidden_layers"] == 3
    _, info = transformers.CLIPTextModel.from_pretrained(tmp_path / "out" / "text_encoder", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert json.loads((tmp_path / "out" / "text_encoder_2" / "config.json").read_text())["num_layers"] == 2


def test_a_component_that_one_pipeline_lacks_is_named(pipelines, tmp_path):
    """Nothing is dropped: the error names the tensors."""
    less = shutil.copytree(pipelines[1], tmp_path / "less")
    shutil.rmtree(less / "text_encoder_2")
    with pytest.raises(sp.PlanError, match=r"lacks .* text_encoder_2/"):
        sp.plan(sp.linear(sp.open(pipelines[0]), sp.open(less)))


def test_a_damaged_component_is_named(pipelines, tmp_path):
    """Opening tells the file, of whatever component."""
    less = shutil.copytree(pipelines[1], tmp_path / "less")
    (less / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"short")
    with pytest.raises(sp.CheckpointError, match="vae"):
        sp.plan(sp.open(less) + 0.0 * (sp.open(less) - sp.open(less)))


@pytest.mark.parametrize("text", ["[1]", "{", '{"unet": ["a", "b"], "../x": ["a", "b"], ".git": ["a", "b"]}'])
def test_an_odd_index_is_only_a_file(text, tmp_path):
    """Names that climb out, or what is no index: nothing outside is opened, the weights there are are the model."""
    write_model(tmp_path / "inner", arrays(VAE, 0), config={"model_type": "x"})
    write_model(tmp_path / "x", arrays(VAE, 0))
    (tmp_path / "inner" / "model_index.json").write_text(text)
    assert set(open_checkpoint(str(tmp_path / "inner")).tensors) == set(VAE)


def sentence_transformer(folder, seed, *, dense=True):
    """A folder as sentence-transformers writes it: BERT, pooling, and a dense layer with weights of its own."""
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=96, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    transformers.BertModel(config).save_pretrained(folder)
    modules = [
        ("", "Transformer"),
        ("1_Pooling", "Pooling"),
        *([("2_Dense", "Dense")] if dense else []),
        ("3_Normalize", "Normalize"),
    ]
    listed = [
        {"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{t}"}
        for i, (p, t) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "config_sentence_transformers.json").write_text("{}")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 16}')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    if dense:
        weights = arrays({"linear.weight": (8, 16), "linear.bias": (8,)}, seed)
        write_model(folder / "2_Dense", weights, config={"in_features": 16, "out_features": 8})
        (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"the same in another format")
    return folder


def test_sentence_transformers_with_a_dense_module(tmp_path):
    """Transformer and dense layer are merged; every small file is there, no stale weights are; it loads."""
    folders = [sentence_transformer(tmp_path / str(seed), seed) for seed in range(2)]
    sp.save(sp.linear(*map(sp.open, folders)), tmp_path / "out")
    out = tmp_path / "out"
    one, two = (read_model(folder / "2_Dense") for folder in folders)
    assert np.allclose(read_model(out / "2_Dense")["linear.weight"], (one["linear.weight"] + two["linear.weight"]) / 2)
    written = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert written == {
        "README.md", "stockpot-receipt.json", "config.json", "model.safetensors", "modules.json",
        "config_sentence_transformers.json", "sentence_bert_config.json", "1_Pooling/config.json",
        "2_Dense/config.json", "2_Dense/model.safetensors",
    }  # fmt: skip
    assert all(
        (out / n).read_bytes() == (folders[0] / n).read_bytes() for n in written if n.startswith(("modules", "1_"))
    )
    _, info = transformers.AutoModel.from_pretrained(out, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert verify(out) == ()
    assert reproduce(out, tmp_path / "again").differences == ()


def test_sentence_transformers_without_weights_of_their_own(tmp_path):
    """Pooling and normalising have none: the model is the transformer, the modules' files are copied."""
    folders = [sentence_transformer(tmp_path / str(seed), seed, dense=False) for seed in range(2)]
    sp.save(sp.linear(*map(sp.open, folders)), tmp_path / "out")
    assert (tmp_path / "out" / "1_Pooling" / "config.json").exists()
    assert set(read_model(tmp_path / "out")) == set(read_model(folders[0]))


def test_a_plain_state_dict_and_a_timm_file(tmp_path):
    """A .pth of torch.save, bare or wrapped, and a timm ViT's file merge by name with each other."""
    state = {
        "cls_token": torch.randn(1, 1, 8),
        "pos_embed": torch.randn(1, 5, 8),
        "patch_embed.proj.weight": torch.randn(8, 3, 4, 4),
        **{f"blocks.{i}.attn.qkv.weight": torch.randn(24, 8) for i in range(3)},
        "norm.weight": torch.randn(8),
        "head.weight": torch.randn(10, 8),
    }
    other = {name: torch.randn_like(value) for name, value in state.items()}
    torch.save(state, tmp_path / "a.pth")
    torch.save({"state_dict": other, "epoch": 3}, tmp_path / "b.pt")
    from safetensors.torch import save_file

    save_file(other, tmp_path / "vit.safetensors")
    for second in ("b.pt", "vit.safetensors"):
        made = sp.compute(sp.linear(sp.open(tmp_path / "a.pth"), sp.open(tmp_path / second)))
        assert made.keys() == state.keys()
        for name, value in made.items():
            assert np.allclose(value, (state[name] + other[name]) / 2)
    plan = sp.plan(sp.slerp(sp.open(tmp_path / "a.pth"), sp.open(tmp_path / "vit.safetensors"), t=[0.0, 1.0]))
    found = {step.name: step.source.resolved.one["t"] for step in plan.steps}
    assert [found[f"blocks.{i}.attn.qkv.weight"] for i in range(3)] == [0.0, 0.5, 1.0]
    assert (found["patch_embed.proj.weight"], found["head.weight"]) == (0.0, 1.0)
    sp.save(
        sp.stack(sp.layers(sp.open(tmp_path / "a.pth"), 0, 3), sp.layers(sp.open(tmp_path / "b.pt"), 2, 3)),
        tmp_path / "out",
    )
    assert sum(name.startswith("blocks.") for name in read_model(tmp_path / "out")) == 4
