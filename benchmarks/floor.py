"""The floor under any merge: read every input byte once, write every output byte once.

Nothing is computed. Two threads with one 8 MiB buffer each go through the output in order; for
each piece of it they read the matching share of the inputs (`preadv`) and write the piece
(`pwritev`). The output files are new; removing older ones and opening the inputs is not timed.

    python benchmarks/floor.py OUT MODEL [MODEL ...]      prints seconds

The output has the size and the shards of the last model.
"""

import argparse
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

BUFFER_BYTES = 8 << 20
THREADS = 2


@dataclass(frozen=True)
class Piece:
    """A range of bytes of an open file, at most as long as a buffer."""

    file: int
    offset: int
    length: int


def pieces(files: list[tuple[int, int]]) -> list[Piece]:
    """Cut files, given as (descriptor, size in bytes), into pieces."""
    return [
        Piece(file, offset, min(BUFFER_BYTES, size - offset))
        for file, size in files
        for offset in range(0, size, BUFFER_BYTES)
    ]


def read(piece: Piece, buffer: memoryview) -> None:
    """Fill the buffer with a piece."""
    done = 0
    while done < piece.length:
        got = os.preadv(piece.file, [buffer[done : piece.length]], piece.offset + done)
        if not got:
            raise EOFError(f"file {piece.file} ended at {piece.offset + done}")
        done += got


def write(piece: Piece, buffer: memoryview) -> None:
    """Write the buffer to where the piece lies."""
    done = 0
    while done < piece.length:
        done += os.pwritev(piece.file, [buffer[done : piece.length]], piece.offset + done)


def work(thread: int, threads: int, inputs: list[Piece], outputs: list[Piece]) -> None:
    """One thread's share: every `threads`-th piece of the output with its share of the inputs."""
    buffer = memoryview(bytearray(BUFFER_BYTES))
    for number in range(thread, len(outputs), threads):
        first = number * len(inputs) // len(outputs)
        last = (number + 1) * len(inputs) // len(outputs)
        for piece in inputs[first:last]:
            read(piece, buffer)
        write(outputs[number], buffer)


def floor_seconds(models: list[Path], out: Path, threads: int = THREADS) -> float:
    """Seconds for reading all of `models` and writing one of their size to the new folder `out`."""
    shutil.rmtree(out, ignore_errors=True)
    paths = [sorted(model.glob("*.safetensors")) for model in models]
    if not all(paths):
        raise FileNotFoundError(f"no safetensors files in one of {[str(m) for m in models]}")
    sources = [(os.open(path, os.O_RDONLY), path.stat().st_size) for group in paths for path in group]
    started = time.perf_counter()
    out.mkdir(parents=True)
    mode = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    targets = [(os.open(out / p.name, mode, 0o644), p.stat().st_size) for p in paths[-1]]
    inputs, outputs = pieces(sources), pieces(targets)
    with ThreadPoolExecutor(threads) as pool:
        shares = [pool.submit(work, i, threads, inputs, outputs) for i in range(threads)]
        for share in shares:
            share.result()
    for file, _ in targets:
        os.close(file)
    seconds = time.perf_counter() - started
    for file, _ in sources:
        os.close(file)
    return seconds


def main() -> None:
    """Parse the command line, measure once, print seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="a folder to write to; removed first and afterwards")
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=THREADS)
    options = parser.parse_args()
    print(f"{floor_seconds(options.models, options.out, options.threads):.3f}")
    shutil.rmtree(options.out)


if __name__ == "__main__":
    main()
