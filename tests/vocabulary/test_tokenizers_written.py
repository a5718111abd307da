"""What is written beside a result: tokenizers that transformers loads and that make the tokens, configs, templates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizing import byte_level, ids_of, model, word_pieces

import stockpot as sp
from files import read_model
from stockpot.cli.main import main

transformers = pytest.importorskip("transformers")

TWO = "models: [{model: a, parameters: {weight: 0.5}}, {model: b, parameters: {weight: 0.5}}]"


def merged(folder: Path, section: str, body: str = TWO) -> Path:
    """The result of a linear merge."""
    (folder / "recipe.yml").write_text(f"merge_method: linear\n{body}\n{section}\n")
    return sp.merge(folder / "recipe.yml", folder / "out", overwrite=True).folder


def config_of(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A JSON file of a folder."""
    found: dict[str, Any] = json.loads((folder / name).read_text())
    return found


def test_the_union_makes_the_tokens_of_all(three: Path) -> None:
    """transformers loads it; words that only one model knows are one token, added tokens too; roles are the first's."""
    out = merged(three, "tokenizer_source: union", TWO.replace("}]", "}, {model: c}]"))
    loaded = transformers.AutoTokenizer.from_pretrained(out)
    own = transformers.AutoTokenizer.from_pretrained(three / "a")
    assert len(loaded) == len(read_model(out)["model.embed_tokens.weight"])
    told = [t.strip("Ġ▁") for t in loaded.tokenize("so hello world mars pluto venus <|x|><|y|><|z|><|w|>")]
    for word in ("hello", "world", "mars", "pluto", "venus", "<|x|>", "<|y|>", "<|z|>", "<|w|>"):
        assert word in told
    assert (loaded.bos_token, loaded.eos_token, loaded.pad_token) == (own.bos_token, own.eos_token, own.pad_token)
    assert loaded.decode(loaded.encode("hello mars")).strip() == own.decode(own.encode("hello mars")).strip()


def test_a_result_loads_and_runs(tmp_path: Path) -> None:
    """Embedding, head and config of a real Llama fit; every token of the tokenizer can be fed."""
    torch = pytest.importorskip("torch")
    for seed, (name, words) in enumerate({"a": ["hello"], "b": ["mars"]}.items()):
        tokenizer = byte_level(words, ["<|x|>"])
        config = transformers.LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2,
        )  # fmt: skip
        torch.manual_seed(seed)
        transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / name)
        transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(
            tmp_path / name
        )
    out = merged(tmp_path, "tokenizer: {source: union, pad_to_multiple_of: 64}")
    loaded, info = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert loaded.config.vocab_size % 64 == 0
    assert loaded.config.vocab_size >= len(tokenizer)
    logits = loaded(torch.tensor([[*range(len(tokenizer))]])).logits
    assert logits.shape[-1] == loaded.config.vocab_size
    assert torch.isfinite(logits).all()


def test_the_union_of_gpt2s_files(tmp_path: Path) -> None:
    """vocab.json, merges.txt and added tokens are written anew where a model has only these."""
    for seed, (name, words) in enumerate({"a": ["hello"], "b": ["mars"]}.items()):
        made = byte_level(words)
        folder = model(tmp_path / name, made, seed=seed)
        made.model.save(str(folder))
        (folder / "tokenizer.json").unlink()
        added = {"<s>": made.token_to_id("<s>"), "</s>": made.token_to_id("</s>")}
        (folder / "added_tokens.json").write_text(json.dumps(added))
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "GPT2Tokenizer", "eos_token": "</s>"})
        )
    out = merged(tmp_path, "tokenizer_source: union")
    loaded = transformers.GPT2Tokenizer.from_pretrained(out)
    ids = config_of(out, "vocab.json")
    assert len(ids) == len(read_model(out)["lm_head.weight"])
    assert loaded.tokenize(" hello mars") == ["Ġhello", "Ġmars"]
    assert loaded.convert_tokens_to_ids("</s>") == config_of(tmp_path / "a", "added_tokens.json")["</s>"]


def test_the_union_of_berts_file(tmp_path: Path) -> None:
    """vocab.txt likewise."""
    for seed, (name, words) in enumerate({"a": ["hello"], "b": ["mars"]}.items()):
        made = word_pieces(words)
        folder = model(tmp_path / name, made, seed=seed)
        (folder / "tokenizer.json").unlink()
        tokens = sorted(made.get_vocab(), key=made.get_vocab().__getitem__)
        (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    out = merged(tmp_path, "tokenizer_source: union")
    loaded = transformers.AutoTokenizer.from_pretrained(out)
    assert loaded.tokenize("hello mars") == ["hello", "mars"]
    assert len(loaded) == len(read_model(out)["lm_head.weight"])


def test_special_numbers_follow_the_tokenizer(tmp_path: Path) -> None:
    """A result with another model's tokenizer has that one's numbers, in config and generation config."""
    for seed, (name, words) in enumerate({"a": ["hello"], "b": ["mars", "pluto"]}.items()):
        folder = model(tmp_path / name, byte_level(words), seed=seed)
        ids = ids_of(folder)
        told = {"bos_token_id": ids["<s>"], "eos_token_id": ids["</s>"]}
        (folder / "config.json").write_text(json.dumps(config_of(folder) | told))
        generation = {**told, "eos_token_id": [ids["</s>"]], "pad_token_id": ids["<s>"], "temperature": 0.5}
        (folder / "generation_config.json").write_text(json.dumps(generation))
    (tmp_path / "b" / "generation_config.json").unlink()
    out = merged(tmp_path, "tokenizer_source: b")
    ids = ids_of(tmp_path / "b")
    assert (config_of(out)["bos_token_id"], config_of(out)["eos_token_id"]) == (ids["<s>"], ids["</s>"])
    generation = config_of(out, "generation_config.json")
    assert generation == {
        "bos_token_id": ids["<s>"], "eos_token_id": ids["</s>"], "pad_token_id": ids["<s>"], "temperature": 0.5,
    }  # fmt: skip


def test_the_size_in_a_nested_config(tmp_path: Path) -> None:
    """``text_config.vocab_size`` of a model of images and text."""
    for seed, (name, words) in enumerate({"a": ["hello"], "b": ["mars"]}.items()):
        folder = model(tmp_path / name, byte_level(words), seed=seed)
        rows = config_of(folder)["vocab_size"]
        told = {"model_type": "llava", "text_config": {"vocab_size": rows}, "vision_config": {"vocab_size": 7}}
        (folder / "config.json").write_text(json.dumps(told))
    told = config_of(merged(tmp_path, "tokenizer_source: union"))
    assert told["text_config"]["vocab_size"] == len(ids_of(tmp_path / "out"))
    assert told["vision_config"]["vocab_size"] == 7
    assert "vocab_size" not in told


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
]

RENDERED = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello"
    "<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user"
    "<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s>[INST] Be brief.\n\nHi [/INST] Hello</s>[INST] Bye [/INST]",
    "alpaca": "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello</s>\n\n"
    "### Instruction:\nBye\n\n### Response:\n",
    "exaone": "[|system|]Be brief.[|endofturn|]\n[|user|]Hi\n"
    "[|assistant|]Hello[|endofturn|]\n[|user|]Bye\n[|assistant|]",
}


@pytest.mark.parametrize("name", sorted(RENDERED))
def test_named_templates(tmp_path: Path, name: str) -> None:
    """What transformers makes of them, from the file that it reads now and from the settings that it read before."""
    model(tmp_path / "a", byte_level(["hello"]), seed=1)
    out = merged(tmp_path, f"chat_template: {name}", "models: [{model: a}]")
    for _ in range(2):
        loaded = transformers.AutoTokenizer.from_pretrained(out)
        text = loaded.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
        assert text == RENDERED[name]
        (out / "chat_template.jinja").unlink(missing_ok=True)


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    """Jinja text is taken as it is."""
    model(tmp_path / "a", byte_level(["hello"]), seed=1)
    text = "{% for m in messages %}{{ m.role }}: {{ m.content }};{% endfor %}"
    out = merged(tmp_path, f"chat_template: '{text}'", "models: [{model: a}]")
    loaded = transformers.AutoTokenizer.from_pretrained(out)
    assert loaded.apply_chat_template(CHAT[1:2], tokenize=False) == "user: Hi;"


def test_the_commonest_template(tmp_path: Path) -> None:
    """``auto``: the template that most models have; the first of equals."""
    for seed, (name, text) in enumerate({"a": "one", "b": "two", "c": "two"}.items()):
        model(tmp_path / name, byte_level(["hello"]), seed=seed, settings={"chat_template": text})
    three = "models: [{model: a}, {model: b}, {model: c}]"
    assert (merged(tmp_path, "chat_template: auto", three) / "chat_template.jinja").read_text() == "two"
    assert (merged(tmp_path, "chat_template: auto") / "chat_template.jinja").read_text() == "one"


def test_no_template_to_take(tmp_path: Path) -> None:
    """``auto`` without one says so, and nothing is written."""
    model(tmp_path / "a", byte_level(["hello"]), seed=1)
    (tmp_path / "recipe.yml").write_text("merge_method: linear\nmodels: [{model: a}]\nchat_template: auto\n")
    made = sp.plan(tmp_path / "recipe.yml")
    assert any("no model has a chat template" in note.message for note in made.notes)
    assert "chat_template.jinja" not in dict(made.sidecars)


def test_marks_that_are_no_tokens_are_told(tmp_path: Path) -> None:
    """A template whose marks the tokenizer cuts into pieces works badly."""
    model(tmp_path / "a", byte_level(["hello"], ["<|im_start|>"]), seed=1)
    (tmp_path / "recipe.yml").write_text("merge_method: linear\nmodels: [{model: a}]\nchat_template: chatml\n")
    (note,) = [n.message for n in sp.plan(tmp_path / "recipe.yml").notes if "chat template" in n.message]
    assert "<|im_end|>" in note
    assert "<|im_start|>" not in note


def test_the_template_of_the_base_stays(tmp_path: Path) -> None:
    """Without a word about templates; that another model has another is told."""
    for seed, (name, text) in enumerate({"a": "one", "b": "two"}.items()):
        model(tmp_path / name, byte_level([name]), seed=seed, settings={"chat_template": text})
    out = merged(tmp_path, "tokenizer_source: union")
    assert transformers.AutoTokenizer.from_pretrained(out).chat_template == "one"
    notes = sp.plan(tmp_path / "recipe.yml").notes
    assert any("b has another chat template than a" in note.message for note in notes)


def test_repeated_from_the_receipt(three_bytes: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The receipt holds the vocabulary's source, the tokens' and the template: the same bytes come out again."""
    monkeypatch.chdir(three_bytes)
    (three_bytes / "recipe.yml").write_text(
        f"merge_method: linear\n{TWO}\nchat_template: chatml\ntokenizer:\n  source: union\n  pad_to_multiple_of: 32\n"
        "  tokens:\n    <|y|>: {source: {kind: model_token, model: c, token_id: 3}, force: true}\n"
        "    <|x|>: {source: {kind: zero}}\n"
    )
    assert main(["merge", "recipe.yml", "out", "--quiet"]) == 0
    assert main(["verify", "out", "--inputs"]) == 0
    capsys.readouterr()
    assert main(["reproduce-merge", "out", "again"]) == 0, capsys.readouterr()
    for path in (three_bytes / "out").iterdir():
        if path.name not in ("README.md", "stockpot-receipt.json"):
            assert (three_bytes / "again" / path.name).read_bytes() == path.read_bytes()


def test_a_changed_tokenizer_is_noticed(three_bytes: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Repeating a merge with another tokenizer in an input gives other rows, and says so."""
    monkeypatch.chdir(three_bytes)
    (three_bytes / "recipe.yml").write_text(f"merge_method: linear\n{TWO}\ntokenizer_source: base\n")
    assert main(["merge", "recipe.yml", "out", "--quiet"]) == 0
    shutil.copy(three_bytes / "c" / "tokenizer.json", three_bytes / "b" / "tokenizer.json")
    assert main(["reproduce-merge", "out", "again"]) == 1
    assert "embed_tokens.weight: its bytes differ" in capsys.readouterr().err


def test_the_plan_tells_of_rows(three_bytes: Path, capsys: Any) -> None:
    """In text and as JSON; the file beside the model tells every row."""
    out = merged(three_bytes, "tokenizer_source: union")
    assert main(["plan", str(three_bytes / "recipe.yml")]) == 0
    text = capsys.readouterr().out
    one, two = (ids_of(three_bytes / name).keys() for name in "ab")
    told = f"union: {len(one | two)} tokens, {len(one | two)} rows; {len(one & two)} in all models"
    assert told in " ".join(text.split())
    assert f"a: {len(one)} of its own, {len(two - one)} of b" in text
    assert main(["plan", str(three_bytes / "recipe.yml"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["tokenizer"]
    assert data["in_one_model"] == {"a": len(one - two), "b": len(two - one)}
    rows = config_of(out, "stockpot-tokens.json")["rows"]
    for name in "ab":
        own = ids_of(three_bytes / name)
        lengths = [last - first for first, last, *_ in rows[name]]
        assert sum(lengths) == len(one | two)
        first, _, whose, place = rows[name][0]
        assert (first, whose, place) == (0, name, own[next(t for t, n in ids_of(out).items() if n == 0)])
