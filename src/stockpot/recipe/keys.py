"""The recipe language as one table: which keys stand where, and what their values look like.

The checker, the suggestions in errors and the JSON Schema are all read off it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = [
    "CHAT_TEMPLATES",
    "GATE_MODES",
    "PLACES",
    "Choice",
    "Flag",
    "Integer",
    "Key",
    "ListOf",
    "MapOf",
    "Named",
    "Number",
    "Place",
    "Section",
    "Shape",
    "Text",
]


@dataclass(frozen=True)
class Text:
    """One word or line."""


@dataclass(frozen=True)
class Number:
    """A finite number."""


@dataclass(frozen=True)
class Flag:
    """true or false."""


@dataclass(frozen=True)
class Integer:
    """A whole number in [low, high]."""

    low: int
    high: int | None = None


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class ListOf:
    """A list of ``of``; ``what`` is its plural, for errors."""

    of: Shape
    what: str
    at_least: int = 0


@dataclass(frozen=True)
class MapOf:
    """A mapping from names of the user's choice to ``of``."""

    of: Shape
    what: str


@dataclass(frozen=True)
class Section:
    """A mapping with the keys of a place in :data:`PLACES`."""

    place: str


@dataclass(frozen=True)
class Named:
    """A form with a checker of its own, such as ``model``, ``method`` or ``layer_range``."""

    form: str


Shape = Text | Number | Flag | Integer | Choice | ListOf | MapOf | Section | Named


@dataclass(frozen=True)
class Key:
    """One key of the language.

    Args:
        name: As written.
        shape: What its value looks like.
        doc: One line.
        required: Whether it must be there.
    """

    name: str
    shape: Shape
    doc: str
    required: bool = False


@dataclass(frozen=True)
class Place:
    """A mapping of the language: how errors call it, and its keys."""

    title: str
    keys: tuple[Key, ...]

    def key(self, name: str) -> Key | None:
        """The key called ``name``."""
        return next((k for k in self.keys if k.name == name), None)


CHAT_TEMPLATES = ("auto", "alpaca", "chatml", "exaone", "llama3", "mistral")
GATE_MODES = ("hidden", "hidden_avg", "cheap_embed", "random", "uniform_random", "trained")
POOLINGS = ("last", "mean")
STATES = ("layer", "router", "best")

_SOURCES = ListOf(Section("source"), "sources", at_least=1)
_MODELS = ListOf(Section("entry"), "models", at_least=1)
_SLICES = ListOf(Section("slice"), "slices", at_least=1)
_WORDS = ListOf(Text(), "texts")

_INPUTS = (
    Key("models", _MODELS, "the models to merge, whole"),
    Key(
        "slices",
        _SLICES,
        "the layers of the result, from the first to the last, each merged from its sources",
    ),
)
_MODULES = Key("modules", MapOf(Section("module"), "modules"), "models or slices for each part of a model")
_PARAMETERS = Key(
    "parameters",
    Named("parameters"),
    "parameters of the method; those of a model or slice come first",
)

_MERGE = (
    Key(
        "merge_method",
        Named("method"),
        "how the models are combined, such as linear, slerp or ties",
        required=True,
    ),
    Key(
        "base_model",
        Named("model"),
        "the model that differences are taken to, or the start of an interpolation",
    ),
    *_INPUTS,
    _MODULES,
    _PARAMETERS,
    Key(
        "dtype",
        Named("dtype"),
        "dtype of the result when out_dtype is not given; arithmetic is in float32",
    ),
    Key("out_dtype", Named("dtype"), "dtype of the result; without both, each tensor keeps its own"),
    Key("steps", Named("steps"), "the steps of merge_method: steps, in order: names, or names with values"),
    Key("variant", Text(), "a variant of the method, named by its documentation"),
    Key(
        "compat",
        Choice(("mergekit", "none")),
        "mergekit: its numerics, quirks included; holds for nested merges too",
    ),
    Key("seed", Integer(0, 2**64 - 1), "key of all random numbers of the recipe; 0 by default"),
)
_TOP = (
    Key("name", Text(), "name of this document; later and earlier documents may use it as a model"),
    Key(
        "out_path",
        Text(),
        "older mergekit: a path under which other documents use this one as a model",
    ),
    Key(
        "method_file",
        Named("method_file"),
        "a Python file of methods of your own; run only with --allow-code",
    ),
    Key(
        "tokenizer_source",
        Named("model"),
        "whose tokenizer the result gets: base, union or a model",
    ),
    Key("tokenizer", Section("tokenizer"), "how the tokenizer of the result is made"),
    Key("chat_template", Named("chat_template"), "chat template of the result"),
    Key(
        "mismatched",
        Choice(("error", "base")),
        "base: tensors that a model lacks or has in another shape are the base's, those that only it has are left out",
    ),
    Key("quantize", Choice(("same",)), "same: 8-bit floats with scales, as the base (or first model) has them"),
)
_ADAPTER = Key("lora", Named("model"), "a LoRA adapter on the model")
_MODEL = (
    Key(
        "model",
        Named("model"),
        "path or hub id (id@revision), the name of a document, or a merge",
        required=True,
    ),
    _PARAMETERS,
    Key("revision", Text(), "branch, tag or commit of a model from the hub"),
    _ADAPTER,
)

PLACES: Mapping[str, Place] = MappingProxyType(
    {
        "recipe": Place("a recipe", (*_MERGE, *_TOP)),
        "merge": Place("a nested merge", _MERGE),
        "module": Place("a module", (*_INPUTS, _PARAMETERS)),
        "slice": Place(
            "a slice",
            (
                Key("sources", _SOURCES, "the models whose layers are merged", required=True),
                Key("base_model", Named("model"), "base of this slice, when it differs"),
                _PARAMETERS,
                Key("residual_weight", Number(), "accepted from mergekit, which does not use it"),
            ),
        ),
        "source": Place(
            "a source of a slice",
            (
                *_MODEL,
                Key(
                    "layer_range",
                    Named("layer_range"),
                    "[first, last + 1]; without it, the whole model",
                ),
                Key(
                    "stack",
                    Text(),
                    "which layers, for a model of several stacks: what stands before their numbers",
                ),
                Key(
                    "identity",
                    Flag(),
                    "whether what the layers add to their input is scaled by zero, so that they change nothing yet",
                ),
            ),
        ),
        "entry": Place("an entry of models", _MODEL),
        "reference": Place(
            "a model reference",
            (
                Key("model", Named("path"), "path or hub id", required=True),
                _ADAPTER,
                Key(
                    "override_architecture",
                    Text(),
                    "accepted from mergekit; names of tensors decide here",
                ),
            ),
        ),
        "path": Place(
            "a model path",
            (
                Key("path", Text(), "path or hub id, taken literally", required=True),
                Key("revision", Text(), "branch, tag or commit of a model from the hub"),
            ),
        ),
        "method_file": Place(
            "a method file",
            (
                Key("path", Text(), "path of the file, relative to the recipe", required=True),
                Key("sha256", Text(), "what its bytes must hash to"),
            ),
        ),
        "case": Place(
            "a conditional value",
            (
                Key("value", Named("gradient"), "a number, or a gradient over depth", required=True),
                Key("filter", Text(), "part of a tensor's name; without it (or *), every tensor"),
            ),
        ),
        "tokenizer": Place(
            "the tokenizer section",
            (
                Key("source", Named("model"), "base, union or a model; union by default"),
                Key(
                    "tokens",
                    MapOf(Section("token"), "tokens"),
                    "where the embedding of single tokens comes from",
                ),
                Key("pad_to_multiple_of", Integer(1), "rounds the size of the vocabulary up"),
            ),
        ),
        "token": Place(
            "a token",
            (
                Key("source", Named("token_source"), "a model, or a mapping with kind"),
                Key("force", Flag(), "use the embedding for every model"),
            ),
        ),
        "token_source": Place(
            "the source of a token",
            (
                Key("kind", Choice(("model_token", "zero")), "model_token or zero", required=True),
                Key("model", Named("model"), "model that has the token"),
                Key("token", Text(), "the token in that model"),
                Key("token_id", Integer(0), "or its number"),
            ),
        ),
        "experts": Place(
            "a mixture-of-experts recipe",
            (
                Key(
                    "base_model",
                    Named("model"),
                    "donor of everything but the experts",
                    required=True,
                ),
                Key(
                    "experts",
                    ListOf(Section("expert"), "experts", at_least=1),
                    "the experts",
                    required=True,
                ),
                Key(
                    "shared_experts",
                    ListOf(Section("expert"), "experts"),
                    "experts that see every token",
                ),
                Key("gate_mode", Choice(GATE_MODES), "how the router is made; hidden by default"),
                Key(
                    "pooling", Choice(POOLINGS), "of gate_mode: hidden: last by default, or mean over a prompt's tokens"
                ),
                Key(
                    "states",
                    Choice(STATES),
                    "of gate_mode: hidden: what enters the layer (default) or the router, or what routes better",
                ),
                Key(
                    "experts_per_token",
                    Integer(1),
                    "how many experts a token goes to; 2 by default",
                ),
                Key("dtype", Named("dtype"), "dtype of the result"),
                Key("architecture", Text(), "architecture of the result, such as mixtral"),
                Key("seed", Integer(0, 2**64 - 1), "key of all random numbers; 0 by default"),
                Key("name", Text(), "name of this document"),
            ),
        ),
        "expert": Place(
            "an expert",
            (
                Key(
                    "source_model",
                    Named("model"),
                    "the model that becomes an expert",
                    required=True,
                ),
                Key("positive_prompts", _WORDS, "texts that should go to this expert"),
                Key("negative_prompts", _WORDS, "texts that should not"),
                Key("noise_scale", Number(), "noise on its weights"),
                Key("residual_scale", Number(), "factor of its output"),
            ),
        ),
    }
)
"""Every place of the language by name."""
