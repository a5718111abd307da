"""Adapters in a single file are the changes that their trainers describe, found by name, nothing left out."""

from __future__ import annotations

import json
import struct

import ml_dtypes
import numpy as np
import pytest
from single_files import (
    CONV,
    CONV_BIAS,
    ENCODER,
    K0,
    NORM,
    PROJ_IN,
    PROJ_OUT,
    TO_OUT,
    TO_Q,
    UNET,
    change,
    flat,
    loha,
    loha_with_cores,
    lokr,
    lora,
    lora_with_core,
    normal,
    write_component,
    write_table,
)

import stockpot as sp
from files import read_model, write_file
from reference import same_bytes
from stockpot.architecture.lora import lora_of
from stockpot.checkpoint.adapters import open_adapter
from stockpot.checkpoint.reader import PayloadReader
from stockpot.cli.main import main
from stockpot.execute.evaluators import evaluator_of
from stockpot.execute.workspace import Workspace
from stockpot.planning.adapters.adapted import change_of
from stockpot.planning.blocks import grid_of


@pytest.fixture
def rng():
    return np.random.default_rng(17)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working directory, with the component unet."""
    monkeypatch.chdir(tmp_path)
    write_component(tmp_path / "unet", dtype=np.float64)
    return tmp_path


def folded(place, base="unet", adapter="style.safetensors", **limits):
    return sp.compute(sp.open(base, adapter=adapter), **limits)


def refused(place, base="unet", adapter="style.safetensors", error=sp.StockpotError):
    with pytest.raises(error) as caught:
        sp.plan(sp.open(base, adapter=adapter))
    return caught.value


def kohya(name):
    return "lora_unet_" + flat(name.removesuffix(".weight"))


KINDS = {
    "lora": (TO_Q, lora, {}),
    "lora of a convolution": (CONV, lora, {}),
    "lora of a 1x1 convolution": (PROJ_IN, lora, {}),
    "lora with a core": (CONV, lora_with_core, {}),
    "loha": (TO_Q, loha, {}),
    "loha of a convolution": (CONV, loha, {}),
    "loha with cores": (CONV, loha_with_cores, {}),
    "lokr": (TO_Q, lokr, {}),
    "lokr of factors": (TO_Q, lokr, {"one": False, "two": False}),
    "lokr, right of factors": (TO_Q, lokr, {"two": False, "factor": 4}),
    "lokr, left of factors": (TO_Q, lokr, {"one": False, "factor": 4}),
    "lokr of a convolution": (CONV, lokr, {}),
    "lokr of a convolution, of factors": (CONV, lokr, {"two": False}),
    "lokr with a core": (CONV, lokr, {"two": False, "core": True}),
}


@pytest.mark.parametrize("alpha", [None, 1.5])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind(place, rng, name, alpha):
    """The weight gets alpha / rank times the change, in float64; without an alpha the scale is 1; the rest stays."""
    tensor, make, more = KINDS[name]
    shape = UNET[tensor]
    parts = make(rng, *shape, **more)
    module = kohya(tensor)
    write_table(place / "style.safetensors", {module: parts}, {} if alpha is None else {module: alpha})
    base, found = read_model(place / "unet"), folded(place)
    np.testing.assert_allclose(found[tensor], base[tensor] + change(parts, shape, alpha), rtol=1e-13, atol=1e-13)
    assert not np.array_equal(found[tensor], base[tensor])
    assert found.keys() == base.keys()
    assert same_bytes({n: v for n, v in found.items() if n != tensor}, {n: v for n, v in base.items() if n != tensor})


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_rounded_once(tmp_path, monkeypatch, rng, dtype):
    """In the base's dtype the sum is rounded once, whatever the adapter's dtype is."""
    monkeypatch.chdir(tmp_path)
    base = write_component(tmp_path / "unet", dtype=dtype)
    parts = {k: v.astype(np.float16) for k, v in lokr(rng, *UNET[TO_Q]).items()}
    write_table(tmp_path / "style.safetensors", {kohya(TO_Q): parts})
    exact = base[TO_Q].astype(np.float64) + change(parts, UNET[TO_Q])
    assert np.array_equal(folded(tmp_path)[TO_Q], exact.astype(dtype))


@pytest.mark.parametrize("name", ["loha", "loha with cores", "lokr", "lokr with a core", "lora with a core"])
def test_the_same_bytes_however_it_is_cut(tmp_path, monkeypatch, rng, name):
    """Threads and where blocks begin change no bit."""
    from stockpot.planning import blocks

    monkeypatch.chdir(tmp_path)
    _, make, more = KINDS[name]
    shape = (60, 14, 3, 5) if "core" in name else (90, 70)
    write_component(tmp_path / "unet", {"w.weight": shape})
    write_table(tmp_path / "style.safetensors", {"lora_unet_w": make(rng, *shape, **more)})
    first = folded(tmp_path)
    for size, threads in ((1, 1), (64, 2), (997, 3)):
        monkeypatch.setattr(blocks, "BLOCK", size)
        assert same_bytes(folded(tmp_path, threads=threads), first), size


@pytest.mark.parametrize("name", KINDS)
def test_the_change_itself(place, rng, name):
    """Without a weight, the change is computed alone: an operand like any other."""
    tensor, make, more = KINDS[name]
    shape, parts = UNET[tensor], make(rng, *UNET[tensor], **more)
    write_table(place / "style.safetensors", {kohya(tensor): parts}, {kohya(tensor): 2.0})
    lora_file = lora_of(open_adapter("style.safetensors"))
    (module,) = (*lora_file.modules.values(), *lora_file.products.values())
    node = change_of(module, shape).on(None, shape, "style", tensor)
    grid = grid_of(node, shape)
    out = np.empty(grid.elements)
    with PayloadReader() as reader:
        evaluator = evaluator_of(node, grid, reader, {})
        for start in range(0, grid.elements, 50):
            part = out[start : start + 50]
            assert not evaluator.compute(start, part.size, Workspace(), part.view(np.uint8), 0)
    np.testing.assert_allclose(out.reshape(shape), change(parts, shape, 2.0), rtol=1e-13, atol=1e-13)


def test_whole_differences(place, rng):
    """``diff``, ``diff_b``, ``w_norm`` and ``b_norm`` are added as they are."""
    parts = {
        kohya(CONV): {"diff": normal(rng, *UNET[CONV]), "diff_b": normal(rng, 8)},
        kohya(NORM): {"w_norm": normal(rng, 6)},
        kohya(TO_OUT): lora(rng, *UNET[TO_OUT]) | {"diff_b": normal(rng, 8)},
    }
    write_table(place / "style.safetensors", parts)
    base, found = read_model(place / "unet"), folded(place)
    for name, own in ((CONV, "diff"), (CONV_BIAS, "diff_b")):
        assert np.array_equal(found[name], base[name] + parts[kohya(CONV)][own])
    assert np.array_equal(found[NORM], base[NORM] + parts[kohya(NORM)]["w_norm"])
    assert not np.array_equal(found[TO_OUT], base[TO_OUT])


@pytest.mark.parametrize("tensor", [TO_Q, CONV])
def test_dora(place, rng, tensor):
    """``dora_scale`` gives the weights of each output that length."""
    shape = UNET[tensor]
    parts = lora(rng, *shape)
    lengths = np.abs(normal(rng, shape[0], *(1 for _ in shape[1:]))) + 0.5
    write_table(place / "style.safetensors", {kohya(tensor): parts | {"dora_scale": lengths}})
    total = read_model(place / "unet")[tensor] + change(parts, shape)
    norms = np.sqrt((total**2).reshape(len(total), -1).sum(1)).reshape(lengths.shape)
    np.testing.assert_allclose(folded(place)[tensor], total * lengths / norms, rtol=1e-12)


SPELLINGS = {
    "kohya": ("lora_unet_" + flat(TO_OUT[:-7]), "lora_down.weight", "lora_up.weight"),
    "lycoris": ("lycoris_" + flat(TO_OUT[:-7]), "lora_down.weight", "lora_up.weight"),
    "diffusers": ("unet." + TO_OUT[:-7], "lora_A.weight", "lora_B.weight"),
    "diffusers, of old": ("unet." + TO_OUT[:-7], "lora.down.weight", "lora.up.weight"),
    "without a component": (TO_OUT[:-7], "lora_A.weight", "lora_B.weight"),
    "peft": ("base_model.model." + TO_OUT[:-7], "lora_A.weight", "lora_B.weight"),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling(place, rng, name):
    """Trainers write the same change under many names."""
    module, down, up = SPELLINGS[name]
    parts = lora(rng, *UNET[TO_OUT])
    write_file(
        place / "s.safetensors",
        {f"{module}.{down}": parts["lora_down.weight"]} | {f"{module}.{up}": parts["lora_up.weight"]},
    )
    expected = read_model(place / "unet")[TO_OUT] + change(parts, UNET[TO_OUT])
    np.testing.assert_allclose(folded(place, adapter="s.safetensors")[TO_OUT], expected, rtol=1e-13)


def test_attention_processors(place, rng):
    """Of diffusers' first adapters: ``attn1.processor.to_out_lora`` is that of ``attn1.to_out.0``."""
    parts = lora(rng, *UNET[TO_OUT])
    start = TO_OUT.removesuffix(".to_out.0.weight")
    names = {f"unet.{start}.processor.to_out_lora.{k}.weight": parts[f"lora_{k}.weight"] for k in ("down", "up")}
    write_file(place / "style.safetensors", names)
    expected = read_model(place / "unet")[TO_OUT] + change(parts, UNET[TO_OUT])
    np.testing.assert_allclose(folded(place)[TO_OUT], expected, rtol=1e-13)


def test_a_linear_layer_written_as_a_convolution(place, rng):
    """A 1×1 kernel more or less in the adapter than in the base is the same change."""
    one, other = lora(rng, 10, 8), lora(rng, 10, 8, 1, 1)
    write_table(place / "style.safetensors", {kohya(PROJ_IN): one, kohya(PROJ_OUT): other})
    base, found = read_model(place / "unet"), folded(place)
    for name, parts in ((PROJ_IN, one), (PROJ_OUT, other)):
        np.testing.assert_allclose(found[name], base[name] + change(parts, UNET[name]), rtol=1e-13)


def test_settings_in_the_header(place, rng):
    """Where diffusers wrote PEFT's settings into the header, they tell the scale; a wrong rank is told."""
    parts = lora(rng, *UNET[TO_Q])
    for rank, alpha in ((3, 6), (5, 6)):
        settings = {"unet.r": rank, "unet.lora_alpha": alpha, "unet.peft_type": "LORA", "unet.target_modules": ["to_q"]}
        names = {"lora_A": parts["lora_down.weight"], "lora_B": parts["lora_up.weight"]}
        with_header(place, {f"unet.{TO_Q[:-7]}.{k}.weight": v for k, v in names.items()}, settings)
        if rank == 3:
            expected = read_model(place / "unet")[TO_Q] + 2 * change(parts, UNET[TO_Q])
            np.testing.assert_allclose(folded(place)[TO_Q], expected, rtol=1e-13)
    assert "its rank is 3, the settings in the file's header say 5" in str(refused(place))


def with_header(place, tensors, settings):
    """The file of ``tensors`` with ``settings`` in its header's metadata."""
    path = write_file(place / "style.safetensors", tensors)
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    text = settings if isinstance(settings, str) else json.dumps(settings)
    header = json.loads(raw[8 : 8 + length]) | {"__metadata__": {"lora_adapter_metadata": text}}
    body = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(body)) + body + raw[8 + length :])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("{", "lora_adapter_metadata in its header: not valid JSON"),
        ("[]", "lora_adapter_metadata in its header is no map"),
        ({"unet.r": 0, "unet.lora_alpha": 1}, "r is 0"),
        ({"unet.r": 3, "unet.lora_alpha": 1, "unet.use_qalora": True}, "use_qalora"),
    ],
    ids=["json", "list", "rank", "use"],
)
def test_damaged_settings_in_the_header(place, rng, settings, says):
    """They are checked as those in a file are."""
    with_header(place, {f"unet.{TO_Q[:-7]}.lora_A.weight": normal(rng, 3, 8)}, settings)
    assert says in str(refused(place))


@pytest.fixture
def pipeline(place, rng):
    """unet and text_encoder, and an adapter for both; returns the parts."""
    write_component(place / "text_encoder", ENCODER, dtype=np.float64)
    parts = {kohya(TO_Q): lora(rng, *UNET[TO_Q]), "lora_te_" + flat(K0[:-7]): lora(rng, 8, 8)}
    write_table(place / "style.safetensors", parts)
    return list(parts.values())


def test_of_several_components_one_is_named(place, pipeline):
    """Behind a colon stands which is meant; the plan notes what is left for others; an error tells how to say it."""
    told = refused(place)
    assert "style.safetensors is for unet (1 module), text_encoder (1 module)" in str(told)
    assert "style.safetensors:unet" in str(told.problems[0].fix)
    for base, tensor, shape, parts in (
        ("unet", TO_Q, UNET[TO_Q], pipeline[0]),
        ("text_encoder", K0, (8, 8), pipeline[1]),
    ):
        found = folded(place, base, f"style.safetensors:{base}")
        expected = read_model(place / base)[tensor] + change(parts, shape)
        np.testing.assert_allclose(found[tensor], expected, rtol=1e-13)
    notes = sp.plan(sp.open("unet", adapter="style.safetensors:unet")).notes
    assert any("the adapter holds more, for text_encoder (1 module)" in n.message for n in notes)
    assert "it has nothing for transformer; its components are text_encoder, unet" in str(
        refused(place, adapter="style.safetensors:transformer")
    )


def test_a_model_that_holds_its_components(place, pipeline):
    """Where the base's names begin with their component, all parts find theirs."""
    both = {f"{c}.{n}": v for c in ("unet", "text_encoder") for n, v in read_model(place / c).items()}
    write_file(place / "whole" / "model.safetensors", both)
    found = folded(place, "whole")
    for name, shape, parts in ((f"unet.{TO_Q}", UNET[TO_Q], pipeline[0]), (f"text_encoder.{K0}", (8, 8), pipeline[1])):
        np.testing.assert_allclose(found[name], both[name] + change(parts, shape), rtol=1e-13)


def test_encoders_without_their_first_word(place, rng):
    """Newer encoders are stored without ``text_model``."""
    write_component(place / "te", {n.removeprefix("text_model."): s for n, s in ENCODER.items()}, dtype=np.float64)
    parts = lora(rng, 8, 8)
    write_table(place / "style.safetensors", {"lora_te1_" + flat(K0[:-7]): parts})
    name = K0.removeprefix("text_model.")
    found = folded(place, "te")
    np.testing.assert_allclose(found[name], read_model(place / "te")[name] + change(parts, (8, 8)), rtol=1e-13)


def test_the_original_layout(place, rng):
    """In a single file the names of that layout are found; those of diffusers are an error that says so."""
    names = {"model.diffusion_model.input_blocks.1.1.proj_in.weight": (10, 8)}
    write_component(place / "sd", names, dtype=np.float64)
    parts = lora(rng, 10, 8)
    write_table(place / "style.safetensors", {"lora_unet_input_blocks_1_1_proj_in": parts})
    (name,) = names
    expected = read_model(place / "sd")[name] + change(parts, (10, 8))
    np.testing.assert_allclose(folded(place, "sd")[name], expected, rtol=1e-13)
    write_table(place / "style.safetensors", {"lora_unet_down_blocks_0_attentions_0_proj_in": parts})
    assert "as diffusers has it" in str(refused(place, "sd").problems[0].fix)


def test_names_that_nothing_has(place, rng):
    """Every module that the base lacks is named, with the nearest names of the base."""
    write_table(place / "style.safetensors", {kohya(TO_Q) + "x": lora(rng, 12, 8), kohya(TO_Q): lora(rng, 12, 8)})
    (problem,) = refused(place).problems
    assert problem.tensor == "unet." + flat(TO_Q[:-7]) + "x.weight"
    assert "unet lacks what style.safetensors changes" in problem.message
    assert TO_Q in problem.fix


def test_names_that_two_tensors_have(place, rng):
    """Where dots and underlines make two tensors one name, none is guessed."""
    write_component(place / "two", {"a.b_c.weight": (12, 8), "a_b.c.weight": (12, 8)})
    write_table(place / "style.safetensors", {"lora_unet_a_b_c": lora(rng, 12, 8)})
    assert "may mean a.b_c.weight or a_b.c.weight of two" in str(refused(place, "two"))


def damaged(rng, part, values=None, kind=lora):
    """The parts of to_q, one of them changed or left out."""
    parts = kind(rng, *UNET[TO_Q])
    if values is None:
        del parts[part]
    else:
        parts[part] = values
    return parts


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (lambda r: damaged(r, "lora_up.weight"), "half of a pair: down or up"),
        (lambda r: damaged(r, "lora_up.weight", normal(r, 12, 4)), "their ranks differ"),
        (lambda r: damaged(r, "lora_up.weight", normal(r, 11, 3)), "has shape (12, 8)"),
        (lambda r: damaged(r, "lora_up.weight", np.ones((12, 3), np.int32)), "dtype I32"),
        (lambda r: damaged(r, "hada_w1_a", kind=loha), "no whole change of the kind loha"),
        (lambda r: damaged(r, "hada_w2_a", normal(r, 13, 3), loha), "its two products have shapes (12, 8) and (13, 8)"),
        (lambda r: damaged(r, "hada_w2_b", normal(r, 4, 8), loha), "their ranks or dimensions differ"),
        (lambda r: damaged(r, "hada_t1", normal(r, 3, 3, 1), loha), "no whole change of the kind loha"),
        (lambda r: damaged(r, "lokr_w2", kind=lokr), "no whole change of the kind lokr"),
        (lambda r: damaged(r, "lokr_w2_a", normal(r, 6, 3), lokr), "no whole change of the kind lokr"),
        (lambda r: damaged(r, "lokr_w2", normal(r, 5, 4), lokr), "a change of shape (10, 8)"),
        (lambda r: damaged(r, "hada_w1_a", normal(r, 12, 3)), "no whole change of the kind loha"),
        (lambda r: damaged(r, "diff", normal(r, 12, 8)), "is changed in two ways"),
        (lambda r: {"diff": normal(r, 12, 7)}, "has shape (12, 7)"),
        (lambda r: {"alpha": np.array(2.0, np.float32)}, "a part of"),
        (lambda r: damaged(r, "alpha", normal(r, 2)), "alpha has shape (2,), and is no number"),
        (lambda r: damaged(r, "alpha", np.array(np.nan, np.float32)), "a scale that is no finite number"),
        (lambda r: damaged(r, "dora_scale", normal(r, 1, 8)), "lengths of inputs, not of outputs"),
        (lambda r: damaged(r, "dora_scale", normal(r, 12, 1), loha), "not supported of LoHa"),
        (lambda r: damaged(r, "lora_other.weight", normal(r, 2)), "a tensor of the adapter that is not understood"),
        (lambda r: damaged(r, "lora_A.weight", normal(r, 3, 8)), "it means the same as"),
        (lambda r: {"oft_blocks": normal(r, 2, 3, 3)}, "OFT is no kind of adapter that is supported"),
        (lambda r: {"on_input": normal(r, 1), "weight": normal(r, 8)}, "(IA)³ is no kind of adapter"),
        (lambda r: {f"{x}{i}.weight": normal(r, 3, 3) for x in "ab" for i in "12"}, "GLoRA is no kind of adapter"),
        (lambda r: damaged(r, "scalar", normal(r, 1)), "a scale that was not folded in"),
    ],
    ids=[
        "half", "ranks", "shape", "dtype", "half loha", "two shapes", "loha ranks", "one core", "half lokr",
        "two rights", "lokr shape", "two kinds", "diff beside", "diff shape", "alpha alone", "alpha vector",
        "alpha nan", "dora of inputs", "dora of loha", "unknown", "twice", "oft", "ia3", "glora", "scalar",
    ],
)  # fmt: skip
def test_what_is_wrong_or_not_supported(place, rng, parts, says):
    """It is told by name, never read otherwise than it was meant."""
    write_table(place / "style.safetensors", {kohya(TO_Q): parts(rng), kohya(TO_OUT): lora(rng, *UNET[TO_OUT])})
    error = refused(place)
    assert says in str(error)
    assert all(p.tensor for p in error.problems)


def test_convolutions_in_groups(place, rng):
    """Their factors do not fit, and the error says why."""
    parts = {"lora_down.weight": normal(rng, 4, 6, 3, 3), "lora_up.weight": normal(rng, 8, 2, 1, 1)}
    write_table(place / "style.safetensors", {kohya(CONV): parts})
    assert "a convolution in groups" in str(refused(place))


def test_two_modules_that_are_one_tensor(place, rng):
    """An adapter that changes one tensor under two names is an error."""
    write_table(place / "style.safetensors", {kohya(TO_Q): lora(rng, 12, 8), "unet." + TO_Q[:-7]: lora(rng, 12, 8)})
    assert f"changes it as unet.{flat(TO_Q[:-7])} and unet.{TO_Q[:-7]}" in str(refused(place))


def test_a_file_is_known_for_an_adapter(place, rng):
    """Where a model is opened, a single file or a folder with one is refused, not read as a model of thin matrices."""
    write_table(place / "repo" / "style.safetensors", {kohya(TO_Q): lora(rng, 12, 8)})
    for reference in ("repo", "repo/style.safetensors"):
        with pytest.raises(sp.UnsupportedError, match="is an adapter, not a whole model"):
            sp.plan(sp.open(reference))
    found, expected = folded(place, adapter="repo"), folded(place, adapter="repo/style.safetensors")
    assert same_bytes(found, expected)


def test_folders_of_several_adapters(place, rng):
    """The error lists the files, or the folders below that hold adapters, and how to name one."""
    for name in ("one", "two"):
        write_table(place / "repo" / f"{name}.safetensors", {kohya(TO_Q): lora(rng, 12, 8)})
        (place / "many" / name).mkdir(parents=True)
        (place / "many" / name / "adapter_config.json").write_text("{}")
    assert "it holds 2 files of weights: one.safetensors, two.safetensors" in str(refused(place, adapter="repo"))
    told = refused(place, adapter="many")
    assert "it holds 2 adapters in folders of their own: one, two" in str(told)
    assert told.problems[0].fix.endswith("many/one")


def test_models_and_other_files_are_no_adapters(place):
    """A file none of whose tensors is part of an adapter is told for what it is."""
    write_file(place / "style.safetensors", {"a.weight": np.ones(3, np.float32)})
    assert "not an adapter: none of its tensors is part of one" in str(refused(place))
    assert sp.compute(sp.open("style.safetensors"))["a.weight"].tolist() == [1, 1, 1]


def test_receipts_know_component_and_scales(place, pipeline, capsys):
    """A merge with a single file is made again from its receipt; changed scales are noticed."""
    (place / "r.yml").write_text("merge_method: linear\nmodels: [{model: 'unet+style.safetensors:unet'}]\n")
    module = kohya(TO_Q)
    other = "lora_te_" + flat(K0[:-7])
    write_table(place / "style.safetensors", {module: pipeline[0], other: pipeline[1]}, {module: 2.0})
    assert main(["merge", "r.yml", "out", "--quiet"]) == 0
    row = json.loads((place / "out/stockpot-receipt.json").read_text())["inputs"]["style.safetensors:unet"]
    assert (row["part"], row["adapter"]) == ("unet", True)
    assert len(row["tensors"]) == 2
    assert main(["reproduce-merge", "out", "again"]) == 0
    assert same_bytes(read_model(place / "out"), read_model(place / "again"))
    assert main(["verify", "out", "--inputs"]) == 0
    write_table(place / "style.safetensors", {module: pipeline[0], other: pipeline[1]}, {module: 3.0})
    assert main(["verify", "out", "--inputs"]) == 1
    assert "its scales (alpha) have changed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["lora", "loha", "loha with cores", "lokr of factors", "lokr with a core", "lora with a core"]
)
def test_inspect(place, rng, capsys, name):
    """Norms and singular values are those of the dense change; with the base, over the weight's norm."""
    tensor, make, more = KINDS[name]
    parts = make(rng, *UNET[tensor], **more)
    write_table(place / "style.safetensors", {kohya(tensor): parts}, {kohya(tensor): 2.0})
    assert main(["lora", "inspect", "style.safetensors", "--base", "unet", "--json"]) == 0
    (module,) = json.loads(capsys.readouterr().out)["modules"]
    dense = change(parts, UNET[tensor], 2.0).reshape(UNET[tensor][0], -1)
    values = np.linalg.svd(dense, compute_uv=False)
    found = np.array(module["singular_values"])[: values.size]
    np.testing.assert_allclose(found, values[: found.size], rtol=1e-9, atol=1e-9 * values[0])
    np.testing.assert_allclose(module["norm"], np.linalg.norm(dense), rtol=1e-12)
    weight = np.linalg.norm(read_model(place / "unet")[tensor])
    np.testing.assert_allclose(module["relative"], np.linalg.norm(dense) / weight, rtol=1e-12)
    assert module["kind"] == name.partition(" ")[0]
    assert main(["lora", "inspect", "style.safetensors"]) == 0
    assert ("kind" in capsys.readouterr().out) == (module["kind"] != "lora")


def test_inspect_tells_of_what_it_does_not_show(place, pipeline, rng, capsys):
    """Components that were not asked for, and whole differences, are counted."""
    assert main(["lora", "inspect", "style.safetensors:unet"]) == 0
    assert "not looked at: text_encoder (1 modules)" in capsys.readouterr().out
    write_table(place / "style.safetensors", {kohya(TO_Q): {"diff": normal(rng, 12, 8)}})
    assert main(["lora", "inspect", "style.safetensors"]) == 0
    assert "whole tensors that are added to the base's: 1" in capsys.readouterr().out
