"""Runs one target: makes inputs, gives each to the real reader through a file, and watches time and memory."""

from __future__ import annotations

import hashlib
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import fuzz_adapters
import fuzz_folders
import fuzz_gguf
import fuzz_headers
import fuzz_mixtures
import fuzz_pickles
import fuzz_recipes
import fuzz_spaces
import fuzz_suites
import fuzz_tokenizers

from stockpot.errors import StockpotError

CORPUS = Path(__file__).parent / "corpus"
SECONDS = 1.0
"""An input may take no longer, counted as work of the processor, so that other programs do not matter."""

WAIT = 20.0
"""Nor longer by the clock: it may wait for nothing."""

MEMORY = 256 << 20
"""Nor may the process grow by more than this many bytes for one."""


@dataclass(frozen=True)
class Target:
    """A kind of input: how one is made, where it is put, and what reads it."""

    make: Callable[[Random], bytes]
    read: Callable[[Path], None]
    file: str


TARGETS = {
    "header": Target(fuzz_headers.make, fuzz_headers.read, "x.safetensors"),
    "recipe": Target(fuzz_recipes.make, fuzz_recipes.read, "x.yml"),
    "index": Target(fuzz_folders.make_index, fuzz_folders.read_index, "x.json"),
    "config": Target(fuzz_folders.make_config, fuzz_folders.read_config, "y.json"),
    "gguf": Target(fuzz_gguf.make, fuzz_gguf.read, "x.gguf"),
    "pickle": Target(fuzz_pickles.make, fuzz_pickles.read, "x.pt"),
    "adapter": Target(fuzz_adapters.make_settings, fuzz_adapters.read_settings, "z.json"),
    "table": Target(fuzz_adapters.make_table, fuzz_adapters.read_table, "z.safetensors"),
    "tokenizer": Target(fuzz_tokenizers.make, fuzz_tokenizers.read, "x.bin"),
    "mixture": Target(fuzz_mixtures.make, fuzz_mixtures.read, "x.yml"),
    "suite": Target(fuzz_suites.make, fuzz_suites.read, "suite.yml"),
    "space": Target(fuzz_spaces.make, fuzz_spaces.read, "x.yml"),
}


class TooSlowError(BaseException):
    """An input took longer than it may; not an Exception, so that no reader catches it."""


@dataclass
class Result:
    """What came of a run; ``failures`` maps where something broke to the input that broke it."""

    count: int = 0
    accepted: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    grown: int = 0
    failures: dict[str, tuple[bytes, str]] = field(default_factory=dict)


def run(name, numbers, seed=0):
    """Give inputs ``numbers`` of ``seed`` to the target ``name``."""
    target, result = TARGETS[name], Result()
    shared = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="stockpot-fuzz-", dir=shared))
    started = time.perf_counter()
    try:
        for number in numbers:
            data = target.make(Random(f"{name} {seed} {number}"))
            once(target, data, folder / target.file, result)
    finally:
        shutil.rmtree(folder)
    result.seconds = time.perf_counter() - started
    return result


def once(target, data, path, result):
    """One input: it is read, or refused with an error of ours, in time and within memory."""
    path.write_bytes(data)
    memory = peak()
    before = [(kind, signal.signal(kind, _too_slow)) for kind in (signal.SIGPROF, signal.SIGALRM)]
    started = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WAIT)
    try:
        target.read(path)
        result.accepted += 1
    except StockpotError as error:
        if not str(error).replace("\n", "").isprintable():
            _failed(result, data, f"an error that is not printable: {error.problems}")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        _failed(result, data, "".join(traceback.format_exception(error)))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for kind, handler in before:
            signal.signal(kind, handler)
    result.slowest = max(result.slowest, time.process_time() - started)
    grown = peak() - memory
    result.grown = max(result.grown, grown)
    if grown > MEMORY:
        _failed(result, data, f"the process grew by {grown} bytes")
    result.count += 1


def peak():
    """The most bytes that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _failed(result, data, told):
    """Keep the shortest input of each place that broke."""
    lines = [line.strip() for line in told.splitlines() if line.strip().startswith("File ")]
    where = lines[-1] if lines else told[:80]
    if where not in result.failures or len(data) < len(result.failures[where][0]):
        result.failures[where] = (data, told)


def keep(name, data):
    """Put an input into the corpus, which the tests replay."""
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha256(data).hexdigest()[:16]
    path.write_bytes(data)
    return path


def _too_slow(_number, _frame):
    raise TooSlowError
