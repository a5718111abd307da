"""A small merge, what it must give, and processes that carry it out and may be killed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from files import write_model

HERE = Path(__file__).parent
RECIPE = """\
merge_method: dare_ties
base_model: base
models:
  - {model: a, parameters: {weight: 0.6, density: 0.5}}
  - {model: b, parameters: {weight: 0.4, density: 0.7}}
dtype: bfloat16
"""


def digest(folder):
    """One hash of all names and bytes in a folder; None when there is no such folder."""
    folder = Path(folder)
    if not folder.exists():
        return None
    found = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        found.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return found.hexdigest()


def make_models(folder, tensors=12, elements=1 << 15, recipe=RECIPE):
    """Models base, a and b with small files beside them, and a recipe, in ``folder``."""
    for number, name in enumerate(("base", "a", "b")):
        rng = np.random.default_rng(number)
        arrays = {f"model.layers.{i}.w": rng.normal(size=elements).astype(np.float32) for i in range(tensors)}
        write_model(folder / name, arrays, config={"model_type": "toy", "num_hidden_layers": tensors})
        (folder / name / "tokenizer.json").write_text("{}" * 500)
    (folder / "r.yml").write_text(recipe)


@dataclass
class Ended:
    """How a run ended."""

    code: int
    errors: str
    calls: list[str]

    @property
    def struck(self):
        """The call that failed, and by whom it was made; empty when none did."""
        return next((line for line in self.calls if line.startswith("struck")), "")


class Scene:
    """Models and a recipe in ``folder``, a server of runs, and the digest of the right result."""

    def __init__(self, folder, options=("--threads", "2", "--shard-size", "300kB"), kind=None, **models):
        self.folder, self.options = Path(folder), options
        if kind:
            self.options = (*(options if kind.sharded else options[:2]), *kind.more)
        self.command = kind.command if kind else ("merge", "r.yml")
        self.folder.mkdir(parents=True, exist_ok=True)
        if kind:
            kind.make(self.folder)
        else:
            make_models(self.folder, **models)
        self._server = subprocess.Popen(
            [sys.executable, str(HERE / "server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._ask({"folder": str(self.folder), "args": self.arguments("right")}) == {"warm": 0}
        self.right = digest(self.folder / "right")
        self.clear()

    def arguments(self, out, *more):
        return [*self.command, out, *self.options, *more]

    def start(self, out="out", *more, **request):
        """Begin a run; its process number."""
        log = str(self.folder.parent / f"{self.folder.name}.log")
        self._log = Path(log)
        return self._ask({"folder": str(self.folder), "args": self.arguments(out, *more), "log": log, **request})["pid"]

    def end(self):
        """Wait for the run."""
        code = self._ask({"wait": True})["code"]
        errors = Path(f"{self._log}.err")
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return Ended(code, errors.read_text() if errors.exists() else "", lines)

    def run(self, out="out", *more, **request):
        """A whole run."""
        self.start(out, *more, **request)
        return self.end()

    def clear(self, out="out"):
        """Remove an output, and the router of a mixture."""
        places = (self.folder / name for name in (out, f"{out}.partial", "router.safetensors"))
        subprocess.run(["rm", "-rf", *map(str, places)], check=True)

    def close(self):
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait()

    def _ask(self, request):
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


def check_continued(scene, what, *more):
    """After whatever happened, OUT is whole or absent, and the same command makes it whole; nothing else is left."""
    before = digest(scene.folder / "out")
    assert before in (None, scene.right), f"{what}: a complete-looking wrong output"
    unfinished = (scene.folder / "out.partial" / "journal").exists()
    again = scene.run("out", *more)
    # Whole and tidied up but for the lock: the command has nothing to do but say that the output exists.
    assert again.code == (0 if before is None or unfinished or more else 5), f"{what}: {again.errors}"
    assert digest(scene.folder / "out") == scene.right, f"{what}: {again.code} {again.errors}"
    left = sorted(p.name for p in (scene.folder / "out.partial").glob("*"))
    assert left in ([], ["lock"]), f"{what}: {left} is left"
    scene.clear()
