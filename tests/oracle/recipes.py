"""The recipes on which stockpot is compared with mergekit, as text with placeholders.

Placeholders: ``{base} {a} {b} {c}`` are checkpoint folders, ``{n}`` is the number of layers,
``{half}`` half of it, ``{attention}`` and ``{mlp}`` are parts of tensor names for filters. The
``dtype`` lines are added by the comparison. Every recipe here is deterministic in mergekit.
"""

from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Recipe:
    """One recipe: a name for the table, and the YAML text with placeholders.

    ``widens`` says that mergekit gives float32 tensors for models of 16 bits.
    """

    name: str
    text: str
    widens: bool = False

    def render(self, values: dict[str, str]) -> str:
        """The YAML with placeholders filled; other braces stay as they are."""
        text = self.text
        for key, value in values.items():
            text = text.replace("{" + key + "}", value)
        return text


@dataclass(frozen=True)
class Family:
    """What recipes must know of a network family: its layers and parts of its tensor names."""

    layers: int
    attention: str
    mlp: str


FAMILIES = MappingProxyType(
    {
        "llama": Family(layers=4, attention="self_attn", mlp="mlp"),
        "gpt2": Family(layers=2, attention="attn", mlp="mlp"),
        "bert": Family(layers=3, attention="attention", mlp="intermediate"),
    }
)


def _models(method: str, entries: dict[str, str], rest: str = "") -> str:
    """A `models:` recipe: for each placeholder its parameters in flow style ('' for none)."""
    lines = [f"merge_method: {method}", "models:"]
    for model, parameters in entries.items():
        lines.append(f"  - model: {{{model}}}")
        if parameters:
            lines.append(f"    parameters: {{{parameters}}}")
    return "\n".join(lines) + "\n" + rest


def _tuned(method: str, weights: tuple[str, str, str], rest: str) -> str:
    """A recipe of three fine-tunes on a base, each with the given parameters."""
    a, b, c = weights
    return _models(method, {"a": a, "b": b, "c": c}, "base_model: {base}\n" + rest)


_WEIGHTS = ("weight: 0.5", "weight: 0.3", "weight: 0.4")
_TIES = (
    "weight: 0.5, density: 0.5",
    "weight: 0.3, density: 0.3",
    "weight: 0.4, density: 0.5",
)
_TRIM_LAYERS = (
    "weight: [0.2, 0.9], density: [0.4, 0.9, 0.6]",
    "weight: 0.3, density: 0.3",
    "weight: 0.4, density: 0.5",
)

_SLERP_FILTERS = """\
merge_method: slerp
slices:
  - sources:
      - {model: {base}, layer_range: [0, {n}]}
      - {model: {a}, layer_range: [0, {n}]}
base_model: {base}
parameters:
  t:
    - filter: {attention}
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: {mlp}
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
"""

_PASSTHROUGH_SLICES = """\
merge_method: passthrough
slices:
  - sources:
      - {model: {a}, layer_range: [0, {half}]}
  - sources:
      - {model: {b}, layer_range: [0, {n}]}
  - sources:
      - {model: {c}, layer_range: [{half}, {n}]}
"""

_PASSTHROUGH_SCALED_SLICE = """\
merge_method: passthrough
slices:
  - sources:
      - {model: {a}, layer_range: [0, {n}]}
  - sources:
      - model: {a}
        layer_range: [0, 1]
        parameters:
          scale:
            - {filter: {attention}, value: 0.0}
            - {filter: {mlp}, value: 0.7}
            - {value: 1.0}
"""

_LINEAR_SLICES = """\
merge_method: linear
slices:
  - sources:
      - {model: {a}, layer_range: [0, {half}], parameters: {weight: 0.2}}
      - {model: {b}, layer_range: [0, {half}], parameters: {weight: [0.8, 0.4]}}
  - sources:
      - {model: {b}, layer_range: [{half}, {n}], parameters: {weight: 1}}
      - {model: {c}, layer_range: [{half}, {n}], parameters: {weight: 2}}
"""

_TIES_SLICES = """\
merge_method: ties
base_model: {base}
slices:
  - sources:
      - {model: {base}, layer_range: [0, {n}]}
      - {model: {a}, layer_range: [0, {n}], parameters: {weight: [0, 0.3, 0.7, 1], density: 0.5}}
      - {model: {b}, layer_range: [0, {n}], parameters: {weight: 0.4, density: [1, 0.7, 0.1]}}
parameters: {normalize: true, int8_mask: true}
"""

_PRECEDENCE = """\
merge_method: task_arithmetic
base_model: {base}
slices:
  - sources:
      - {model: {base}, layer_range: [0, {half}]}
      - {model: {a}, layer_range: [0, {half}], parameters: {weight: 0.9}}
      - {model: {b}, layer_range: [0, {half}]}
    parameters: {weight: 0.25}
  - sources:
      - {model: {base}, layer_range: [{half}, {n}]}
      - model: {a}
        layer_range: [{half}, {n}]
        parameters:
          weight:
            - {filter: {attention}, value: 0.6}
      - {model: {b}, layer_range: [{half}, {n}]}
    parameters: {lambda: 0.5}
parameters: {weight: 0.1, lambda: 1.5}
"""

_FIRST_MATCH = _models(
    "linear",
    {"a": "", "b": "weight: 1"},
).replace(
    "  - model: {a}\n",
    """\
  - model: {a}
    parameters:
      weight:
        - {filter: {mlp}, value: [0.1, 0.9]}
        - {filter: weight, value: 0.4}
        - {filter: "*", value: 0.7}
""",
)

CORE = (
    Recipe("linear", _models("linear", {"a": "weight: 1", "b": "weight: 1", "c": "weight: 1"})),
    Recipe(
        "linear weights",
        _models("linear", {"a": "weight: 0.3", "b": "weight: 0.5", "c": "weight: 0.4"}),
    ),
    Recipe(
        "linear normalize false",
        _models(
            "linear",
            {"a": "weight: 0.3", "b": "weight: 0.5", "c": "weight: 0.4"},
            "parameters: {normalize: false}\n",
        ),
    ),
    Recipe(
        "linear extrapolating",
        _models("linear", {"a": "weight: 1.7", "b": "weight: -0.4", "c": "weight: -0.3"}),
    ),
    Recipe(
        "linear with base_model",
        _models("linear", {"base": "weight: 0.6", "a": "weight: 0.4"}, "base_model: {base}\n"),
    ),
    Recipe("wise_ft as linear", _models("linear", {"base": "weight: 0.35", "a": "weight: 0.65"})),
    Recipe(
        "linear gradients",
        _models("linear", {"a": "weight: [0, 0.3, 0.7, 1]", "b": "weight: [1, 0.2]"}),
    ),
    Recipe("linear filters, first match", _FIRST_MATCH),
    Recipe("linear slices", _LINEAR_SLICES),
    Recipe("task_arithmetic", _tuned("task_arithmetic", _WEIGHTS, "")),
    Recipe(
        "task_arithmetic lambda",
        _tuned("task_arithmetic", _WEIGHTS, "parameters: {lambda: 0.7}\n"),
    ),
    Recipe(
        "task_arithmetic normalize",
        _tuned("task_arithmetic", _WEIGHTS, "parameters: {normalize: true}\n"),
    ),
    Recipe(
        "task_arithmetic negated",
        _models("task_arithmetic", {"a": "weight: -1.0"}, "base_model: {base}\n"),
    ),
    Recipe("task_arithmetic precedence", _PRECEDENCE),
    Recipe(
        "slerp",
        _models("slerp", {"a": "", "b": ""}, "base_model: {a}\nparameters: {t: 0.3}\n"),
    ),
    Recipe(
        "slerp base second",
        _models("slerp", {"a": "", "b": ""}, "base_model: {b}\nparameters: {t: 0.3}\n"),
    ),
    Recipe("slerp filters, gradients", _SLERP_FILTERS),
    Recipe("nuslerp", _models("nuslerp", {"a": "weight: 0.7", "b": "weight: 0.3"})),
    Recipe(
        "nuslerp with base",
        _models("nuslerp", {"a": "weight: 0.7", "b": "weight: 0.5"}, "base_model: {base}\n"),
    ),
    Recipe(
        "nuslerp columns",
        _models(
            "nuslerp",
            {"a": "weight: 0.7", "b": "weight: 0.3"},
            "parameters: {nuslerp_flatten: false}\n",
        ),
    ),
    Recipe(
        "nuslerp rows with base",
        _models(
            "nuslerp",
            {"a": "weight: 0.7", "b": "weight: 0.3"},
            "base_model: {base}\nparameters: {nuslerp_flatten: false, nuslerp_row_wise: true}\n",
        ),
    ),
    Recipe(
        "nuslerp rows",
        _models(
            "nuslerp",
            {"a": "weight: 0.7", "b": "weight: 0.3"},
            "parameters: {nuslerp_flatten: false, nuslerp_row_wise: true}\n",
        ),
    ),
    Recipe(
        "nuslerp frozen tensors",
        _models("nuslerp", {"a": "weight: 1", "c": "weight: 1"}, "base_model: {base}\n"),
    ),
    Recipe("model_stock 2", _models("model_stock", {"a": "", "b": ""}, "base_model: {base}\n")),
    Recipe("model_stock 3", _tuned("model_stock", ("", "", ""), "")),
    Recipe(
        "model_stock 2 filter_wise",
        _models(
            "model_stock",
            {"a": "", "b": ""},
            "base_model: {base}\nparameters: {filter_wise: true}\n",
        ),
    ),
    Recipe(
        "model_stock 3 filter_wise",
        _tuned("model_stock", ("", "", ""), "parameters: {filter_wise: true}\n"),
    ),
    Recipe("ties density 1", _tuned("ties", _WEIGHTS, "")),
    Recipe("ties", _tuned("ties", _TIES, "")),
    Recipe("ties normalize false", _tuned("ties", _TIES, "parameters: {normalize: false}\n")),
    Recipe("ties lambda", _tuned("ties", _TIES, "parameters: {lambda: 1.3}\n")),
    Recipe("ties int8_mask", _tuned("ties", _TIES, "parameters: {int8_mask: true}\n")),
    Recipe("ties rescale", _tuned("ties", _TIES, "parameters: {rescale: true}\n")),
    Recipe(
        "ties negative weight",
        _tuned("ties", (_TIES[0], "weight: -0.3, density: 0.5", _TIES[2]), ""),
    ),
    Recipe("ties gradients", _tuned("ties", _TRIM_LAYERS, "")),
    Recipe("ties slices", _TIES_SLICES),
    Recipe("passthrough", _models("passthrough", {"a": ""})),
    Recipe("passthrough scale", _models("passthrough", {"a": "scale: 0.7"})),
    Recipe("passthrough slices", _PASSTHROUGH_SLICES),
    Recipe("passthrough scaled slice", _PASSTHROUGH_SCALED_SLICE),
    Recipe("dare_ties density 1", _tuned("dare_ties", _WEIGHTS, "")),
    Recipe("dare_linear density 1", _tuned("dare_linear", _WEIGHTS, "")),
    Recipe(
        "dare_linear normalize",
        _tuned("dare_linear", _WEIGHTS, "parameters: {normalize: true, lambda: 0.9}\n"),
    ),
)
"""Methods that stockpot promises to match in `compat: mergekit`."""

ELEMENTWISE = (
    Recipe("breadcrumbs", _tuned("breadcrumbs", _TIES, "")),
    Recipe(
        "breadcrumbs gamma",
        _tuned("breadcrumbs", _TIES, "parameters: {gamma: 0.05, rescale: true}\n"),
    ),
    Recipe("breadcrumbs few outliers", _tuned("breadcrumbs", _TIES, "parameters: {gamma: 0.7}\n")),
    Recipe("breadcrumbs_ties", _tuned("breadcrumbs_ties", _TIES, "")),
    Recipe(
        "breadcrumbs_ties normalize",
        _tuned("breadcrumbs_ties", _TIES, "parameters: {normalize: true, lambda: 0.8}\n"),
    ),
    Recipe("della density 1", _tuned("della", _WEIGHTS, "")),
    Recipe("della_linear density 1", _tuned("della_linear", _WEIGHTS, "")),
    Recipe(
        "della_linear normalize",
        _tuned("della_linear", _WEIGHTS, "parameters: {normalize: true, lambda: 0.9}\n"),
    ),
    Recipe(
        "nearswap",
        _models("nearswap", {"base": "", "a": ""}, "base_model: {base}\nparameters: {t: 0.0005}\n"),
    ),
    Recipe(
        "nearswap gradient",
        _models("nearswap", {"base": "", "a": ""}, "base_model: {base}\nparameters: {t: [0.00001, 0.01]}\n"),
    ),
    Recipe("sce", _tuned("sce", ("", "", ""), "")),
    Recipe("sce select_topk", _tuned("sce", ("", "", ""), "parameters: {select_topk: 0.3}\n")),
    Recipe("ram", _tuned("ram", ("", "", ""), "")),
    Recipe("ram epsilon", _tuned("ram", ("", "", ""), "parameters: {epsilon: 0.0007}\n")),
    Recipe("ramplus_tl", _tuned("ramplus_tl", ("", "", ""), "parameters: {r: 0.1, alpha: 0.2}\n"), widens=True),
    Recipe(
        "ramplus_tl stronger",
        _tuned("ramplus_tl", ("", "", ""), "parameters: {r: 0.5, alpha: 1, epsilon: 0.0007}\n"),
        widens=True,
    ),
    Recipe("arcee_fusion", _models("arcee_fusion", {"base": "", "a": ""}, "base_model: {base}\n"), widens=True),
)
"""Elementwise methods that draw no random numbers on tensors as small as these."""

SPHERE = (
    Recipe("multislerp", _models("multislerp", {"a": "weight: 0.5", "b": "weight: 0.3"})),
    Recipe("multislerp with base", _tuned("multislerp", _WEIGHTS, "")),
    Recipe(
        "multislerp not normalized",
        _tuned("multislerp", _WEIGHTS, "parameters: {normalize_weights: false}\n"),
    ),
    Recipe("karcher", _models("karcher", {"a": "", "b": "", "c": ""})),
    Recipe("karcher steps", _models("karcher", {"a": "", "b": ""}, "parameters: {max_iter: 2, tol: 0.001}\n")),
)
"""Means on the sphere, whose norms and inner products mergekit takes in the recipe's dtype."""

MORE = ELEMENTWISE + SPHERE
"""Further methods that stockpot promises to match in `compat: mergekit`."""
