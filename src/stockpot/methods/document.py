"""The page about methods, written from their declarations."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from string import ascii_lowercase
from types import MappingProxyType
from typing import Any

from stockpot.methods.bibtex import bibliography, link_of
from stockpot.methods.declare import (
    REQUIRED,
    Base,
    Blockwise,
    Citation,
    Companion,
    Elementwise,
    Matrix,
    Method,
    Parameter,
    Span,
)
from stockpot.methods.pieces import PIECES

__all__ = [
    "by_family",
    "default_of",
    "document",
    "example_call",
    "example_recipe",
    "family_of",
    "passes_of",
    "section",
    "steps_table",
    "title_of",
    "values_of",
]

_TITLES: Mapping[str, str] = MappingProxyType(
    {
        "span": "Linear combinations",
        "elementwise": "Element by element",
        "matrix": "Whole matrices",
        "structural": "Tensors handed on",
    }
)
"""Folder under ``methods/`` → heading, in the order of the page."""

_INTRO = """# Methods

<!-- Written by `make docs` from the declarations in src/stockpot/methods; change those. -->

Every merging method, as it is declared. `stockpot methods NAME` shows the same in a terminal, `stockpot methods
--cite` prints all references as BibTeX, and `help(sp.ties)` and `sp.ties.citation()` do so in Python.

- **Parameters** that each model has stand under that model in a recipe, or once for all models. Each value may be a
  number, a gradient over depth, or values by tensor name: see [recipes](recipes.md#parameters).
- **Base**: what `base_model` means. Methods that work on differences are given them in Python: `model - base`.
- **Passes**: how often the inputs are read. Memory is bounded by blocks unless a whole tensor is needed.
- **Promises** are tested for every method that makes them.
- **Examples** show what is required, and the parameters that each model has. In Python, `a`, `b` and `base` are
  models opened with `sp.open`.
- Where a result differs from other tools: [compatibility](compatibility.md).
"""

_LAMBDA = Parameter(
    "lambda", "factor of the merged difference before it is added to the base; in Python, multiply by it", default=1.0
)


_CHAIN = """merge_method: steps
base_model: ./base
models:
  - model: ./a
    parameters: {weight: 0.6}
  - model: ./b
    parameters: {weight: 0.4}
steps:
  - trim: {density: 0.2}
  - scale
  - elect
  - mean"""

_CALL = """ties = sp.trim(density=0.2) >> sp.scale() >> sp.elect() >> sp.mean()
merged = base + ties(a - base, b - base, weight=[0.6, 0.4])"""

_STEPS = """## Steps

Elementwise methods are chains of steps: sparsify, elect, combine. A chain of your own is written under `steps:` in a
recipe ([recipes](recipes.md#steps)), or in Python with `>>`. A chain that no step ends adds its models. What a step is
given holds for all models; what it is not given is a parameter of the merge, or of each model.
"""


def document(methods: Mapping[str, Method]) -> str:
    """The page in Markdown: a table for each family, one of the steps, then a section for each method.

    Args:
        methods: Name → method.
    """
    entries = bibliography(m.cites for m in methods.values())
    families = by_family(methods)
    parts = [_INTRO]
    for family, members in families.items():
        rows = [_overview(m) for m in members]
        parts += [f"## {title_of(family)}\n", _table(("method", "what it does", "base", "passes", "source"), rows)]
    parts += [
        _STEPS,
        steps_table(),
        _titled("Recipe", _fence("yaml", _CHAIN)),
        _titled("Python", _fence("python", _CALL)),
    ]
    parts += [section(m, entries[m.cites]) for members in families.values() for m in members]
    return "\n".join(parts)


def steps_table() -> str:
    """Every step with what it takes and does."""
    rows = [(f"`{p.name}`", "<br>".join(_brief(q) for q in p.parameters), _text(p.doc)) for p in PIECES.values()]
    return _table(("step", "takes", "what it does"), rows)


def _brief(p: Parameter) -> str:
    """A parameter with its default and its values, in a cell."""
    values = values_of(p)
    default = "required" if p.default is REQUIRED else f"default {_shown(p.default)}"
    return f"`{p.name}`: {_text(', '.join(filter(None, (values, default))))}"


def by_family(methods: Mapping[str, Method]) -> dict[str, list[Method]]:
    """Family → its methods; families in the order of the page, methods in that of ``methods``."""
    found: dict[str, list[Method]] = {family: [] for family in _TITLES}
    for method in methods.values():
        found.setdefault(family_of(method), []).append(method)
    return {family: members for family, members in found.items() if members}


def family_of(method: Method) -> str:
    """The folder under ``methods/`` that declares it; for methods from elsewhere, the kind of their arithmetic.

    >>> from stockpot.methods.structural.passthrough import PASSTHROUGH
    >>> family_of(PASSTHROUGH)
    'structural'
    """
    home = _arithmetic(method).__module__.split(".")
    if home[:2] == ["stockpot", "methods"] and len(home) > 3:
        return home[2]
    return type(method.family).__name__.lower()


def title_of(family: str) -> str:
    """A family's heading."""
    return _TITLES.get(family, family.capitalize())


def passes_of(method: Method) -> str:
    """How often its inputs are read."""
    match method.family:
        case Span(gram=gram):
            return "2" if gram else "1"
        case Elementwise():
            return "1, +1 for each selection or norm"
        case Blockwise(whole=False):
            return "1"
        case _:
            return "1, whole tensor in memory"


def values_of(parameter: Parameter) -> str:
    """What a parameter may be: ``in [0, 1]``, ``tensor or model``, ``true or false``; empty for any number.

    >>> values_of(Parameter("k", "", kind="int", low=1))
    'integer, in [1, inf)'
    """
    if parameter.kind == "choice":
        return " or ".join(parameter.choices)
    if parameter.kind == "bool":
        return "true or false"
    if parameter.kind == "ignored":
        return "changes nothing"
    words = ["integer"] if parameter.kind == "int" else []
    low, high = parameter.low, parameter.high
    if low is not None or high is not None:
        left = f"({_shown(low)}" if parameter.open_low else f"[{_shown(low)}"
        words.append(f"in {'(-inf' if low is None else left}, {'inf)' if high is None else f'{_shown(high)}]'}")
    return ", ".join(words)


def default_of(parameter: Parameter) -> str:
    """Its default as recipes write it, or ``required``."""
    return "required" if parameter.default is REQUIRED else _shown(parameter.default)


def section(method: Method, entry: str) -> str:
    """Everything about one method.

    Args:
        method: Its declaration.
        entry: Its reference in BibTeX.
    """
    parameters = (*method.parameters, *((_LAMBDA,) if method.scaled else ()))
    parts = [
        f"## {method.name}\n\n{_text(method.summary)}\n\n{_fence('text', method.formula)}",
        _list(_facts(method)),
        _titled("Parameters", _parameters(parameters)),
        _titled("Checkpoints it reads beside the models", _companions(method.companions)),
        _titled("Variants", _list(f"`{name}`: {_text(told)}" for name, told in (method.variants or {}).items())),
        _titled("Promises", _list(sorted(_text(law.value) for law in method.laws))),
        _titled("Notes", _list(_text(note) for note in method.notes)),
        _titled("Recipe", _fence("yaml", example_recipe(method))),
        _titled("Python", _fence("python", example_call(method))),
        _titled(
            "Reference", f"{_reference(method.cites)}, {_text(method.cites.equation)}.\n\n{_fence('bibtex', entry)}"
        ),
    ]
    return "\n".join(part for part in parts if part)


def example_recipe(method: Method) -> str:
    """A small recipe: everything required, and every parameter that each model has."""
    names = _models(method)
    lines = [f"merge_method: {method.name}"]
    if method.base in (Base.REQUIRED, Base.MEMBER):
        lines.append("base_model: ./base")
    lines.append("models:")
    for name in names:
        lines.append(f"  - model: ./{name}")
        own = {p.name: _shown(_sample(p)) for p in _own(method)}
        own |= {c.name: f"./{name}-{c.name}" for c in method.companions if c.per_model and c.required}
        lines += [f"    parameters: {_flow(own)}"] if own else []
    whole = {p.name: _shown(_sample(p)) for p in _needed(method)}
    whole |= {c.name: f"./{c.name}" for c in method.companions if not c.per_model and c.required}
    return "\n".join([*lines, *([f"parameters: {_flow(whole)}"] if whole else [])])


def example_call(method: Method) -> str:
    """The same merge in Python, of opened models ``a``, ``b``, … and ``base``."""
    names = _models(method)
    differences = method.on == "delta"
    arguments = [f"{name} - base" if differences else name for name in names]
    arguments += [f"{p.python_name}={[_sample(p)] * len(names)!r}" for p in _own(method)]
    arguments += [f"{p.python_name}={_sample(p)!r}" for p in _needed(method)]
    for c in method.companions:
        each = f"[{', '.join(f'{name}_{c.name}' for name in names)}]"
        arguments += [f"{c.name}={each if c.per_model else c.name}"] if c.required else []
    return f"merged = {'base + ' * differences}sp.{method.name}({', '.join(arguments)})"


def _arithmetic(method: Method) -> Callable[..., Any]:
    match method.family:
        case Span(coefficients=function) | Elementwise(build=function):
            return function
        case Matrix(solve=function) | Blockwise(function=function):
            return function


def _overview(method: Method) -> tuple[str, ...]:
    name = f"[{method.name}](#{method.name})"
    source = f"{_text(method.cites.short)} {method.cites.year}"
    return name, _text(method.summary), method.base.name.lower(), passes_of(method), source


def _facts(method: Method) -> Iterator[str]:
    yield f"Base: {method.base.value}."
    yield f"Models: {_count(method)}."
    yield f"Passes: {passes_of(method)}."
    if method.aliases:
        yield f"Other names: {', '.join(f'`{alias}`' for alias in method.aliases)}."
    if method.random:
        yield "Draws random numbers: a function of `seed`, tensor name, model and element."


def _count(method: Method) -> str:
    least, most = method.at_least, method.at_most
    several = f"{least} or more" if most is None else f"{least} to {most}"
    number = f"exactly {least}" if least == most else several
    beside = {Base.MEMBER: ", the base included", Base.REQUIRED: " beside the base", Base.OPTIONAL: " beside the base"}
    return number + beside.get(method.base, "")


def _parameters(parameters: Sequence[Parameter]) -> str:
    head = ("name", "default", "values", "per model", "meaning")
    rows = [
        (f"`{p.name}`", _code(default_of(p)), _text(values_of(p)), _yes(p.per_model), _text(p.doc)) for p in parameters
    ]
    return _table(head, rows) if rows else "None.\n"


def _companions(companions: Sequence[Companion]) -> str:
    head = ("name", "required", "per model", "tensors", "meaning")
    rows = [(f"`{c.name}`", _yes(c.required), _yes(c.per_model), _tensors(c), _text(c.doc)) for c in companions]
    return _table(head, rows) if rows else ""


def _tensors(companion: Companion) -> str:
    shape = "Gram matrices of inputs: (columns, columns)" if companion.gram else "of the models' shapes"
    return f"{shape}; the base is subtracted" if companion.delta else shape


def _reference(citation: Citation) -> str:
    link = link_of(citation)
    place = _text(citation.place) if link is None else f"[{_text(citation.place)}]({link})"
    return f"{_text(citation.short)} ({citation.year}), *{_text(citation.title)}*, {place}"


def _models(method: Method) -> list[str]:
    """Two models, or as many as it takes; the base first where it is one of them."""
    count = max(method.at_least, 2 if method.at_most is None else min(2, method.at_most))
    first = ["base"] if method.base is Base.MEMBER else []
    return [*first, *ascii_lowercase[: count - len(first)]]


def _own(method: Method) -> list[Parameter]:
    return [p for p in method.parameters if p.per_model and p.kind != "ignored"]


def _needed(method: Method) -> list[Parameter]:
    return [p for p in method.parameters if p.default is REQUIRED and not p.per_model]


def _sample(parameter: Parameter) -> Any:
    """Its default, or the middle of its range where it has none or where the default means `everything`."""
    if parameter.default is not REQUIRED and parameter.default != parameter.high:
        return parameter.default
    if parameter.kind in ("bool", "choice"):
        return parameter.choices[0] if parameter.choices else True
    top = 1.0 if parameter.high is None else parameter.high
    low = min(0.0, top - 1.0) if parameter.low is None else parameter.low
    middle = (low + (max(top, low + 1.0) if parameter.high is None else top)) / 2
    return math.ceil(middle) if parameter.kind == "int" else middle


def _shown(value: Any) -> str:
    """As recipes write it: ``true``, ``1``, ``0.5``."""
    return str(value).lower() if isinstance(value, bool) else str(value).removesuffix(".0")


def _flow(values: Mapping[str, str]) -> str:
    return f"{{{', '.join(f'{name}: {value}' for name, value in values.items())}}}"


def _text(text: str) -> str:
    r"""Text in which Markdown sees no markup but `code`.

    >>> print(_text("|x| * y_i in `a_b`"))
    \|x\| \* y_i in `a_b`
    """
    pieces = re.split(r"(`[^`]*`)", text)
    escaped = [re.sub(r"[\\*<\[\]|]|(?<!\w)_|_(?!\w)", r"\\\g<0>", piece) for piece in pieces[::2]]
    code = [*(piece.replace("|", r"\|") for piece in pieces[1::2]), ""]
    return "".join(piece for pair in zip(escaped, code, strict=True) for piece in pair)


def _code(word: str) -> str:
    return word if word == "required" else f"`{word}`"


def _yes(answer: bool) -> str:
    return "yes" if answer else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _list(items: Sequence[str] | Iterator[str]) -> str:
    return "".join(f"- {item}\n" for item in items)


def _fence(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```\n"


def _titled(title: str, body: str) -> str:
    return f"### {title}\n\n{body}" if body else ""
