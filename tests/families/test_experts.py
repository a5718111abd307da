"""Experts stored one by one, and all of a layer in one tensor: either merges with the other, in the base's layout."""

from __future__ import annotations

import json

import numpy as np
import pytest
from zoo import DECODER, DEEPSEEK, FAMILIES, causal

import stockpot as sp
from files import read_model, write_model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from running import loaded, outputs  # noqa: E402 - needs both

NAMES = ("mixtral", "qwen3-moe", "deepseek-v3")


def in_memory(family, folder, place):
    """The model of ``folder`` with the names and shapes that it has in memory: fused, since transformers 5."""
    state = loaded(family, folder).state_dict()
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    write_model(place, arrays, config=json.loads((folder / "config.json").read_text()))
    assert any(name.endswith("experts.gate_up_proj") for name in arrays)
    return place


@pytest.fixture
def layouts(zoo, tmp_path):
    """Layout → folder, of two models of a family."""

    def made(family):
        apart = [zoo.saved(family, seed) for seed in range(2)]
        assert any(".experts.0." in name for name in read_model(apart[0]))
        fused = [in_memory(family, folder, tmp_path / f"fused-{i}") for i, folder in enumerate(apart)]
        return {"apart": apart, "fused": fused}

    return made


@pytest.mark.parametrize("family", NAMES)
def test_the_output_has_the_layout_of_the_base(family, layouts, tmp_path):
    """Names, shapes and bytes as of a merge of two models in the base's layout, either way round; the same logits."""
    places = layouts(family)
    found = {}
    for base, other in (("apart", "fused"), ("fused", "apart")):
        for kind, folders in {
            "mixed": (places[base][0], places[other][1]),
            "alike": (places[base][0], places[base][1]),
        }.items():
            a, b = map(sp.open, folders)
            sp.save(a + 0.7 * (b - a), tmp_path / f"{base}-{kind}")
            found[base, kind] = read_model(tmp_path / f"{base}-{kind}")
        assert {n: (v.shape, v.tobytes()) for n, v in found[base, "mixed"].items()} == {
            n: (v.shape, v.tobytes()) for n, v in found[base, "alike"].items()
        }
        assert found[base, "mixed"].keys() == read_model(places[base][0]).keys()
    logits = [outputs(family, loaded(family, tmp_path / f"{base}-mixed")) for base in places]
    assert torch.allclose(*logits, rtol=1e-6, atol=1e-6)


METHODS = {
    "ties": lambda a, b: a + sp.ties(b - a, a - a, density=0.4),
    "slerp": lambda a, b: sp.slerp(a, b, t=0.4),
    "of a merge": lambda a, b: a + 0.5 * sp.ties(sp.linear(b, b, weight=[0.3, 0.7]) - a, density=0.3),
    "of a trimmed merge": lambda a, b: sp.linear(a, b + sp.ties(0.3 * (b - b), density=0.5)),
    "whole model": lambda a, b: a + sp.ties(b - a, density=0.3, scope="model"),
}


@pytest.mark.parametrize("base", ["apart", "fused"])
@pytest.mark.parametrize("name", METHODS, ids=lambda name: name.replace(" ", "-"))
def test_every_kind_of_method_works_on_pieces(name, base, layouts, tmp_path, monkeypatch):
    """Statistics are those of the base's tensors: the same bytes as from models that are all in its layout."""
    places = layouts("mixtral")
    other = "fused" if base == "apart" else "apart"
    mixed, alike = (METHODS[name](sp.open(places[base][0]), sp.open(places[b][1])) for b in (other, base))
    one, two = sp.compute(mixed), sp.compute(alike)
    assert {n: v.tobytes() for n, v in one.items()} == {n: v.tobytes() for n, v in two.items()}


@pytest.mark.parametrize("base", ["apart", "fused"])
def test_layers_of_both_layouts_stack_in_that_of_the_first(base, layouts, tmp_path):
    """A stack of layers from either kind has one layout, loads and runs."""
    places = layouts("mixtral")
    other = "fused" if base == "apart" else "apart"
    first, second = sp.open(places[base][0]), sp.open(places[other][1])
    sp.save(sp.stack(sp.layers(first, 0, 2), sp.layers(second, 1, 2)), tmp_path / "out")
    made = read_model(tmp_path / "out")
    fused = [name for name in made if name.endswith("experts.gate_up_proj")]
    assert len(fused) == (3 if base == "fused" else 0)
    assert torch.isfinite(outputs("mixtral", loaded("mixtral", tmp_path / "out"))).all()
    again = sp.compute(sp.layers(sp.open(tmp_path / "out"), 2, 3))
    expected = sp.compute(sp.layers(sp.open(places[base][1]), 1, 2))
    layer = {n: v.tobytes() for n, v in again.items() if ".layers." in n}
    assert layer == {n: v.tobytes() for n, v in expected.items() if ".layers." in n}


def test_receipt_verify_and_reproduction(layouts, tmp_path):
    """A mixed merge is verified and made again byte for byte, and its inputs' hashes are those of whole tensors."""
    from stockpot.execute.reproduce import reproduce
    from stockpot.execute.sources import check_inputs
    from stockpot.execute.verify import verify

    places = layouts("mixtral")
    a, b = sp.open(places["apart"][0]), sp.open(places["fused"][1])
    result = sp.save(a + 0.7 * sp.ties(b - a, density=0.5), tmp_path / "out")
    assert verify(tmp_path / "out") == ()
    assert reproduce(tmp_path / "out", tmp_path / "again").differences == ()
    checked = check_inputs(result.receipt)
    assert all(not c.differences and c.tensors for c in checked.values())


def test_threads_and_memory_change_no_byte(layouts, tmp_path):
    """One thread or four: the same files."""
    places = layouts("qwen3-moe")
    a, b = sp.open(places["fused"][0]), sp.open(places["apart"][1])
    for threads in (1, 4):
        sp.save(a + sp.ties(b - a, density=0.4), tmp_path / str(threads), threads=threads)
    files = [(tmp_path / str(t) / "model.safetensors").read_bytes() for t in (1, 4)]
    assert files[0] == files[1]


def test_a_note_tells_of_it(layouts):
    """The plan says which model is stored otherwise."""
    places = layouts("mixtral")
    a, b = sp.open(places["apart"][0]), sp.open(places["fused"][1])
    assert any("stores its experts otherwise" in note.message for note in sp.plan(a + 0.5 * (b - a)).notes)


ROUTED = {**DECODER, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MORE = {
    "qwen2-moe": causal("Qwen2Moe", {**ROUTED, "shared_expert_intermediate_size": 24}),
    "olmoe": causal("Olmoe", ROUTED),
    "deepseek-v2": causal("DeepseekV2", {**DECODER, **DEEPSEEK, "topk_method": "greedy"}),
    "phimoe": causal("Phimoe", {**DECODER, "num_local_experts": 4}),
    "granite-moe": causal("GraniteMoe", {**DECODER, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "nemotron-h": causal("NemotronH", {**ROUTED, "n_routed_experts": 4}),
}


@pytest.mark.parametrize("family", MORE)
def test_more_families(family, tmp_path):
    """Both ways round: the names of the base, and the same logits."""
    made = MORE[family]
    for seed in range(2):
        model = made.new(seed)
        model.save_pretrained(tmp_path / f"apart-{seed}")
        config = json.loads((tmp_path / f"apart-{seed}" / "config.json").read_text())
        write_model(tmp_path / f"fused-{seed}", {n: t.numpy() for n, t in model.state_dict().items()}, config=config)
    found = []
    for base, other in (("apart", "fused"), ("fused", "apart")):
        sp.save(sp.linear(sp.open(tmp_path / f"{base}-0"), sp.open(tmp_path / f"{other}-1")), tmp_path / base)
        assert read_model(tmp_path / base).keys() == read_model(tmp_path / f"{base}-0").keys()
        loaded_as, info = type(model).from_pretrained(tmp_path / base, output_loading_info=True)
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        with torch.no_grad():
            found.append(loaded_as.eval()(**made.inputs(torch)).logits)
    assert read_model(tmp_path / "apart").keys() != read_model(tmp_path / "fused").keys()
    assert torch.allclose(*found, rtol=1e-5, atol=1e-5)


def test_pieces_of_large_tensors_that_are_computed(tmp_path):
    """Tensors of many blocks, whose pieces begin within a block, made by a method of its own: as from stored ones."""
    a, b = experts(3, 300, 512), experts(3, 300, 512, seed=1)
    base = sp.open(a, name="base")
    for own, like in ((one_by_one(b), a), (b, one_by_one(a))):
        inner = sp.open(own, name="own")
        trimmed = inner + sp.ties(
            0.5 * inner - 0.5 * sp.open({n: -v for n, v in own.items()}, name="minus"), density=0.3
        )
        stored = sp.compute(trimmed)
        first = sp.open(like, name="base")
        expected = sp.compute(sp.linear(first, sp.open(stored, name="stored")))
        made = sp.compute(sp.linear(first, trimmed), threads=3)
        assert all(np.allclose(made[n], expected[n], atol=1e-6) for n in expected)
        again = sp.compute(sp.linear(first, trimmed), threads=1)
        assert all(made[n].tobytes() == again[n].tobytes() for n in made)
    assert sp.plan(sp.linear(base, sp.open(one_by_one(b), name="own"))).cost.read == 2 * sum(
        v.nbytes for v in a.values()
    )


def experts(count=2, inner=6, hidden=4, *, block="mlp", transposed=False, seed=0):
    """A layer's experts, fused."""
    rng = np.random.default_rng(seed)
    shapes = {"gate_up_proj": (count, 2 * inner, hidden), "down_proj": (count, hidden, inner)}
    if transposed:
        shapes = {n: (s[0], s[2], s[1]) for n, s in shapes.items()}
    return {f"l.0.{block}.experts.{n}": rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}


def one_by_one(fused, block="moe", names=("w1", "w3", "w2")):
    """The same, each expert alone."""
    (gate_up,), (down,) = ([v for n, v in fused.items() if n.endswith(w)] for w in ("gate_up_proj", "down_proj"))
    inner = gate_up.shape[1] // 2
    made = {}
    for e in range(len(down)):
        parts = (gate_up[e, :inner], gate_up[e, inner:], down[e])
        made |= {f"l.0.{block}.experts.{e}.{n}.weight": v for n, v in zip(names, parts, strict=True)}
    return made


def test_the_router_goes_with_them_by_its_shape():
    """``moe.gate.weight`` is ``mlp.router.weight`` where both are the only ones of their shape."""
    fused, other = experts(), experts(seed=1)
    router = np.arange(8, dtype=np.float32).reshape(2, 4)
    a = sp.open({**fused, "l.0.mlp.router.weight": router}, name="a")
    b = sp.open({**one_by_one(other), "l.0.moe.gate.weight": 3 * router}, name="b")
    made = sp.compute(sp.linear(a, b))
    assert np.array_equal(made["l.0.mlp.router.weight"], 2 * router)
    name = "l.0.mlp.experts.gate_up_proj"
    assert np.allclose(made[name], (fused[name] + other[name]) / 2)


def test_transposed_experts_are_refused_by_name():
    """gpt-oss and Llama 4 store (E, H, 2I): the error names the tensor and the way out."""
    a, b = sp.open(one_by_one(experts(), block="mlp"), name="a"), sp.open(experts(transposed=True), name="b")
    for models in ((a, b), (b, a)):
        with pytest.raises(sp.PlanError, match="b stores its experts transposed") as told:
            sp.plan(sp.linear(*models))
        assert "l.0.mlp.experts.gate_up_proj" in str(told.value)
        assert "transformers" in str(told.value)


def test_other_numbers_of_experts_are_refused_by_name():
    """Four experts and two do not merge."""
    a, b = sp.open(experts(4), name="a"), sp.open(one_by_one(experts(2)), name="b")
    with pytest.raises(sp.PlanError, match=r"\(2, 12, 4\).*\(4, 12, 4\)"):
        sp.plan(sp.linear(a, b))


def test_a_nan_in_an_expert_is_found_by_name():
    """The error names the model's own tensor."""
    fused = experts(seed=1)
    fused["l.0.mlp.experts.down_proj"][1, 2, 3] = np.nan
    a, b = sp.open(one_by_one(experts()), name="a"), sp.open(fused, name="b")
    with pytest.raises(sp.StockpotError, match=r"NaN weight at \[1, 2, 3\] of b"):
        sp.compute(sp.linear(a, b))


def test_a_dtype_for_reading_and_one_for_writing():
    """Rounded when read, widened, rounded when written: as tensor by tensor in float64."""
    fused, other = experts(), experts(seed=1)
    a, b = sp.open(one_by_one(fused), name="a"), sp.open(other, name="b")
    made = sp.compute(sp.linear(a, b), dtype="float16")
    expected = one_by_one({n: (fused[n].astype(np.float64) + other[n]) / 2 for n in fused})
    assert {n: v.tobytes() for n, v in made.items()} == {n: v.astype(np.float16).tobytes() for n, v in expected.items()}


def test_families_are_in_the_zoo():
    """The tests above run on real models."""
    assert set(NAMES) <= set(FAMILIES)
