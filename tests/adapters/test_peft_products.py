"""PEFT's LoHa and LoKr, and folders of several adapters: as merge_and_unload has them, or refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

import stockpot as sp
from files import read_model, write_model
from stockpot.cli.main import main

peft = pytest.importorskip("peft", reason="peft is not installed: pip install -e '.[test]' anew")

pytestmark = pytest.mark.filterwarnings("ignore")


class Net(nn.Module):
    """One layer of each kind that LoHa and LoKr know."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(24, 40)
        self.square = nn.Linear(24, 24)
        self.conv = nn.Conv2d(8, 12, 3)
        self.point = nn.Conv2d(8, 12, 1)
        self.line = nn.Conv1d(8, 12, 5)
        self.norm = nn.LayerNorm(12)


LAYERS = ["up", "square", "conv", "point", "line"]
CASES = {
    "loha": peft.LoHaConfig(r=4, alpha=6, target_modules=LAYERS),
    "loha with cores": peft.LoHaConfig(r=4, alpha=6, target_modules=LAYERS, use_effective_conv2d=True),
    "loha patterns": peft.LoHaConfig(
        r=4, alpha=6, target_modules=LAYERS, rank_pattern={"up": 2, "conv": 3}, alpha_pattern={"up": 5}
    ),
    "loha and a whole module": peft.LoHaConfig(r=2, alpha=2, target_modules=["up"], modules_to_save=["norm"]),
    "lokr": peft.LoKrConfig(r=2, alpha=3, target_modules=LAYERS[:-1]),
    "lokr whole": peft.LoKrConfig(r=32, alpha=8, target_modules=LAYERS[:-1]),
    "lokr of factors": peft.LoKrConfig(r=1, alpha=3, target_modules=LAYERS, decompose_both=True),
    "lokr with cores": peft.LoKrConfig(
        r=2, alpha=3, target_modules=LAYERS, use_effective_conv2d=True, decompose_factor=2
    ),
}


def made(place, config):
    """The network with a random adapter, both written; the adapted network."""
    torch.manual_seed(3)
    net = Net()
    write_model(place / "base", {k: v.numpy().copy() for k, v in net.state_dict().items()}, config={})
    adapted = peft.get_peft_model(net, config)
    randomize(adapted)
    adapted.save_pretrained(place / "adapter")
    return adapted


def randomize(adapted):
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.copy_(0.3 * torch.randn_like(weight))


@pytest.mark.parametrize("name", CASES)
def test_as_peft_merges(tmp_path, name):
    """Every weight is that of merge_and_unload, to float32's rounding."""
    adapted = made(tmp_path, CASES[name])
    found = sp.compute(sp.open(tmp_path / "base", adapter=tmp_path / "adapter"))
    merged = {k: v.numpy() for k, v in adapted.merge_and_unload().state_dict().items()}
    assert found.keys() == merged.keys()
    base = read_model(tmp_path / "base")
    for tensor, values in merged.items():
        np.testing.assert_allclose(found[tensor], values, rtol=0, atol=1e-6 * np.abs(values).max(), err_msg=tensor)
    assert sum(not np.array_equal(found[n], base[n]) for n in base) >= len(CASES[name].target_modules)


def test_fold_and_inspect(tmp_path, monkeypatch, capsys):
    """The verbs know these kinds."""
    monkeypatch.chdir(tmp_path)
    made(tmp_path, CASES["lokr"])
    assert main(["lora", "fold", "base", "adapter", "out", "--quiet"]) == 0
    assert main(["lora", "inspect", "adapter", "--base", "base"]) == 0
    shown = capsys.readouterr().out
    assert "lokr" in shown
    assert all(layer in shown for layer in LAYERS[:-1])


def test_lokr_in_one_dimension(tmp_path):
    """PEFT multiplies a kernel of one dimension in an order of its own; that is refused, not computed otherwise."""
    made(tmp_path, peft.LoKrConfig(r=32, alpha=3, target_modules=["line"]))
    with pytest.raises(sp.StockpotError, match="an order of its own"):
        sp.plan(sp.open(tmp_path / "base", adapter=tmp_path / "adapter"))


REFUSED = {
    "VERA": lambda: peft.VeraConfig(r=4, target_modules=["square"]),
    "OFT": lambda: peft.OFTConfig(target_modules=["square"], oft_block_size=4),
    "BOFT": lambda: peft.BOFTConfig(target_modules=["square"], boft_block_size=4),
    "IA3": lambda: peft.IA3Config(target_modules=["square"], feedforward_modules=[]),
    "FOURIERFT": lambda: peft.FourierFTConfig(n_frequency=8, target_modules=["square"]),
    "HRA": lambda: peft.HRAConfig(r=4, target_modules=["square"]),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_kinds_are_refused(tmp_path, kind):
    """By the name that PEFT gives them."""
    made(tmp_path, REFUSED[kind]())
    with pytest.raises(sp.UnsupportedError, match=f"adapters of type {kind} are not supported; LORA, LOHA, LOKR are"):
        sp.plan(sp.open(tmp_path / "base", adapter=tmp_path / "adapter"))


def test_several_adapters_in_one_folder(tmp_path):
    """PEFT saves each but ``default`` in a folder below; the parent's error lists them, and each can be named."""
    net = Net()
    write_model(tmp_path / "base", {k: v.numpy().copy() for k, v in net.state_dict().items()}, config={})
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["up"])
    adapted = peft.get_peft_model(net, config, adapter_name="first")
    adapted.add_adapter("second", peft.LoraConfig(r=3, lora_alpha=2, target_modules=["square"]))
    randomize(adapted)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora" in name:
                weight.copy_(0.3 * torch.randn_like(weight))
    adapted.save_pretrained(tmp_path / "both")
    with pytest.raises(
        sp.CheckpointError, match="it holds 2 adapters in folders of their own: first, second"
    ) as caught:
        sp.plan(sp.open(tmp_path / "base", adapter=tmp_path / "both"))
    assert caught.value.problems[0].fix == f"name one of them: {tmp_path / 'both' / 'first'}"
    base = read_model(tmp_path / "base")
    for name, changed in (("first", "up.weight"), ("second", "square.weight")):
        found = sp.compute(sp.open(tmp_path / "base", adapter=tmp_path / "both" / name))
        assert [n for n in base if not np.array_equal(found[n], base[n])] == [changed]


def test_convolutions_in_groups(tmp_path):
    """PEFT's factors of a grouped convolution are no product of matrices, and are refused."""
    net = nn.Sequential()
    net.add_module("conv", nn.Conv2d(8, 12, 3, groups=2))
    write_model(tmp_path / "base", {k: v.numpy().copy() for k, v in net.state_dict().items()}, config={})
    adapted = peft.get_peft_model(net, peft.LoraConfig(r=4, lora_alpha=2, target_modules=["conv"]))
    randomize(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(sp.StockpotError, match=r"convolution in groups|has shape \(12, 4, 3, 3\)"):
        sp.plan(sp.open(tmp_path / "base", adapter=tmp_path / "adapter"))


@pytest.mark.parametrize(
    ("kind", "settings", "says"),
    [
        ("LOHA", {"r": 3}, "its rank is 4, the settings say 3"),
        ("LOHA", {"alpha": None}, "alpha is None"),
        ("LOKR", {"use_something": True}, "use_something means other arithmetic than scale · w1⊗w2"),
        ("LORA", {"lora_alpha": 3}, "half of a pair"),
    ],
    ids=["rank", "alpha", "use", "kind"],
)
def test_settings_that_do_not_fit(tmp_path, kind, settings, says):
    """Rank, alpha and kind are compared with the tensors."""
    made(tmp_path, CASES["loha" if kind != "LOKR" else "lokr"])
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"peft_type": kind} | settings))
    with pytest.raises(sp.StockpotError) as caught:
        sp.plan(sp.open(tmp_path / "base", adapter=tmp_path / "adapter"))
    assert says in str(caught.value)
