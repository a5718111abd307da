"""The gradient of shares is right, and what is streamed is what a program with all models in memory computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from learning import differences, every, fit_of, learning_bench, loss_at, write_suite
from searching import fine_tunes

import stockpot as sp
from evaluating import TEXT, language_model, write_lines
from files import read_model, write_file, write_model
from measured import MIB, environment
from stockpot.errors import ExecutionError, UnsupportedError
from stockpot.evaluate import candidate, load_suite
from stockpot.evaluate.gradients import LiveModel
from stockpot.execute.local import stream
from stockpot.search.mixing.ingredients import Ingredients
from stockpot.search.mixing.learned import Learning, _Fit
from stockpot.search.mixing.losses import with_loss
from stockpot.search.mixing.shares import Adam, for_logits, softmax

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = learning_bench(tmp_path_factory.mktemp("learning"))
    for name, theta in fine_tunes().items():
        write_model(folder / f"{name}-wide", {n: a.astype(np.float64) for n, a in theta.items()})
    return folder


@pytest.fixture
def within(bench, monkeypatch):
    monkeypatch.chdir(bench)
    return bench


def test_adam_is_that_of_torch():
    """Without weight decay AdamW is Adam; to the last places."""
    rng = np.random.default_rng(0)
    values, mine = rng.normal(size=(3, 4)), Adam(0.05)
    theirs = torch.nn.Parameter(torch.tensor(values))
    optimiser = torch.optim.AdamW([theirs], lr=0.05, weight_decay=0.0)
    for _ in range(20):
        gradient = rng.normal(size=(3, 4))
        values = mine.step(values, gradient)
        theirs.grad = torch.tensor(gradient)
        optimiser.step()
    assert values == pytest.approx(theirs.detach().numpy(), rel=1e-12)


def test_shares_sum_to_one_and_have_the_gradient_of_softmax():
    """For logits of any size; the gradient is torch's."""
    logits = np.array([[0.3, -1.0, 2.0], [900.0, -900.0, 0.0]])
    slopes = np.random.default_rng(1).normal(size=(2, 3))
    assert softmax(logits).sum(axis=-1) == pytest.approx(1)
    theirs = torch.tensor(logits, requires_grad=True)
    (theirs.softmax(-1) * torch.tensor(slopes)).sum().backward()
    assert for_logits(softmax(logits), slopes) == pytest.approx(theirs.grad.numpy(), abs=1e-14)


@pytest.mark.parametrize("per", ["model", "tensor"])
def test_gradients_are_finite_differences(within, per):
    """In float64, of one share a model and of one a tensor, at shares that are not equal; of the factor too."""
    fit = fit_of(within, [f"{name}-wide" for name in ("m0", "m1", "m2")], per=per)
    assert fit.ingredients.dtype == "float64"
    fit._logits = np.random.default_rng(0).normal(size=fit._logits.shape)
    fit._scale = 0.8
    batch = every(fit)
    _, products, slope = fit.gradient(batch)
    found = for_logits(softmax(fit._logits), products)
    assert np.abs(found).max() > 1e-3
    assert found == pytest.approx(differences(fit, batch, 1e-5), abs=1e-9)
    losses = []
    for scale in (0.8 + 1e-5, 0.8 - 1e-5):
        fit._scale = scale
        losses.append(loss_at(fit, fit._logits, batch))
    assert slope == pytest.approx((losses[0] - losses[1]) / 2e-5, abs=1e-9)


@pytest.mark.parametrize("per", ["model", "tensor"])
def test_streaming_is_learning_in_memory(within, per):
    """The same shares and factor as a program in torch that holds all models and differentiates through their sum."""
    names = ["m0", "m1", "m2", "diverged"]
    fit = fit_of(within, [f"{name}-wide" for name in names], per=per, epochs=2, batch=64, seed=5)
    order = [places for epoch in (1, 2) for places in fit._batches(epoch)]
    for epoch in (1, 2):
        fit.epoch(epoch)
    stacks = {n: torch.stack([torch.tensor(fine_tunes()[m][n]).double() for m in names]) for n in fit.ingredients.names}
    logits = torch.nn.Parameter(torch.zeros(fit._logits.shape, dtype=torch.float64))
    scale = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    optimiser = torch.optim.AdamW([logits, scale], lr=0.05, weight_decay=0.0)
    with np.load(within / "tune.npz") as data:
        inputs, labels = torch.tensor(data["inputs"]).double(), torch.tensor(data["labels"])
    for (places,) in order:
        shares = logits.softmax(1).expand(len(stacks), -1)
        theta = {n: torch.tensordot(own, stack, 1) for own, (n, stack) in zip(shares, stacks.items(), strict=True)}
        hidden = (inputs[places] @ theta["a.weight"].T + theta["a.bias"]).clamp_min(0)
        outputs = hidden @ theta["b.weight"].T + theta["b.bias"]
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(scale * outputs, labels[places]).backward()
        optimiser.step()
    assert softmax(fit._logits) == pytest.approx(logits.softmax(1).detach().numpy(), abs=1e-9)
    assert np.ptp(softmax(fit._logits)) > 0.05
    assert fit.scale == pytest.approx(float(scale.detach()), abs=1e-9)


def test_every_example_is_seen_in_each_epoch_in_another_order(within):
    """Once, but of the smaller of two tasks, which lasts as many steps; another seed is another order."""
    write_suite(within, clean="tune.npz", few="select.npz")
    suite = load_suite(within / "suite.yml", allow_code=True, same_data=True)
    write_suite(within)
    fit = _Fit([candidate("m0"), candidate("m1")], suite, Learning(batch=30, seed=1), "cpu")
    fit._lessons[1] = (fit._lessons[1][0], type(fit._lessons[1][1])(3, fit._lessons[1][1].parts))
    steps = list(fit._batches(1))
    assert len(steps) == 7
    assert sorted(place for first, _ in steps for place in first) == list(range(200))
    assert all(len(second) >= 1 for _, second in steps)
    assert {place for _, second in steps for place in second} == {0, 1, 2}
    assert steps == list(fit._batches(1))
    assert steps != list(fit._batches(2))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_language_models(tmp_path, monkeypatch, dtype, tied):
    """Gradients on texts and choices are those of the network with its weights as a sum, 16 bits read as they are."""
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        language_model(tmp_path / f"t{i}", i, dtype=dtype, tied=tied)
    (tmp_path / "tune.txt").write_text(TEXT)
    row = {"context": "The kettle was", "choices": [" on the fire", " there since morning", " a guess"], "answer": 1}
    write_lines(tmp_path / "tune.jsonl", [row, row | {"context": "A merge is", "answer": 2}])
    texts = {"kind": "perplexity", "split": {"tune": "tune.txt"}, "context": 16, "batch_tokens": 40}
    choice = {"kind": "choice", "split": {"tune": "tune.jsonl"}, "batch_tokens": 60}
    (tmp_path / "suite.yml").write_text(json.dumps({"tasks": {"prose": texts, "quiz": choice}}))
    given, suite = [candidate(f"t{i}") for i in range(3)], load_suite(tmp_path / "suite.yml")
    fit = _Fit(given, suite, Learning(per="tensor"), "cpu")
    fit._logits = np.random.default_rng(0).normal(size=fit._logits.shape)
    loss, products, _ = fit.gradient(every(fit))
    names = fit.ingredients.names
    assert ("lm_head.weight" in names) is not tied
    network = candidate("t0").opened("cpu").transformer("causal").float()
    stacks = {n: torch.stack([torch.tensor(read_model(tmp_path / f"t{i}")[n].astype(np.float32)) for i in range(3)])
              for n in names}  # fmt: skip
    shares = torch.tensor(softmax(fit._logits), dtype=torch.float32, requires_grad=True)
    theta = {n: torch.tensordot(own, stacks[n], 1) for own, n in zip(shares, names, strict=True)}

    class Summed(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, **given):
            return torch.func.functional_call(network, theta, (), given)

    live = type("Live", (), {"config": fit._live.config, "tokenizer": fit._live.tokenizer,
                             "transformer": lambda self, kind: Summed()})()  # fmt: skip
    lessons = [task.task.lessons(live, task.data["tune"]) for task in suite.tasks]
    parts = [part / 2 for one in lessons for part in one.parts(range(one.count), None)]
    assert len(parts) > len(lessons)
    total = sum(parts)
    total.backward()
    assert loss == pytest.approx(float(total.detach()), rel=1e-5)
    wanted = shares.grad.numpy()
    assert np.abs(wanted).max() > 0.1
    # ``linear`` divides by the sum of shares, so only the gradient along the simplex is the same
    assert for_logits(softmax(fit._logits), products) == pytest.approx(
        for_logits(softmax(fit._logits), wanted.astype(float)), abs=2e-4
    )
    measured, objective = with_loss(suite)
    from stockpot.evaluate import evaluate

    mean = sp.linear(*(c.what for c in given), weight=[list(map(as_case(names), column)) for column in
                                                       softmax(fit._logits).T])  # fmt: skip
    result = evaluate([candidate(mean, name="mean", dtype="float32")], measured, split="tune", device="cpu")
    assert objective.value(result, "mean") == pytest.approx(loss, rel=1e-5)


def as_case(names):
    left = iter(list(names) * 1000)
    return lambda share: {"filter": next(left), "value": float(share)}


def adapter(folder, rows, columns, rank=2):
    """A LoRA adapter on the module ``a``."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    pair = {"lora_A": (rank, columns), "lora_B": (rows, rank)}
    tensors = {f"base_model.model.a.{n}.weight": rng.normal(size=s).astype(np.float32) for n, s in pair.items()}
    write_file(folder / "adapter_model.safetensors", tensors)
    told = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["a"]}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return rng


def test_ingredients_of_every_form(tmp_path):
    """Inner products are those of the models as a merge sees them: adapters, 16 bits, several blocks, several files."""
    rng = adapter(tmp_path / "lora", 600, 500)
    shapes = {"a.weight": (600, 500), "a.bias": (7,), "n": (3,)}
    theta = [{n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items() if n != "n"} for _ in range(2)]
    count = {"n": np.arange(3)}
    write_model(tmp_path / "x", theta[0] | count)
    write_model(tmp_path / "y", {n: a.astype(ml_dtypes.bfloat16) for n, a in theta[1].items()} | count, files=2)
    given = [candidate(str(tmp_path / "x")), candidate(f"{tmp_path / 'x'}+{tmp_path / 'lora'}")]
    given.append(candidate(str(tmp_path / "y")))
    made = Ingredients(given)
    assert (made.names, made.dtype) == (("a.bias", "a.weight"), "float32")
    gradients = {"a.weight": rng.normal(size=shapes["a.weight"]).astype(np.float32)}
    found = made.products(gradients)
    models = [sp.compute(one.what, dtype="float64") for one in given]
    wanted = [np.vdot(gradients["a.weight"].astype(float), own["a.weight"]) for own in models]
    assert found[1] == pytest.approx(wanted, rel=1e-9)
    assert np.array_equal(found[0], np.zeros(3))
    shares = np.array([[0.2, 0.3, 0.5], [0.5, 0.4, 0.1]])
    mean = made.mean(shares)
    assert mean["a.weight"] == pytest.approx(
        sum(w * m["a.weight"] for w, m in zip(shares[1], models, strict=True)), abs=1e-6
    )
    assert mean["a.bias"] == pytest.approx(
        sum(w * m["a.bias"] for w, m in zip(shares[0], models, strict=True)), abs=1e-6
    )
    assert np.array_equal(mean["n"], count["n"])


def backwards(plan, sink):
    """As ``stream``, the blocks in the opposite order, as threads may hand them over."""
    calls = []
    stream(plan, lambda step, start, data: calls.append((step, start, data.copy())))
    for step, start, data in sorted(calls, key=lambda call: (call[0].name, -call[1])):
        sink(step, start, data)


def test_products_do_not_depend_on_the_order_of_blocks(monkeypatch):
    """To the last bit, over tensors of several blocks, in any order and with any number of threads."""
    rng = np.random.default_rng(0)
    arrays = {f"t{i}": rng.normal(size=1_500_000).astype(np.float32) for i in range(3)}
    one, other = (
        Ingredients([candidate(sp.open(arrays, name=name), threads=count) for name in "ab"]) for count in (1, 3)
    )
    found = one.products(arrays)
    assert found[:, 1] == pytest.approx([np.vdot(a.astype(float), a.astype(float)) for a in arrays.values()])
    assert other.products(arrays).tobytes() == found.tobytes()
    monkeypatch.setattr("stockpot.search.mixing.ingredients.stream", backwards)
    assert one.products(arrays).tobytes() == found.tobytes()


PEAK = """
import sys
from pathlib import Path
import numpy as np
from stockpot.evaluate import candidate, load_suite
from stockpot.evaluate.gradients import LiveModel
from stockpot.execute.local import stream
from stockpot.search.mixing.learned import Learning, _Fit
import torch
torch.set_num_threads(1)
models = [candidate(f"big{i}", threads=1, memory=1 << 30) for i in range(int(sys.argv[1]))]
fit = _Fit(models, load_suite(Path("big.yml"), allow_code=True), Learning(per="tensor", batch=2), "cpu")
for places in list(fit._batches(1))[:2]:
    fit.gradient(places)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs VmHWM of /proc/self/status")
def test_memory_does_not_grow_with_the_number_of_models(tmp_path):
    """Seven models of 24 MB take what two take; that is the model, its gradient, and blocks.

    What is freed goes back at once: glibc's own threshold grows, and then keeps a model's worth from run to run or not.
    """
    count = 6_000_000
    for i in range(7):
        write_model(
            tmp_path / f"big{i}", {"w": np.full((count // 2, 2), i, np.float32), "v": np.ones((2, 2), np.float32)}
        )
    (tmp_path / "nets.py").write_text(
        "def there(t, x):\n    return x @ t['v'] + x @ t['w'].sum(0) .reshape(2, 1) * 1e-9\n"
    )
    np.savez(tmp_path / "tune.npz", inputs=np.ones((4, 2), np.float32), labels=np.array([0, 1, 0, 1]))
    task = {"kind": "classification", "predict": "nets:there", "learn": "nets:there", "split": {"tune": "tune.npz"}}
    (tmp_path / "big.yml").write_text(json.dumps({"tasks": {"big": task}}))

    def peak(models):
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(models)],
            env=environment(OMP_NUM_THREADS="1", MALLOC_MMAP_THRESHOLD_="262144"), cwd=tmp_path,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return int(done.stdout) << 10

    two, seven = peak(2), peak(7)
    assert seven < two + 12 * MIB  # half a model
    assert os.path.getsize(tmp_path / "big0" / "model.safetensors") > 4 * count  # noqa: PTH202


def test_a_gradient_that_is_no_number(within):
    """Names the model whose share has none."""
    fit = fit_of(within, ["m0", "m1"])
    with pytest.raises(ExecutionError, match="the share of m1 is not finite in step 1 of epoch 2"):
        fit._check(0.5, np.array([[1.0, np.nan]]), "in step 1 of epoch 2")


class Fused(torch.nn.Module):
    """A network with one parameter and one buffer of the tensors that it was given, and one that is none of them."""

    def __init__(self, state, fused):
        super().__init__()
        self.own = torch.nn.Parameter(torch.from_numpy(state["w"]))
        self.register_buffer("mean", torch.from_numpy(state["mean"]))
        self.register_buffer("made", torch.zeros(2))
        if fused:
            self.both = torch.nn.Parameter(torch.zeros(4))


def live_of(tmp_path, monkeypatch, *, fused):
    arrays = [{"w": np.full(2, i, np.float32), "mean": np.full(2, i, np.float32)} for i in range(2)]
    write_model(tmp_path / "m", arrays[0])
    monkeypatch.setattr("stockpot.evaluate.gradients.transformer_of", lambda _c, state, _k, _d: Fused(state, fused))
    live = LiveModel(candidate(str(tmp_path / "m")).opened("cpu"), "float32")
    live.fill(arrays[0])
    return live, arrays[1]


def test_a_parameter_that_is_no_tensor_of_the_model(tmp_path, monkeypatch):
    """Such as experts that are loaded into one: its gradient is that of no tensor, so it is refused by name."""
    live, _ = live_of(tmp_path, monkeypatch, fused=True)
    with pytest.raises(UnsupportedError, match="makes the parameter both of several tensors") as caught:
        live.transformer("causal")
    assert caught.value.problems[0].tensor == "both"


def test_new_weights_reach_the_network(tmp_path, monkeypatch):
    """Parameters and buffers both; gradients are those since then, and a tensor without one is absent."""
    live, other = live_of(tmp_path, monkeypatch, fused=False)
    network = live.transformer("causal")
    (network.own.sum() * 3).backward()
    live.fill(other)
    assert live.gradients() == {}
    assert live.transformer("causal") is network
    assert (network.own.tolist(), network.mean.tolist()) == ([1, 1], [1, 1])
    ((network.own + network.mean).sum() * 5 + 2 * live.tensors["w"].sum()).backward()
    assert {name: own.tolist() for name, own in live.gradients().items()} == {"w": [7, 7]}
    live.clear()
    assert network.own.numel() == 0
