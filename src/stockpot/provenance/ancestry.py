"""The merges behind a model: read from receipts and from mergekit_config.yml, bounded whatever those hold."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stockpot.errors import CheckpointError, Problem, StockpotError, StorageError
from stockpot.provenance.expressions import methods_in
from stockpot.provenance.receipts import RECEIPT_NAME, read_receipt
from stockpot.provenance.small import lies_there, small_text
from stockpot.recipe.yaml_nodes import Entry, Node, Scalar, Sequence, compose
from stockpot.recipe.yaml_nodes import Mapping as YamlMapping

__all__ = ["MERGEKIT_NAME", "Ancestor", "ancestry_of", "bounded", "from_data", "lineage", "tree_of"]

MERGEKIT_NAME = "mergekit_config.yml"

MAX_NODES = 1000
MAX_DEPTH = 32
MAX_TEXT = 300
_MAX_RECEIPT = 64_000_000
_MAX_CONFIG = 1_000_000

_LATER = "there is more behind it than is kept here"
_NOW = "as it lies there now"


@dataclass(frozen=True)
class Ancestor:
    """A model in the tree.

    Args:
        label: How the merge that used it called it.
        hub: Its id at the hub, where it came from there.
        revision: Its commit there.
        licence: What it states.
        tool: What merged it, ``stockpot`` or ``mergekit``; None for a model that was not merged, as far as is known.
        methods: Of that merge, outermost first.
        parents: What it was merged from.
        note: What a reader should know about this entry.
    """

    label: str
    hub: str | None = None
    revision: str | None = None
    licence: str | None = None
    tool: str | None = None
    methods: tuple[str, ...] = ()
    parents: tuple[Ancestor, ...] = ()
    note: str | None = None

    def as_data(self) -> dict[str, Any]:
        """As JSON data, what is not known left out."""
        data = {
            "label": self.label,
            "hub": self.hub,
            "revision": self.revision,
            "licence": self.licence,
            "tool": self.tool,
            "methods": list(self.methods),
            "inputs": [parent.as_data() for parent in self.parents],
            "note": self.note,
        }
        return {key: value for key, value in data.items() if value not in (None, [])}


def lineage(folder: Path) -> Ancestor:
    """The tree of merges behind the model in ``folder``.

    Inputs of which the receipt tells no merge are looked at where they lie now.

    Raises:
        CheckpointError: when neither a receipt nor a mergekit_config.yml lies there.
    """
    name = folder.resolve().name or str(folder)
    told = lies_there(folder / RECEIPT_NAME)
    found = tree_of(read_receipt(folder), name) if told else _of_mergekit(folder, name)
    if found is None:
        message = f"neither {RECEIPT_NAME} nor {MERGEKIT_NAME} lies here: nothing is known of how it was made"
        raise CheckpointError(Problem(message, file=str(folder)))
    return bounded(_Walk().followed(folder, found, 1, frozenset()))


def ancestry_of(folder: Path | None) -> dict[str, Any] | None:
    """How the model in ``folder`` was made, as JSON data without its own label; None when nothing is known."""
    found = None if folder is None else _made_in(folder, "")
    if found is None:
        return None
    data = bounded(found).as_data()
    del data["label"]
    return data


def tree_of(receipt: Mapping[str, Any], label: str) -> Ancestor:
    """The tree that a receipt tells of its model, without looking at any other file."""
    inputs = receipt.get("inputs", {})
    parents = tuple(
        from_data(
            {
                **_dict(data.get("ancestry")),
                "label": name,
                **{key: data.get(key) for key in ("hub", "revision", "licence")},
            }
        )
        for name, data in sorted(inputs.items())
    )
    return Ancestor(_cut(label), tool="stockpot", methods=_methods(receipt), parents=parents)


def from_data(data: Any, depth: int = 0) -> Ancestor:
    """What :meth:`Ancestor.as_data` wrote; whatever is of a wrong type or too deep is left out."""
    data = _dict(data)
    words = {key: _text(data.get(key)) for key in ("hub", "revision", "licence", "tool", "note")}
    methods, inputs = data.get("methods"), data.get("inputs")
    names = tuple(_cut(m) for m in methods[:50] if isinstance(m, str)) if isinstance(methods, list) else ()
    below = inputs if isinstance(inputs, list) and depth < MAX_DEPTH else []
    parents = tuple(from_data(item, depth + 1) for item in below[:MAX_NODES])
    return Ancestor(_text(data.get("label")) or "?", methods=names, parents=parents, **words)


def bounded(root: Ancestor) -> Ancestor:
    """``root`` with at most MAX_NODES models and MAX_DEPTH generations, the nearest ones."""
    level, count, depth = [root], 1, 0
    while level and depth < MAX_DEPTH:
        level = [parent for node in level for parent in node.parents]
        if count + len(level) > MAX_NODES:
            break
        count, depth = count + len(level), depth + 1
    return _pruned(root, max(depth, 1), MAX_NODES - 1) if level else root


def _pruned(node: Ancestor, depth: int, most: int) -> Ancestor:
    if depth == 0:
        return replace(node, parents=(), note=_LATER) if node.parents else node
    parents = tuple(_pruned(parent, depth - 1, most) for parent in node.parents[:most])
    return replace(node, parents=parents, note=_LATER if len(node.parents) > most else node.note)


class _Walk:
    """Looks at inputs where they lie now; each folder once on a path, no more folders than models are kept."""

    def __init__(self) -> None:
        self._left = MAX_NODES

    def followed(self, folder: Path, node: Ancestor, depth: int, above: frozenset[str]) -> Ancestor:
        """``node``, which ``folder`` holds, with what is found behind those of its inputs that tell nothing."""
        above |= {os.path.realpath(folder)}
        places = _places(folder)
        parents = tuple(
            self._looked_up(parent, places.get(parent.label), depth, above) if parent.tool is None else parent
            for parent in node.parents
        )
        return replace(node, parents=parents)

    def _looked_up(self, node: Ancestor, place: Path | None, depth: int, above: frozenset[str]) -> Ancestor:
        if place is None or depth >= MAX_DEPTH or self._left == 0 or os.path.realpath(place) in above:
            return node
        self._left -= 1
        found = _made_in(place, node.label)
        if found is None:
            return node
        known = replace(
            found, label=node.label, hub=node.hub, revision=node.revision, licence=node.licence, note=found.note or _NOW
        )
        return self.followed(place, known, depth + 1, above)


def _places(folder: Path) -> dict[str, Path]:
    """Label → where that input of the model in ``folder`` was; only absolute paths mean something elsewhere."""
    try:
        inputs = read_receipt(folder, most=_MAX_RECEIPT).get("inputs", {})
        paths = {label: str(data.get("path", "")) for label, data in inputs.items()}
    except StockpotError:
        found = _of_mergekit(folder, "")
        paths = {parent.label: parent.label for parent in found.parents} if found is not None else {}
    return {_cut(label): _folder(Path(path)) for label, path in paths.items() if _there(path)}


def _there(path: str) -> bool:
    return "\0" not in path and os.path.isabs(path) and os.path.exists(path)  # noqa: PTH110, PTH117 - never raise


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _made_in(folder: Path, label: str) -> Ancestor | None:
    """What lies in ``folder`` about how its model was made; None when nothing does."""
    if lies_there(folder / RECEIPT_NAME):
        try:
            return tree_of(read_receipt(folder, most=_MAX_RECEIPT), label)
        except StorageError:
            raise
        except StockpotError:
            return Ancestor(label, tool="stockpot", note="its receipt cannot be read")
    return _of_mergekit(folder, label)


def _of_mergekit(folder: Path, label: str) -> Ancestor | None:
    path = folder / MERGEKIT_NAME
    if not lies_there(path):
        return None
    text = small_text(path, _MAX_CONFIG)
    unreadable = Ancestor(_cut(label), tool="mergekit", note=f"its {MERGEKIT_NAME} cannot be read")
    if text is None:
        return unreadable
    try:
        documents, _ = compose(text)
    except StockpotError:
        return unreadable
    own = {entry.value.text for node in documents if (entry := _named(node)) and isinstance(entry.value, Scalar)}
    models = dict.fromkeys(_cut(name) for node in documents for name in _models(node) if name not in own)
    methods = dict.fromkeys(_cut(name) for node in documents for name in _words(node, "merge_method"))
    return Ancestor(
        _cut(label), tool="mergekit", methods=tuple(methods)[:50], parents=tuple(Ancestor(m) for m in models)
    )


def _named(document: Node) -> Entry | None:
    """The name by which other documents use this one."""
    return document.get("name") if isinstance(document, YamlMapping) else None


_MODELS = frozenset({"model", "base_model", "source_model"})


def _models(node: Node) -> Iterator[str]:
    """Every model that a mergekit recipe names, wherever it stands."""
    if isinstance(node, Sequence):
        for item in node.items:
            yield from _models(item)
    elif isinstance(node, YamlMapping):
        for entry in node.entries:
            if entry.key in _MODELS:
                yield from _reference(entry.value)
            else:
                yield from _models(entry.value)


def _reference(node: Node) -> Iterator[str]:
    """A model as mergekit writes one: a word, or a mapping that has the word at ``path``; or a merge of its own."""
    if isinstance(node, Scalar):
        if node.text:
            yield node.text
        return
    path = node.get("path") if isinstance(node, YamlMapping) else None
    if path is not None and isinstance(path.value, Scalar):
        revision = node.get("revision") if isinstance(node, YamlMapping) else None
        known = revision is not None and isinstance(revision.value, Scalar)
        yield f"{path.value.text}@{revision.value.text}" if known else path.value.text  # type: ignore[union-attr]
    else:
        yield from _models(node)


def _words(node: Node, key: str) -> Iterator[str]:
    items = node.items if isinstance(node, Sequence) else ()
    for item in items:
        yield from _words(item, key)
    for entry in node.entries if isinstance(node, YamlMapping) else ():
        if entry.key == key and isinstance(entry.value, Scalar):
            yield entry.value.text
        else:
            yield from _words(entry.value, key)


def _methods(receipt: Mapping[str, Any]) -> tuple[str, ...]:
    found = methods_in(receipt.get("expression"))
    if not found:
        documents = _dict(receipt.get("resolved")).get("documents")
        named = [_dict(d).get("merge_method") for d in reversed(documents)] if isinstance(documents, list) else []
        found = tuple(dict.fromkeys(name for name in named if isinstance(name, str)))
    return tuple(_cut(name) for name in found[:50])


def _dict(data: Any) -> dict[str, Any]:
    return data if isinstance(data, dict) else {}


def _text(data: Any) -> str | None:
    return _cut(data) if isinstance(data, str) else None


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
