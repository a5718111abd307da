"""``lora merge`` and ``lora resize`` of what is no folder of pairs: single files, LoHa, LoKr, differences."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from adapting import factors, write_adapter
from making import changes, made, refused
from single_files import (
    CONV,
    CONV_BIAS,
    ENCODER,
    K0,
    NORM,
    PROJ_IN,
    TO_OUT,
    TO_Q,
    UNET,
    change,
    exact,
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
from files import read_file, read_model, write_file
from stockpot.execute.verify import verify

FILE = "pytorch_lora_weights.safetensors"


def kohya(name):
    return "lora_unet_" + flat(name.removesuffix(".weight"))


@pytest.fixture
def rng():
    return np.random.default_rng(23)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working directory, with the component unet."""
    monkeypatch.chdir(tmp_path)
    write_component(tmp_path / "unet", dtype=np.float64)
    return tmp_path


def style(path, rng, makers, alphas=None, name=kohya):
    """A single file; returns tensor → its dense change."""
    parts = {tensor: make(rng, *UNET[tensor]) for tensor, make in makers.items()}
    own = {tensor: (alphas or {}).get(tensor) for tensor in makers}
    write_table(path, {name(t): p for t, p in parts.items()}, {name(t): a for t, a in own.items() if a is not None})
    return {t: change(p, UNET[t], own[t]) for t, p in parts.items()}


def done(adapter, base="unet"):
    """What a folded adapter adds to each tensor of the base that it changes, in float64."""
    before, after = read_model(base), sp.compute(sp.open(base, adapter=adapter))
    return {n: v - exact(before[n]) for n, v in after.items() if not np.array_equal(v, exact(before[n]))}


def near(found, wanted, bound):
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert np.linalg.norm(found[name] - values) <= bound * np.linalg.norm(values), name


def combined(weights, parts):
    names = set().union(*parts)
    return {n: sum(w * p.get(n, 0) for w, p in zip(weights, parts, strict=True)) for n in names}


@pytest.mark.parametrize(
    "how",
    [["--method=concat", "--weight=0.7", "--weight=-0.4"], ["--method=task_arithmetic", "--rank=99"]],
    ids=["concat", "linear"],
)
def test_single_files_are_merged_into_one(place, rng, how):
    """Linear layers and convolutions, alphas and none: the dense sum to 1e-6, under the inputs' names, read back."""
    one = style(place / "one.safetensors", rng, {TO_Q: lora, CONV: lora, PROJ_IN: lora}, {TO_Q: 1.5})
    two = style(place / "two.safetensors", rng, {TO_Q: lora, CONV: lora}, {TO_Q: 4, CONV: 2})
    weights = (0.7, -0.4) if "concat" in how[0] else (1.0, 1.0)
    made("merge", "one.safetensors", "two.safetensors", "out", *how, "--dtype=float64")
    near(done("out"), combined(weights, [one, two]), 1e-6)
    tensors = read_file(place / "out" / FILE)
    parts = ("alpha", "lora_down.weight", "lora_up.weight")
    assert set(tensors) == {f"{kohya(n)}.{part}" for n in (TO_Q, CONV, PROJ_IN) for part in parts}
    for n in (TO_Q, CONV, PROJ_IN):
        assert tensors[f"{kohya(n)}.alpha"] == len(tensors[f"{kohya(n)}.lora_down.weight"])
    assert {p.name for p in (place / "out").iterdir()} == {FILE, "README.md", "stockpot-receipt.json"}
    assert verify(place / "out") == ()


def test_the_mean_is_folded_as_the_mean_of_folded_models(place, rng):
    """The default, cut at no rank: in float32 the same to its rounding; a file of its own folds as the folder does."""
    for name in ("one", "two"):
        style(place / f"{name}.safetensors", rng, {TO_Q: lora, TO_OUT: lora})
    made("merge", "one.safetensors", "two.safetensors", "out", "--rank=99")
    mean = sp.linear(*(sp.open("unet", adapter=f"{n}.safetensors") for n in ("one", "two")))
    wanted, found = sp.compute(mean), sp.compute(sp.open("unet", adapter=f"out/{FILE}"))
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=2e-6, err_msg=name)
    assert {v.dtype for v in read_file(place / "out" / FILE).values()} == {np.dtype(np.float32)}


KINDS = {
    "loha": (TO_Q, loha),
    "loha of a convolution": (CONV, loha),
    "loha with cores": (CONV, loha_with_cores),
    "lokr": (TO_Q, lokr),
    "lokr of factors": (TO_Q, lambda *a: lokr(*a, one=False, two=False)),
    "lokr of a convolution": (CONV, lokr),
    "lokr of a convolution, of factors": (CONV, lambda *a: lokr(*a, two=False)),
    "lokr with a core": (CONV, lambda *a: lokr(*a, two=False, core=True)),
    "lora with a core": (CONV, lora_with_core),
    "difference": (TO_Q, lambda rng, *shape: {"diff": normal(rng, *shape)}),
    "difference of a convolution": (CONV, lambda rng, *shape: {"diff": normal(rng, *shape)}),
}


HIDDEN = ("loha of a convolution", "lokr of a convolution, of factors")
"""Whose kernel nothing tells: they are resized as matrices, as a note says."""


@pytest.mark.parametrize(
    ("name", "verb"),
    [(n, v) for n in KINDS for v in ("merge", "base", "resize") if not (v == "resize" and n in HIDDEN)],
)
def test_every_kind_becomes_factors(place, rng, name, verb):
    """Its mean with a LoRA at the full rank, its own resize likewise: the dense change to 1e-5."""
    tensor, make = KINDS[name]
    if "diff" in make(rng, *UNET[tensor]):
        parts = make(rng, *UNET[tensor])
        write_table(place / "kind.safetensors", {kohya(tensor): parts})
        one = {tensor: exact(parts["diff"])}
    else:
        one = style(place / "kind.safetensors", rng, {tensor: make}, {tensor: 1.5})
    if verb == "resize":
        made("resize", "kind.safetensors", "out", "--rank=99")
        near(done("out"), one, 1e-5)
        return
    two = style(place / "lora.safetensors", rng, {tensor: lora})
    base = ["--base=unet"] if verb == "base" else []
    made("merge", "kind.safetensors", "lora.safetensors", "out", "--rank=99", *base)
    near(done("out"), combined((0.5, 0.5), [one, two]), 1e-5)


def test_one_adapter_at_its_own_rank_loses_nothing(place, rng, capsys):
    """Without --rank it is the rank that a change can have: ranks multiply in LoHa and LoKr; full ones are noted."""
    one = style(place / "kind.safetensors", rng, {TO_OUT: loha, TO_Q: lambda *a: lokr(*a, one=False, two=False)})
    told = made("merge", "kind.safetensors", "out", capsys=capsys)
    assert {m["module"]: m["rank"] for m in told["modules"]} == {
        f"unet.{flat(TO_OUT.removesuffix('.weight'))}": 8,
        f"unet.{flat(TO_Q.removesuffix('.weight'))}": 6,
    }
    assert told["retained"] == pytest.approx(1.0)
    assert any("full rank" in note and "--rank or --energy" in note for note in told["notes"])
    near(done("out"), one, 1e-5)


def test_a_kernel_that_nothing_tells(place, rng, capsys):
    """Of LoHa without cores it is noted, and --base tells."""
    one = style(place / "kind.safetensors", rng, {CONV: loha})
    told = made("merge", "kind.safetensors", "out", capsys=capsys)
    assert any("convolution" in note and "--base" in note for note in told["notes"])
    assert any("convolution" in n for n in made("resize", "kind.safetensors", "r", "--rank=2", capsys=capsys)["notes"])
    told = made("merge", "kind.safetensors", "again", "--base=unet", capsys=capsys)
    assert not any("convolution" in note for note in told["notes"])
    near(done("again"), one, 1e-5)


def test_what_is_added_beside_weights_is_merged_as_it_is(place, rng):
    """Differences of biases and norms stay differences; an adapter that lacks one changes nothing there."""
    norm, bias = normal(rng, *UNET[NORM]), normal(rng, *UNET[CONV_BIAS])
    parts = {kohya(NORM): {"w_norm": norm}, kohya(CONV): {"diff_b": bias, **lora(rng, *UNET[CONV])}}
    write_table(place / "one.safetensors", parts)
    write_table(place / "two.safetensors", {kohya(NORM): {"w_norm": norm}, kohya(TO_Q): lora(rng, *UNET[TO_Q])})
    made("merge", "one.safetensors", "two.safetensors", "out")
    tensors = read_file(place / "out" / FILE)
    np.testing.assert_array_equal(tensors[f"{kohya(NORM)}.w_norm"], norm)
    np.testing.assert_array_equal(tensors[f"{kohya(CONV)}.diff_b"], bias / 2)
    made("resize", "one.safetensors", "small", "--rank=2")
    tensors = read_file(place / "small" / FILE)
    np.testing.assert_array_equal(tensors[f"{kohya(NORM)}.w_norm"], norm)
    assert tensors[f"{kohya(CONV)}.lora_down.weight"].shape == (2, 6, 3, 3)
    assert tensors[f"{kohya(CONV)}.alpha"] == 2


def test_lengths_of_single_files(place, rng, capsys):
    """DoRA's change needs the base to be merged, and is dense; resizing keeps its lengths."""
    parts = lora(rng, *UNET[TO_OUT]) | {"dora_scale": np.abs(normal(rng, 8, 1)) + 1}
    write_table(place / "dora.safetensors", {kohya(TO_OUT): parts})
    style(place / "two.safetensors", rng, {TO_OUT: lora})
    how = ("merge", "dora.safetensors", "two.safetensors", "out")
    assert "--base" in refused(capsys, *how)
    made(*how, "--base=unet", "--rank=99")
    wanted = combined((0.5, 0.5), [done("dora.safetensors"), done("two.safetensors")])
    near(done("out"), wanted, 1e-5)
    made("resize", "dora.safetensors", "small", "--rank=99")
    near(done("small"), done("dora.safetensors"), 1e-5)
    np.testing.assert_array_equal(read_file(place / "small" / FILE)[f"{kohya(TO_OUT)}.dora_scale"], parts["dora_scale"])


STYLES = {
    "diffusers": ("lora_A.weight", "lora_B.weight"),
    "older": ("lora.down.weight", "lora.up.weight"),
    "oldest": ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
}


@pytest.mark.parametrize("names", STYLES)
def test_names_are_those_of_the_inputs(place, rng, names):
    """Diffusers' names stay, without alphas: their scale is 1."""
    down, up = STYLES[names]
    for name in ("one", "two"):
        own = lora(rng, *UNET[TO_Q])
        parts = {down: own["lora_down.weight"], up: own["lora_up.weight"]}
        write_table(place / f"{name}.safetensors", {f"unet.{TO_Q.removesuffix('.weight')}": parts})
    made("merge", "one.safetensors", "two.safetensors", "out", "--method=concat")
    made("resize", "one.safetensors", "small", "--rank=2")
    start = f"unet.{TO_Q.removesuffix('.weight')}"
    for folder in ("out", "small"):
        assert set(read_file(place / folder / FILE)) == {f"{start}.{down}", f"{start}.{up}"}
    near(done("out"), combined((1, 1), [done("one.safetensors"), done("two.safetensors")]), 1e-6)


def test_attention_processors_of_early_files(place, rng):
    """Their names have the part in the middle."""
    start = TO_Q.removesuffix(".to_q.weight")
    own = lora(rng, *UNET[TO_Q])
    parts = {"to_q_lora.down.weight": own["lora_down.weight"], "to_q_lora.up.weight": own["lora_up.weight"]}
    write_table(place / "one.safetensors", {f"unet.{start}.processor": parts})
    made("merge", "one.safetensors", "out")
    assert set(read_file(place / "out" / FILE)) == {f"unet.{start}.processor.{part}" for part in parts}
    near(done("out"), done("one.safetensors"), 1e-6)


def test_one_component_or_all(place, rng, capsys):
    """Of files for several components all are merged; a colon chooses one, and a note tells what is left."""
    write_component(place / "text", ENCODER)
    parts = {kohya(TO_Q): lora(rng, *UNET[TO_Q]), "lora_te_" + flat(K0.removesuffix(".weight")): lora(rng, 8, 8)}
    write_table(place / "both.safetensors", parts)
    told = made("merge", "both.safetensors", "out", capsys=capsys)
    assert len(told["modules"]) == 2
    near(done(f"out/{FILE}:text_encoder", "text"), done("both.safetensors:text_encoder", "text"), 1e-6)
    for verb, more in (("merge", []), ("resize", ["--rank=3"])):
        told = made(verb, "both.safetensors:unet", verb, *more, capsys=capsys)
        assert any("text_encoder" in note and "not in the result" in note for note in told["notes"])
        near(done(verb), done("both.safetensors:unet"), 1e-6)


def peft_loha(folder, rng, rows=12, columns=12):
    """A LoHa as PEFT writes it; returns its dense change."""
    parts = loha(rng, rows, columns)
    more = {"alpha": 6, "use_effective_conv2d": False, "rank_dropout": 0.0, "target_modules": ["q"]}
    settings = {"peft_type": "LOHA", "r": 3, "task_type": "CAUSAL_LM", **more}
    write_file(folder / "adapter_model.safetensors", {f"base_model.model.x.q.{n}": v for n, v in parts.items()})
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return change(parts, (rows, columns), 6)


@pytest.mark.parametrize("first", ["loha", "lora"])
def test_folders_of_other_kinds_become_folders_of_lora(place, rng, first):
    """LoHa and LoRA, in either order: their mean at full rank to 1e-5, with settings of LoRA alone."""
    dense = peft_loha(place / "loha", rng)
    write_adapter(place / "lora", factors(rng, "x.q", 12, 12), target_modules=["q"])
    other = "lora" if first == "loha" else "loha"
    made("merge", first, other, "out", "--rank=12")
    near(changes(place / "out"), {"x.q.weight": (dense + changes(place / "lora")["x.q.weight"]) / 2}, 1e-5)
    made("resize", "loha", "small", "--rank=12")
    near(changes(place / "small"), {"x.q.weight": dense}, 1e-5)
    for folder in ("out", "small"):
        config = json.loads((place / folder / "adapter_config.json").read_text())
        assert (config["peft_type"], config["target_modules"], config["lora_alpha"]) == ("LORA", ["q"], config["r"])
        assert not {"alpha", "use_effective_conv2d", "rank_dropout"} & set(config)


def test_what_does_not_go_together(place, rng, capsys):
    """Folders with files, one module under two names, forms that need pairs: by name, with the way on, nothing left."""
    style(place / "one.safetensors", rng, {TO_Q: lora, TO_OUT: lora})
    style(place / "two.safetensors", rng, {TO_Q: lora}, name=lambda n: "unet." + n.removesuffix(".weight"))
    style(place / "three.safetensors", rng, {TO_Q: loha, TO_OUT: lora})
    a, b = lora(rng, 12, 8).values()
    parts = {f"{kohya(TO_Q)}.lora_A.weight": a, f"{kohya(TO_Q)}.lora_B.weight": b}
    write_file(place / "four.safetensors", parts)
    write_adapter(place / "folder", factors(rng, "x.q", 12, 12))
    cases = {
        ("one.safetensors", "folder"): ("a folder that PEFT wrote", "lora extract"),
        ("one.safetensors", "two.safetensors"): ("in different ways", "lora extract"),
        ("one.safetensors", "two.safetensors", "--base=unet"): ("in different ways", "lora extract"),
        ("one.safetensors", "four.safetensors"): ("in different ways", "lora_A.weight"),
        ("one.safetensors", "three.safetensors", "--method=concat"): ("LoHa", flat(TO_Q.removesuffix(".weight"))),
        ("one.safetensors", "three.safetensors", "--space=core"): ("LoHa", "--space full"),
        ("one.safetensors", "three.safetensors", "--compat=peft"): ("single file", "--compat"),
    }
    for arguments, words in cases.items():
        names = [a for a in arguments if not a.startswith("-")]
        more = [a for a in arguments if a.startswith("-")]
        told = refused(capsys, "merge", *names, "out", *more)
        assert all(word in told for word in words), (arguments, told)
        assert not list(place.glob("out*"))


def test_a_base_that_does_not_fit(place, rng, capsys):
    """The tensor and both shapes are named; so is a name that the base has twice."""
    style(place / "one.safetensors", rng, {TO_OUT: loha})
    write_component(place / "small", {TO_OUT: (4, 4)})
    told = refused(capsys, "merge", "one.safetensors", "out", "--base=small")
    assert TO_OUT in told
    assert "(4, 4)" in told
    name = TO_OUT.removesuffix(".weight")
    write_component(place / "twice", {TO_OUT: UNET[TO_OUT], f"{flat(name)}.weight": UNET[TO_OUT]})
    assert "may mean" in refused(capsys, "merge", "one.safetensors", "out", "--base=twice")


def test_tensors_stay_aligned_and_alphas_exact(place, rng):
    """Factors of two bytes beside alphas of four, a rank that bfloat16 does not have."""
    style(place / "one.safetensors", rng, {CONV: lora, TO_Q: lora})
    made("merge", "one.safetensors", "out", "--dtype=bfloat16")
    data = (place / "out" / FILE).read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    for name, row in json.loads(data[8 : 8 + size]).items():
        width = {"BF16": 2, "F32": 4}.get(row.get("dtype"), 1)
        assert (8 + size + row.get("data_offsets", [0])[0]) % width == 0, name
        assert (row.get("dtype") == "F32") == name.endswith(".alpha")


def test_bytes_do_not_depend_on_threads_or_memory(place, rng):
    """Of changes that are made dense, and of pairs."""
    style(place / "one.safetensors", rng, {CONV: loha_with_cores, TO_Q: lokr, TO_OUT: lora})
    style(place / "two.safetensors", rng, {CONV: lora, TO_Q: lora, TO_OUT: lora})
    how = ("merge", "one.safetensors", "two.safetensors")
    made(*how, "a", "--threads=1", "--method=ties", "--density=0.5", "--rank=4")
    made(*how, "b", "--threads=4", "--method=ties", "--density=0.5", "--rank=4", "--memory=3GiB")
    assert (place / "a" / FILE).read_bytes() == (place / "b" / FILE).read_bytes()
    made("resize", "one.safetensors", "c", "--rank=2", "--threads=1")
    made("resize", "one.safetensors", "d", "--rank=2", "--threads=4")
    assert (place / "c" / FILE).read_bytes() == (place / "d" / FILE).read_bytes()


def test_files_are_merged_as_recipes_say(place, rng):
    """Recipes name files, components and bases as anywhere."""
    one, two = (style(place / f"{n}.safetensors", rng, {TO_Q: lora}) for n in ("one", "two"))
    text = (
        "merge_method: task_arithmetic\nbase_model: unet\nmodels:\n"
        "- {model: unet+one.safetensors, parameters: {weight: 2}}\n"
        '- {model: {model: unet, lora: "two.safetensors:unet"}, parameters: {weight: -1}}\n'
    )
    (place / "r.yml").write_text(text)
    made("merge", "--recipe=r.yml", "out", "--rank=99")
    near(done("out"), combined((2, -1), [one, two]), 1e-6)
