"""Hostile pickles: nothing is imported, nothing runs, and cost is bounded. No PyTorch needed."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
import time
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stockpot.checkpoint import legacy, open_checkpoint, pickles
from stockpot.checkpoint.pickles import run_pickle
from stockpot.checkpoint.torchnames import DamagedError, RefusedError
from stockpot.errors import CheckpointError

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)


class Exploit:
    """Pickles to a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def as_zip(path: Path, pickled: bytes) -> Path:
    """A PyTorch file that holds this pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", b"little")
    return path


def as_stream(path: Path, pickled: bytes) -> Path:
    """A PyTorch file of the older format that holds this pickle."""
    path.write_bytes(MAGIC + pickle.dumps({"little_endian": True}, 2) + pickled + pickle.dumps([], 2))
    return path


@pytest.mark.parametrize("container", [as_zip, as_stream])
@pytest.mark.parametrize("protocol", range(6))
def test_code_never_runs(tmp_path: Path, container: Any, protocol: int) -> None:
    """A pickle that would call os.system is refused by name, in every protocol and container."""
    mark = tmp_path / "ran"
    pickled = pickle.dumps({"w": Exploit(os.system, f"touch {mark}")}, protocol)
    path = container(tmp_path / "evil.pt", pickled)
    with pytest.raises(CheckpointError, match=r"refused: it would run code \((posix|nt)\.system\)") as caught:
        open_checkpoint(str(path))
    assert not mark.exists()
    assert caught.value.problems[0].file == str(path)
    assert "trust" in (caught.value.problems[0].fix or "")


def test_code_in_every_part_of_a_stream(tmp_path: Path) -> None:
    """The older format is several pickles; each is read by the same machine."""
    evil = pickle.dumps(Exploit(os.getcwd), 2)
    fine = pickle.dumps({}, 2)
    for number in range(5):
        parts = [MAGIC[: MAGIC.index(b".") + 1], MAGIC[MAGIC.index(b".") + 1 :], fine, fine, fine]
        parts[2] = pickle.dumps({"little_endian": True}, 2)
        parts[number] = evil
        (tmp_path / "evil.pt").write_bytes(b"".join(parts))
        with pytest.raises(CheckpointError, match="refused"):
            open_checkpoint(str(tmp_path / "evil.pt"))


@pytest.mark.parametrize(
    "pickled",
    [
        b"cposix\nsystem\n.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93.",
        b"(S'id'\niposix\nsystem\n.",
        b"cbuiltins\neval\n.",
        b"cbuiltins\ngetattr\n.",
        b"ctorch\nload\n.",
        b"ctorch.storage\n_load_from_bytes\n.",
        b"ctorch._utils\n_rebuild_device_tensor_from_numpy\n.",
        b"ctorch.hub\nload\n.",
        b"c__main__\nNet\n.",
    ],
)
def test_other_names_are_refused(pickled: bytes) -> None:
    """Only names of plain data are known, however spelt; not even PyTorch's other functions."""
    with pytest.raises(RefusedError):
        run_pickle(io.BytesIO(pickled))


def test_known_names_are_not_called() -> None:
    """A name that is known is a record, never the thing itself, and data cannot be called."""
    assert str(run_pickle(io.BytesIO(b"c_codecs\nencode\n.")).value) == "_codecs.encode"
    with pytest.raises(DamagedError):
        run_pickle(io.BytesIO(b"S'os.system'\n(S'id'\ntR."))
    with pytest.raises(DamagedError):
        run_pickle(io.BytesIO(b"ctorch\nfloat32\n)R."))


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b".",
        b"0.",
        b"(.",
        b"t.",
        b"a.",
        b"N]a.",
        b"\x80\x02}",
        b"h\x00.",
        b"j\xff\xff\xff\x7f.",
        b"\x82\x01.",
        b"\x97.",
        b"Ppersistent\n.",
        b"NQ.",
        b"I" + b"9" * 10_000 + b"\n.",
        b"\x8d" + struct.pack("<Q", 2**62) + b".",
        b"\x96" + struct.pack("<Q", 2**40) + b".",
        b"\x95" + struct.pack("<Q", 2**62) + b".",
        b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(NI0\n)))NtR.",
        b"ctorch._tensor\n_rebuild_from_type_v2\n(NNNtR.",
        b"((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI-1\ntQ.",
        b"(S'module'\nNNNNtQ.",
    ],
)
def test_damaged_pickles(pickled: bytes) -> None:
    """Malformed programs end in one kind of error."""
    with pytest.raises(DamagedError):
        run_pickle(io.BytesIO(pickled))


def test_a_memo_index_allocates_nothing() -> None:
    """A memo slot of 2³¹ costs no array of that size."""
    tracemalloc.start()
    run_pickle(io.BytesIO(b"Nr\xff\xff\xff\x7f."))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_nested_keys_do_not_hang() -> None:
    """A key whose hash takes 2¹⁰⁰ steps is not hashed."""
    doubled = b"N" + b"q\x00h\x00\x86" * 100
    found = run_pickle(io.BytesIO(b"}" + doubled + b"Ns.")).value
    assert len(found) == 1


def test_shared_mappings_do_not_hang(tmp_path: Path) -> None:
    """A chain of mappings that each hold the next twice has 2¹⁰⁰ paths; it is walked once."""
    node: dict[str, Any] = {}
    for _ in range(100):
        node = {"a": node, "b": node}
    started = time.perf_counter()
    with pytest.raises(CheckpointError, match="no named tensors"):
        open_checkpoint(str(as_zip(tmp_path / "x.pt", pickle.dumps(node, 2))))
    assert time.perf_counter() - started < 5


def test_mapping_in_itself(tmp_path: Path) -> None:
    """A mapping that holds itself ends like any other without tensors."""
    node: dict[str, Any] = {}
    node["model"] = node
    with pytest.raises(CheckpointError, match="no named tensors"):
        open_checkpoint(str(as_zip(tmp_path / "x.pt", pickle.dumps(node, 2))))


def test_instructions_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long program is stopped, so that it cannot build values without end."""
    monkeypatch.setattr(pickles, "MAX_INSTRUCTIONS", 1000)
    run_pickle(io.BytesIO(b"N0" * 499 + b"N."))
    with pytest.raises(DamagedError, match="1000 pickle instructions"):
        run_pickle(io.BytesIO(b"}0" * 500 + b"N."))


@pytest.mark.parametrize("container", [as_zip, as_stream])
def test_bytes_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: Any) -> None:
    """A pickle longer than the limit is refused before it is held in memory."""
    monkeypatch.setattr(legacy, "MAX_PICKLE_BYTES", 1 << 20)
    path = container(tmp_path / "x.pt", pickle.dumps(b"x" * (8 << 20), 4))
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"larger than|more than"):
        open_checkpoint(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_zip_directory_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zip file with an endless list of members is refused."""
    monkeypatch.setattr(legacy, "MAX_PICKLE_BYTES", 1 << 10)
    monkeypatch.setattr(legacy, "_MAX_DIRECTORY_BYTES", 1 << 10)
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
        for number in range(1000):
            archive.writestr(f"a/data/{number}", b"")
    with pytest.raises(CheckpointError, match="directory"):
        open_checkpoint(str(tmp_path / "x.pt"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_with_two_members_of_one_name(tmp_path: Path) -> None:
    """Which of two members counts depends on the reader, so such a file is refused."""
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
    with pytest.raises(CheckpointError, match="one name"):
        open_checkpoint(str(tmp_path / "x.pt"))


SHORT = st.integers(1 - 2**60, 2**60 - 1)  # longer ones are no keys: they could all be made to have one hash
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | SHORT, inner),
    max_leaves=20,
)


@settings(deadline=None)
@given(value=PLAIN, protocol=st.integers(2, 5))
def test_plain_values_come_back(value: Any, protocol: int) -> None:
    """On plain values the machine agrees with Python's own reader, in every protocol."""
    assert run_pickle(io.BytesIO(pickle.dumps(value, protocol))).value == value


def test_bytes_values_in_any_protocol() -> None:
    """Bytes, which protocol 2 spells as a call, are read past."""
    for protocol in range(6):
        found = run_pickle(io.BytesIO(pickle.dumps({"b": b"\xff", "e": b"", "n": 1}, protocol))).value
        assert found["n"] == 1


OPCODES = st.sampled_from([opcode.code.encode("latin-1") for opcode in pickletools.opcodes])


@settings(max_examples=300, deadline=None)
@given(st.lists(OPCODES | st.binary(max_size=6), max_size=30).map(b"".join))
@example(b"S'\\e'\n.")
def test_arbitrary_programs(program: bytes) -> None:
    """Any bytes either make plain values or end in one of two errors."""
    with suppress(DamagedError, RefusedError):
        run_pickle(io.BytesIO(program))
