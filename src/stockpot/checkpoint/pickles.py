"""A pickle machine that cannot run anything: it reads PyTorch's state dicts and nothing else.

A pickle is a program. Here its instructions build plain values and inert records; no class is ever
imported, no function ever called. Instructions and bytes are limited, so a hostile file costs
bounded time and memory.
"""

from __future__ import annotations

import pickletools
import struct
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Any

from stockpot.checkpoint.torchnames import (
    INERT,
    DamagedError,
    StorageRecord,
    call,
    known_name,
    pairs,
    storage_record,
)

__all__ = ["MAX_INSTRUCTIONS", "Budget", "Pickled", "run_pickle"]

MAX_INSTRUCTIONS = 4_000_000
"""About 120 000 tensors, ten times what one file holds in practice."""

_COPY = 4
"""Instructions that one copied value counts for."""

_MAX_BITS = 4096
"""Of a whole number; hashing and writing out longer ones takes time each time."""


@dataclass(frozen=True)
class Pickled:
    """What a pickle describes, and every storage that it mentions, by key.

    In the value, dicts, lists, tuples, numbers and strings are themselves; the rest are records.
    """

    value: Any
    storages: Mapping[str, StorageRecord]


class Budget:
    """Instructions, and values that one of them copies, that are left to the pickles of one file."""

    def __init__(self) -> None:
        self._left = MAX_INSTRUCTIONS

    def spend(self, steps: int) -> None:
        """Count ``steps``.

        Raises:
            DamagedError: when there are none left.
        """
        self._left -= steps
        if self._left < 0:
            raise DamagedError(f"more than {MAX_INSTRUCTIONS} pickle instructions")


def run_pickle(source: IO[bytes], budget: Budget | None = None) -> Pickled:
    """Read the pickle at which ``source`` stands, up to its last byte.

    Raises:
        RefusedError: when it names anything but PyTorch's data.
        DamagedError: when it is malformed or too long.
    """
    machine = _Machine(budget or Budget())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of odd escapes in text that we only skip
            for opcode, argument, _ in pickletools.genops(source):
                machine.budget.spend(1)
                step = _STEPS.get(opcode.name)
                if step is None:
                    raise DamagedError(f"{opcode.name}, an instruction PyTorch does not write")
                step(machine, argument)
        return Pickled(machine.pop(), machine.storages)
    except _MALFORMED as error:
        raise DamagedError("a damaged pickle") from error


_MALFORMED = (
    ValueError, LookupError, TypeError, OverflowError, EOFError, RecursionError, struct.error,
)  # fmt: skip
"""What pickletools, a stack that is too short, and arguments that do not fit raise."""


class _Mark:
    """Where a run of values on the stack begins."""


_MARK = _Mark()


class _Machine:
    """Stack and memo of one run. Instructions are functions of a machine and their argument."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, StorageRecord] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise DamagedError("a damaged pickle")
        return value

    def pop_to_mark(self) -> list[Any]:
        values: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        values.reverse()
        return values


Step = Callable[[_Machine, Any], None]


def _ignore(_machine: _Machine, _: Any) -> None:
    return


def _push(machine: _Machine, argument: Any) -> None:
    machine.push(argument)


def _push_whole(machine: _Machine, argument: int) -> None:
    if argument.bit_length() > _MAX_BITS:
        raise DamagedError(f"a whole number of more than {_MAX_BITS} bits")
    machine.push(argument)


def _constant(make: Callable[[], Any]) -> Step:
    return lambda machine, _: machine.push(make())


def _put(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


def _get(machine: _Machine, index: int) -> None:
    machine.push(machine.memo[index])


def _drop(machine: _Machine, _: Any) -> None:
    machine.stack.pop()


def _drop_to_mark(machine: _Machine, _: Any) -> None:
    machine.pop_to_mark()


def _tuple_of(count: int) -> Step:
    def step(machine: _Machine, _: Any) -> None:
        values = [machine.pop() for _ in range(count)]
        machine.push(tuple(reversed(values)))

    return step


def _collect(make: Callable[[list[Any]], Any]) -> Step:
    return lambda machine, _: machine.push(make(machine.pop_to_mark()))


def _extend(machine: _Machine, values: Iterable[Any]) -> None:
    target = machine.stack[-1]
    if isinstance(target, list):
        target.extend(values)
    elif target is not INERT:
        raise DamagedError("a damaged pickle")


def _update(machine: _Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    if isinstance(target, dict):
        target.update(pairs(values))
    elif target is not INERT:
        raise DamagedError("a damaged pickle")


def _append(machine: _Machine, _: Any) -> None:
    _extend(machine, [machine.pop()])


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    _update(machine, [key, value])


def _global(machine: _Machine, argument: str) -> None:
    module, _, name = argument.partition(" ")
    machine.push(known_name(module, name))


def _stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    machine.push(known_name(module, name))


def _reduce(machine: _Machine, _: Any) -> None:
    arguments, function = machine.pop(), machine.pop()
    if isinstance(arguments, tuple):  # calls copy lists, and a pickle may give one list to each of a million calls
        machine.budget.spend(_COPY * sum(len(a) for a in arguments if isinstance(a, list | tuple)))
    machine.push(call(function, arguments))


def _new_with_keywords(machine: _Machine, argument: Any) -> None:
    machine.pop()
    _reduce(machine, argument)


def _instance(machine: _Machine, argument: str) -> None:
    module, _, name = argument.partition(" ")
    known_name(module, name)
    machine.pop_to_mark()
    machine.push(INERT)


def _build(machine: _Machine, _: Any) -> None:
    machine.pop()  # attributes of a container, such as a state dict's _metadata


def _persistent(machine: _Machine, _: Any) -> None:
    record = storage_record(machine.pop())
    machine.storages[record.key] = record
    machine.push(record)


_PUSHED = (
    "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
)  # fmt: skip

_STEPS: Mapping[str, Step] = {
    **dict.fromkeys(_PUSHED, _push),
    **dict.fromkeys(("INT", "LONG", "LONG1", "LONG4"), _push_whole),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _ignore),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda m, _: _extend(m, m.pop_to_mark())),
    "MEMOIZE": lambda m, _: _put(m, len(m.memo)),
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    "MARK": _constant(lambda: _MARK),
    "EMPTY_TUPLE": _constant(tuple),
    "EMPTY_LIST": _constant(list),
    "EMPTY_DICT": _constant(dict),
    "EMPTY_SET": _constant(list),
    "TUPLE": _collect(tuple),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "LIST": _collect(list),
    "FROZENSET": _collect(tuple),
    "DICT": _collect(pairs),
    "APPEND": _append,
    "SETITEM": _set_item,
    "SETITEMS": lambda m, _: _update(m, m.pop_to_mark()),
    "POP": _drop,
    "POP_MARK": _drop_to_mark,
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_with_keywords,
    "INST": _instance,
    "BUILD": _build,
    "BINPERSID": _persistent,
}
