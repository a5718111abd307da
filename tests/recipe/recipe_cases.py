"""Recipes that several tests share: one for each mistake, and good ones for each feature."""

from __future__ import annotations

LINEAR = "merge_method: linear\nmodels: [{model: a}, {model: b}]\n"
TIES = "merge_method: ties\nbase_model: B\nmodels: [{model: a}, {model: b}]\n"

CASES: dict[str, tuple[str, str, int | None, str | None]] = {
    "empty": ("", "empty", None, "merge_method"),
    "a list": ("- a\n", "a recipe is a mapping", 1, "merge_method"),
    "misspelled key": (
        "merge_methiod: linear\nmodels: [{model: a}]",
        "unknown key 'merge_methiod'",
        1,
        "did you mean merge_method?",
    ),
    "parameter at the wrong indent": (
        "merge_method: linear\nmodels:\n  - model: a\n    weight: 1",
        "unknown key 'weight' in an entry of models",
        4,
        "parameters: {weight: …}",
    ),
    "parameter at the top": (TIES + "density: 0.5", "unknown key 'density'", 4, "parameters"),
    "misspelled parameter at the wrong indent": (
        TIES + "desnity: 0.5",
        "unknown key 'desnity'",
        4,
        "parameters: {density: …}",
    ),
    "key of another place": (
        "merge_method: linear\nmodels: [{model: a, layer_range: [0, 1]}]",
        "unknown key 'layer_range'",
        2,
        "belongs in a source of a slice",
    ),
    "fork's key": (LINEAR + "align_weights: zipit", "unknown key", 3, "a recipe takes: merge_method"),
    "pattern for filter": (
        "merge_method: slerp\nbase_model: a\nmodels: [{model: b}]\n"
        "parameters:\n  t:\n    - pattern: mlp\n      value: 1\n    - value: 0",
        "unknown key 'pattern'",
        6,
        "did you mean filter?",
    ),
    "name for model": (
        "merge_method: linear\nmodels: [{name: a}]",
        "unknown key 'name'",
        2,
        "did you mean model?",
    ),
    "misspelled parameter": (
        TIES + "parameters:\n  nomalize: true",
        "unknown parameter 'nomalize' of ties",
        5,
        "did you mean normalize?",
    ),
    "unknown parameter": (
        TIES + "parameters: {qqq: 1}",
        "unknown parameter 'qqq' of ties",
        4,
        "ties takes: weight, density",
    ),
    "unknown method": (LINEAR.replace("linear", "sleep"), "unknown method", 1, "did you mean slerp?"),
    "method is a list": (LINEAR.replace("linear", "[a]"), "is a list", 1, None),
    "no method": ("models: [{model: a}]", "a recipe needs merge_method", 1, "linear"),
    "empty method": ("merge_method:\nmodels: [{model: a}]", "merge_method is empty", 1, "linear"),
    "nothing to merge": ("merge_method: linear", "nothing to merge", 1, "models:"),
    "models and slices": (
        LINEAR + "slices: [{sources: [{model: a}]}]",
        "models and slices are given",
        3,
        "keep one",
    ),
    "models is a mapping": (
        "merge_method: linear\nmodels: {model: a}",
        "models is a mapping",
        2,
        "after a dash",
    ),
    "an entry is a word": ("merge_method: linear\nmodels: [a]", "is 'a', not a mapping", 2, "model"),
    "no models": ("merge_method: linear\nmodels: []", "empty list", 2, "at least 1"),
    "no model": ("merge_method: linear\nmodels: [{parameters: {}}]", "needs model", 2, "path"),
    "empty model": ("merge_method: linear\nmodels: [{model: }]", "model is empty", 2, "path"),
    "blank model": ("merge_method: linear\nmodels: [{model: ' '}]", "model is empty", 2, "path"),
    "model is a list": ("merge_method: linear\nmodels: [{model: [a, b]}]", "a list", 2, "one entry"),
    "placeholder": ("merge_method: linear\nmodels: [{model: {A}}]", "{A} is a placeholder", 2, "hub id"),
    "no base": ("merge_method: ties\nmodels: [{model: a}]", "needs a base", 1, "base_model"),
    "no base for slerp": (
        LINEAR.replace("linear", "slerp") + "parameters: {t: 1}",
        "needs base_model",
        1,
        "base_model: a or b",
    ),
    "base is a third model": (
        LINEAR.replace("linear", "slerp") + "parameters: {t: 1}\nbase_model: c",
        "base_model c is neither of the two",
        4,
        "base_model: a or b",
    ),
    "three models for slerp": (
        "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}, {model: c}]\nparameters: {t: 1}",
        "slerp takes exactly 2 models, not 3",
        1,
        None,
    ),
    "only the base": (
        "merge_method: ties\nbase_model: a\nmodels: [{model: a}]",
        "ties takes at least 1 models beside the base, not 0",
        1,
        None,
    ),
    "required parameter": (
        "merge_method: slerp\nbase_model: a\nmodels: [{model: b}]",
        "slerp needs t",
        1,
        "0 is the base",
    ),
    "out of range": (TIES + "parameters:\n  density: 1.5", "density = 1.5 is outside [0, 1]", 5, "share"),
    "out of range in a gradient": (
        TIES + "parameters:\n  density: [0, 20]",
        "density = 20 is outside",
        5,
        "share",
    ),
    "not a number": (TIES + "parameters:\n  weight: heavy", "weight is 'heavy'", 5, "gradient"),
    "a time": (TIES + "parameters:\n  weight: 1:30", "weight is '1:30'", 5, "gradient"),
    "empty value": (TIES + "parameters:\n  weight:", "weight is empty", 5, "gradient"),
    "infinite": (TIES + "parameters:\n  weight: .inf", "weight is '.inf'", 5, "gradient"),
    "infinite lambda": (TIES + "parameters:\n  lambda: 1e999", "lambda is '1e999'", 5, "gradient"),
    "a huge number": (TIES + f"parameters:\n  weight: 1{'0' * 400}", "weight is", 5, "gradient"),
    "empty gradient": (TIES + "parameters:\n  weight: []", "weight is a list", 5, "gradient"),
    "mixed list": (TIES + "parameters:\n  weight: [1, {value: 2}]", "a mapping", 5, "gradient"),
    "case without value": (TIES + "parameters:\n  weight: [{filter: a}]", "needs value", 5, "gradient"),
    "parameters is a list": (TIES + "parameters: [1]", "parameters is a list", 4, "name: value"),
    "given twice": (
        "merge_method: linear\nmodels:\n  - model: a\n  - model: b\n  - model: a/",
        "a/ is given twice in one merge (first on line 3)",
        5,
        "sum of the weights",
    ),
    "base given twice": (
        "merge_method: ties\nbase_model: B\nmodels: [{model: B}, {model: B}, {model: a}]",
        "B is given twice",
        3,
        "one entry",
    ),
    "modules is a list": ("merge_method: linear\nmodules: [a]", "modules is a list, not a mapping", 2, None),
    "empty path": ("merge_method: linear\nmodels: [{model: {model: ' '}}]", "model is empty", 2, "hub id"),
    "range is a word": (
        "merge_method: linear\nslices: [{sources: [{model: a, layer_range: 0-8}]}]",
        "layer_range is '0-8'",
        2,
        "[first, last + 1]",
    ),
    "chat template is a list": (LINEAR + "chat_template: [a]", "chat_template is a list", 3, None),
    "lengths of a slice": (
        "merge_method: linear\nslices:\n  - sources:\n"
        "      - {model: a, layer_range: [0, 8]}\n      - {model: b, layer_range: [0, 9]}",
        "8 and 9 layers",
        5,
        "same number",
    ),
    "a slice without its base": (
        "merge_method: ties\nbase_model: B\nslices:\n  - sources: [{model: a, layer_range: [0, 8]}]",
        "the base is not among the sources",
        4,
        "{model: B, layer_range: […]}",
    ),
    "empty range": (
        "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [8, 8]}]}]",
        "layer_range [8, 8] has no layers",
        2,
        "[first, last + 1]",
    ),
    "negative range": (
        "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [-4, 8]}]}]",
        "has no layers",
        2,
        "[first, last + 1]",
    ),
    "three bounds": (
        "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 8, 2]}]}]",
        "layer_range is [0, 8, 2]",
        2,
        "[first, last + 1]",
    ),
    "fractions of layers": (
        "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 1.5]}]}]",
        "not two whole numbers",
        2,
        "[first, last + 1]",
    ),
    "a slice without sources": ("merge_method: linear\nslices: [{}]", "needs sources", 2, "layers"),
    "dtype": (LINEAR + "dtype: bf61", "dtype is 'bf61'", 3, "bfloat16"),
    "integer dtype": (LINEAR + "out_dtype: int64", "out_dtype is 'int64'", 3, "bfloat16"),
    "variant": (TIES + "variant: papre", "no variant 'papre'", 1, "unweighted"),
    "compat": (TIES + "compat: yes", "compat is 'yes'", 4, None),
    "seed": (TIES + "seed: -1", "seed is '-1'", 4, None),
    "large seed": (TIES + "seed: 18446744073709551616", "not a whole number", 4, None),
    "two seeds": (
        "name: x\nseed: 1\n" + LINEAR + "---\nseed: 2\n" + LINEAR.replace("a}", "x}"),
        "seed 2 here, but 1 on line 1",
        6,
        "one seed",
    ),
    "name belongs to documents": (
        "merge_method: linear\nmodels: [{model: {name: a, merge_method: linear, models: [{model: b}]}}]",
        "unknown key 'name' in a nested merge",
        2,
        None,
    ),
    "two unnamed documents": (LINEAR + "---\n" + LINEAR, "second document without a name", 4, "name"),
    "two documents of one name": (
        "name: x\n" + LINEAR + "---\nname: x\n" + LINEAR,
        "two documents are named 'x'",
        5,
        "own",
    ),
    "a circle": (
        "name: x\nmerge_method: linear\nmodels: [{model: y}]\n---\nname: y\nmerge_method: linear\nmodels: [{model: x}]",
        "in a circle: x → y → x",
        1,
        None,
    ),
    "two pluses": ("merge_method: linear\nmodels: [{model: a+b+c}]", "more than one +", 2, "path"),
    "tokenizer twice": (
        LINEAR + "tokenizer_source: base\ntokenizer: {source: base}",
        "tokenizer and tokenizer_source are both given",
        3,
        "keep one",
    ),
    "tokenizer is a word": (LINEAR + "tokenizer: a", "not a mapping", 3, "source"),
    "chat template": (LINEAR + "chat_template: llama", "unknown chat template", 3, "llama3"),
    "kind of token": (
        LINEAR + "tokenizer: {source: base, tokens: {x: {source: {kind: none}}}}",
        "kind is 'none', not one of model_token, zero",
        3,
        None,
    ),
    "prompts are a word": (
        "base_model: a\nexperts:\n  - source_model: b\n    positive_prompts: chat",
        "positive_prompts is 'chat', not a list of texts",
        4,
        "dash",
    ),
    "gate mode": (
        "base_model: a\ngate_mode: hiden\nexperts: [{source_model: b}]",
        "gate_mode is 'hiden'",
        2,
        None,
    ),
}
"""Name → text, part of the message, line, part of the fix."""

TEXTS = {
    "ties": """
merge_method: ties
base_model: B
models:
  - {model: B, parameters: {weight: 2}}
  - model: x@r
    parameters: {weight: [{filter: mlp, value: [0, 1]}, {value: 0.3}], density: 0.5}
parameters: {lambda: [{filter: attn, value: 2}], int8_mask: true, epsilon: 0.1}
dtype: bf16
seed: 5
""",
    "slices": """
merge_method: slerp
base_model: {path: a+b}
compat: mergekit
slices:
  - sources: [{model: {path: a+b}, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]
    parameters: {t: [0, 1]}
  - base_model: b
    sources: [{model: a, layer_range: [2, 4]}, {model: b, layer_range: [2, 4]}]
parameters: {t: 0.5}
chat_template: auto
tokenizer: {source: union, pad_to_multiple_of: 64}
""",
    "documents": """
name: soup
merge_method: average
dtype: float16
out_dtype: bfloat16
models: [{model: a}, {model: {merge_method: linear, models: [{model: c}], dtype: bf16}}]
---
merge_method: ties
variant: unweighted
base_model: soup
modules:
  default: {models: [{model: d}], parameters: {weight: 0.5}}
""",
    "companions": """
merge_method: fisher
models:
  - {model: a, parameters: {fisher: a-fisher@r, weight: [0, 1]}}
  - {model: b, parameters: {fisher: {path: b+fisher}}}
  - model: c
    parameters:
      fisher: {merge_method: ties, base_model: B, models: [{model: d}], parameters: {sign_from: {model: {path: e}}}}
parameters: {scope: tensor}
""",
    "steps": """
merge_method: steps
base_model: B
models: [{model: a, parameters: {weight: 2}}, {model: b}]
steps:
  - trim: {density: [{filter: mlp, value: [0.1, 0.5]}, {value: 0.3}], scope: model}
  - drop: {rescale: false}
  - scale
  - elect:
  - mean: {by: count}
parameters: {lambda: 0.5, density: 0.9}
""",
}
"""Recipes of every feature that is supported, by their main method."""

EXPERTS = """
base_model: a
gate_mode: hidden
dtype: bfloat16
experts_per_token: 2
architecture: mixtral
experts:
  - source_model: b
    positive_prompts: ["chat", ""]
    negative_prompts: []
    noise_scale: 0.1
  - source_model: {model: {path: c}}
shared_experts:
  - {source_model: d, residual_scale: 0.1}
"""
