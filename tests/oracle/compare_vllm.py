"""Compare figures of lm-eval's tasks by the backends `vllm` and `transformers`, on a merge of tiny models.

pytest does not collect this script: it needs an environment with vLLM in it, for a GPU (`pip install vllm`) or for
the CPU, beside `stockpot[lm-eval]`. It makes two tiny Llamas with random weights, merges them, and measures a choice
of answers, the likelihood of texts and greedy generation with both. Exit status: 0 if all figures agree to 1e-3 of
their size and no folder of a merge is left; 1 if not; 3 if vLLM is not installed.

vLLM starts its processes anew from this file, so whatever is done is done below `__main__`.
"""

import json
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

HEAD = "dataset_path: json\ntest_split: test\n"
TASKS = {
    "choice": "output_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice: '{{choices}}'\n"
    "doc_to_target: answer\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n",
    "prose": "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{question}}'\n"
    "metric_list: [{metric: byte_perplexity}, {metric: bits_per_byte}]\n",
    "writing": "output_type: generate_until\ndoc_to_text: '{{question}}'\ndoc_to_target: '{{written}}'\n"
    "generation_kwargs: {until: ['\\n'], max_gen_toks: 8, do_sample: false}\nmetric_list: [{metric: exact_match}]\n",
}
SAME = 1e-3
SPECIAL = (0, 1, 2)


def model(folder: Path, seed: int) -> None:
    """A tiny Llama with random weights; heads are 32 wide, the least that vLLM runs on a CPU."""
    import torch
    import transformers

    from evaluating import save_tokenizer

    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, initializer_range=0.2, pad_token_id=0, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    made = transformers.LlamaForCausalLM(config)
    save_tokenizer(folder, bos_token="<s>", eos_token="</s>")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    plain = [i not in SPECIAL and (text := tokenizer.decode([i])).isascii() and text.isprintable() for i in range(320)]
    with torch.no_grad():  # lm-eval shows special tokens and half characters of one backend only
        made.lm_head.weight[~torch.tensor(plain)] = 0
    made.save_pretrained(folder)


def written(folder: Path, questions: list[str]) -> list[str]:
    """What the merge of `one` and `two` writes after each question, by transformers alone: every second one wrong."""
    import torch

    import stockpot as sp
    from stockpot.evaluate import candidate

    opened = candidate(0.5 * sp.open(folder / "one") + 0.5 * sp.open(folder / "two")).opened("cpu")
    network, tokenizer = opened.transformer("causal"), opened.tokenizer
    found = []
    for number, question in enumerate(questions):
        ids = torch.tensor([tokenizer.encode(question, add_special_tokens=False)])
        with torch.inference_mode():
            made = network.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
        text = tokenizer.decode(made, skip_special_tokens=True).split("\n")[0]
        found.append(text if number % 2 else text + "?")
    return found


def bench(folder: Path) -> None:
    """Models, the recipe, tasks, data, and a suite for each backend."""
    for seed, name in enumerate(("one", "two")):
        (folder / name).mkdir()
        model(folder / name, seed)
    (folder / "merge.yml").write_text(
        "merge_method: linear\ndtype: float32\nmodels:\n"
        "  - {model: one, parameters: {weight: 0.5}}\n  - {model: two, parameters: {weight: 0.5}}\n"
    )
    questions = [f"The soup of {number} spoons is" for number in range(24)]
    rows = [
        {"question": question, "choices": [f" hot {i}", f" {i} cold", " none"], "answer": i % 3, "written": text}
        for i, (question, text) in enumerate(zip(questions, written(folder, questions), strict=True))
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{HEAD}{text}")
    for backend, more in (("transformers", ""), ("vllm", "backend: vllm, settings: {dtype: float32}, ")):
        tasks = [f"  {n}: {{kind: lm_eval, task: {n}.yaml, {more}split: {{report: data.jsonl}}}}\n" for n in TASKS]
        (folder / f"{backend}.yml").write_text("tasks:\n" + "".join(tasks))


def figures(folder: Path, backend: str) -> dict[str, float]:
    """Model, task and metric → figure."""
    from stockpot.evaluate import candidate, evaluate, load_suite

    models = [candidate(folder / name, name=name) for name in ("one", "merge.yml")]
    result = evaluate(models, load_suite(folder / f"{backend}.yml"))
    for cell in result.failed:
        print(f"{cell.model}, {cell.task}, {backend}: {cell.error}")
    return {f"{c.model} {c.task} {figure.metric}": figure.value for c in result.cells for figure in c.figures}


def main() -> int:
    """Print the table."""
    if find_spec("vllm") is None:
        print("vLLM is not installed: pip install vllm")
        return 3
    with tempfile.TemporaryDirectory() as name:
        bench(Path(name))
        before = set(Path(tempfile.gettempdir()).glob("stockpot-vllm-*"))
        theirs, ours = (figures(Path(name), backend) for backend in ("transformers", "vllm"))
    left = set(Path(tempfile.gettempdir()).glob("stockpot-vllm-*")) - before
    print(f"{'figure':34}{'transformers':>14}{'vllm':>14}")
    for key in sorted(theirs.keys() | ours.keys()):
        print(f"{key:34}{theirs.get(key, float('nan')):14.6g}{ours.get(key, float('nan')):14.6g}")
    apart = [k for k in theirs if k not in ours or abs(theirs[k] - ours[k]) > SAME * max(1e-9, abs(theirs[k]))]
    for what in (*apart, *sorted(map(str, left))):
        print(f"differs or is left: {what}")
    return 0 if theirs and len(theirs) == len(ours) and not apart and not left else 1


if __name__ == "__main__":
    sys.exit(main())
