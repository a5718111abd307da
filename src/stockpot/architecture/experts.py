"""Layouts of experts: each in tensors of its own, or all of a layer in one; told by names and shapes.

====================  =======================================  ==================================
layout                gate and up                              down
====================  =======================================  ==================================
one by one            ``experts.3.gate_proj.weight``,          ``experts.3.down_proj.weight``
                      ``experts.3.up_proj.weight`` (I, H)      (H, I)
one by one, Mixtral   ``experts.3.w1.weight``, ``…w3…``        ``experts.3.w2.weight``
fused                 ``experts.gate_up_proj`` (E, 2I, H)      ``experts.down_proj`` (E, H, I)
fused, Granite        ``input_linear.weight``                  ``output_linear.weight``
fused, transposed     ``experts.gate_up_proj`` (E, H, 2I)      ``experts.down_proj`` (E, I, H)
====================  =======================================  ==================================

Of E experts with inner dimension I and hidden dimension H. A fused tensor holds of each expert the rows of its
gate, then those of its up projection, as transformers does since version 5. The transposed layout (gpt-oss,
Llama 4), in which gate and up may also lie in turn, is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

__all__ = ["Made", "Piece", "relaid", "transposed"]

_EXPERTS = ("experts", "input_linear", "output_linear")

_DEEPEST = 16
"""Components of a name that a block of experts may have before it."""

Shapes = Mapping[str, tuple[int, ...]]

_ONE = re.compile(r"(?P<block>.+)\.experts\.(?P<expert>\d+)\.(?P<rest>[^.]+\.weight)")
_ALL = re.compile(r"(?P<block>.+)\.(?P<rest>experts\.[^.\d][^.]*(\.weight)?|(in|out)put_linear\.weight)")
_ROLES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("gate_up_proj", "input_linear"), ("gate", "up")),
    **dict.fromkeys(("gate_proj", "w1"), ("gate",)),
    **dict.fromkeys(("up_proj", "w3"), ("up",)),
    **dict.fromkeys(("down_proj", "w2", "output_linear"), ("down",)),
}


@dataclass(frozen=True, slots=True)
class Piece:
    """``count`` elements of tensor ``name`` from element ``start`` on."""

    name: str
    start: int
    count: int


@dataclass(frozen=True, slots=True)
class Made:
    """A tensor made of pieces, one after another."""

    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class _Block:
    """The experts of a layer.

    Args:
        holder: What stands before the block's name: ``model.layers.3``.
        name: Its name: ``mlp``.
        count: How many experts.
        rests: Rest of the name after the block's, or after the expert's number → what it holds of an expert.
        fused: Whether a tensor holds all of them.
        places: (role, expert) → where it lies.
        shapes: Role → shape of one expert's.
        extras: Rest of the name → shape of what else lies in the block, such as the router.
    """

    holder: str
    name: str
    count: int
    rests: Mapping[str, tuple[str, ...]]
    fused: bool
    places: Mapping[tuple[str, int], Piece]
    shapes: Shapes
    extras: Shapes

    @cached_property
    def style(self) -> tuple[object, ...]:
        """What two blocks of one layout share."""
        return self.name, self.fused, tuple(sorted(self.rests)), tuple(sorted(self.extras))

    @property
    def below(self) -> str:
        """What all its names begin with."""
        return f"{self.holder}.{self.name}." if self.holder else f"{self.name}."


def relaid(own: Shapes, like: Shapes) -> dict[str, Made]:
    """How the experts named and shaped as ``own`` make those of the layout of ``like``: name → pieces.

    Whatever else lies in their block, such as the router, goes with them by its name, or by its shape where only one
    fits. Empty where the layouts are the same, or one of them is not understood.

    >>> made = relaid({"l.0.moe.experts.0.w2.weight": (2, 3), "l.0.moe.experts.1.w2.weight": (2, 3)},
    ...               {"l.0.mlp.experts.down_proj": (2, 2, 3)})
    >>> [(name, m.shape, [p.name[-11:] for p in m.pieces]) for name, m in made.items()]
    [('l.0.mlp.experts.down_proj', (2, 2, 3), ['0.w2.weight', '1.w2.weight'])]
    """
    template = next(_blocks(like), None)
    made: dict[str, Made] = {}
    if template is None:
        return made
    for block in _blocks(own):
        if block.style == template.style:
            continue
        if {role for roles in template.rests.values() for role in roles} == set(block.shapes):
            made |= _experts(block, template)
            made |= _extras(block, template)
    return made


def transposed(shapes: Shapes) -> str | None:
    """A tensor of experts that are stored transposed, (E, H, 2I); None where there is none.

    >>> transposed({"l.0.mlp.experts.gate_up_proj": (4, 32, 96), "l.0.mlp.experts.down_proj": (4, 48, 32)})
    'l.0.mlp.experts.gate_up_proj'
    """
    for name, shape in shapes.items():
        down = shapes.get(name.replace("gate_up_proj", "down_proj"), ())
        if "experts.gate_up_proj" in name and len(shape) == len(down) == 3 and shape[1:] == (down[2], 2 * down[1]):
            return name
    return None


def _blocks(shapes: Shapes) -> Iterator[_Block]:
    """The blocks that are understood, in the order of their first tensors."""
    ones: dict[str, dict[int, dict[str, str]]] = {}
    alls: dict[str, dict[str, str]] = {}
    for name in shapes:
        if (match := _ONE.fullmatch(name)) is not None:
            ones.setdefault(match["block"], {}).setdefault(int(match["expert"]), {})[match["rest"]] = name
        elif (match := _ALL.fullmatch(name)) is not None:
            alls.setdefault(match["block"], {})[match["rest"]] = name
    beside = _beside((*ones, *alls), shapes)
    for block, experts in ones.items():
        if block not in alls and (found := _one_by_one(block, experts, shapes, beside[block])) is not None:
            yield found
    for block, tensors in alls.items():
        if block not in ones and (found := _fused(block, tensors, shapes, beside[block])) is not None:
            yield found


def _beside(blocks: Iterable[str], shapes: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
    """Of each block, what lies in it but the experts."""
    found: dict[str, dict[str, tuple[int, ...]]] = {block: {} for block in blocks}
    for name, shape in shapes.items():
        parts = name.split(".")
        for length in range(1, min(len(parts), _DEEPEST)):
            own = found.get(".".join(parts[:length]))
            if own is not None and parts[length] not in _EXPERTS:
                own[".".join(parts[length:])] = shape
    return found


def _one_by_one(block: str, experts: dict[int, dict[str, str]], shapes: Shapes, extras: Shapes) -> _Block | None:
    rests = {rest: _ROLES.get(rest.removesuffix(".weight"), ()) for rest in experts.get(0, ())}
    alike = sorted(experts) == list(range(len(experts))) and all(own.keys() == rests.keys() for own in experts.values())
    if not alike or any(len(roles) != 1 for roles in rests.values()):
        return None
    places = {
        (rests[rest][0], number): Piece(name, 0, prod(shapes[name]))
        for number, own in experts.items()
        for rest, name in own.items()
    }
    dims = {rests[rest][0]: shapes[name] for rest, name in experts[0].items()}
    sizes = {(rests[rest][0], shapes[name]) for own in experts.values() for rest, name in own.items()}
    if len(sizes) != len(dims) or any(len(shape) != 2 for shape in dims.values()):
        return None
    holder, _, name = block.rpartition(".")
    return _Block(holder, name, len(experts), rests, False, places, dims, extras)


def _fused(block: str, tensors: dict[str, str], shapes: Shapes, extras: Shapes) -> _Block | None:
    rests = {rest: _ROLES.get(rest.removesuffix(".weight").removeprefix("experts."), ()) for rest in tensors}
    sizes = {rest: shapes[name] for rest, name in tensors.items()}
    counts = {shape[0] if len(shape) == 3 else 0 for shape in sizes.values()}
    if len(counts) != 1 or 0 in counts or not all(rests.values()):
        return None
    dims: dict[str, tuple[int, ...]] = {}
    places: dict[tuple[str, int], Piece] = {}
    for rest, roles in rests.items():
        count, rows, columns = sizes[rest]
        part = rows // len(roles) * columns
        dims |= dict.fromkeys(roles, (rows // len(roles), columns))
        for expert in range(count):
            for place, role in enumerate(roles):
                start = expert * rows * columns + place * part
                places[role, expert] = Piece(tensors[rest], start, part)
    if "down" in dims and any(dims[role] != dims["down"][::-1] for role in dims if role != "down"):
        return None
    holder, _, name = block.rpartition(".")
    return _Block(holder, name, counts.pop(), rests, True, places, dims, extras)


def _experts(block: _Block, template: _Block) -> dict[str, Made]:
    below = f"{block.holder}.{template.name}." if block.holder else f"{template.name}."
    made = {}
    for rest, roles in template.rests.items():
        rows = sum(block.shapes[role][0] for role in roles)
        shape = (rows, *block.shapes[roles[0]][1:])
        if template.fused:
            pieces = (block.places[role, expert] for expert in range(block.count) for role in roles)
            made[below + rest] = Made((block.count, *shape), _joined(pieces))
        else:
            for expert in range(block.count):
                made[f"{below}experts.{expert}.{rest}"] = Made(shape, (block.places[roles[0], expert],))
    return made


def _joined(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """``pieces``, those that follow each other in a tensor as one."""
    found: list[Piece] = []
    for piece in pieces:
        last = found[-1] if found else None
        if last is not None and (last.name, last.start + last.count) == (piece.name, piece.start):
            found[-1] = Piece(last.name, last.start, last.count + piece.count)
        else:
            found.append(piece)
    return tuple(found)


def _extras(block: _Block, template: _Block) -> dict[str, Made]:
    """What else lies in a block, under the names that it has in the other layout."""
    below = f"{block.holder}.{template.name}." if block.holder else f"{template.name}."
    made = {}
    for rest, shape in block.extras.items():
        new = rest
        if rest not in template.extras:
            free = [r for r, s in template.extras.items() if s == shape and r not in block.extras]
            new = free[0] if len(free) == 1 else rest
        made[below + new] = Made(shape, (Piece(block.below + rest, 0, prod(shape)),))
    return made
