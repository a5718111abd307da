"""Local models need no network: whatever a merge does, it opens no connection."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np

from files import write_model

GUARD = """
import socket, sys

def refuse(*arguments, **options):
    raise AssertionError(f"a connection was opened: {arguments}")

socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
from stockpot.cli.main import main
for arguments in ARGUMENTS:
    code = main(arguments)
    assert code == 0, (arguments, code)
"""


def test_no_verb_opens_a_connection(tmp_path):
    """plan, merge, inspect, verify, lineage, diff and reproduce-merge work on a machine without any network."""
    for seed, name in enumerate("ab"):
        rng = np.random.default_rng(seed)
        write_model(tmp_path / name, {"w": rng.random(50).astype(np.float32)}, config={"model_type": "toy"})
    (tmp_path / "r.yml").write_text("merge_method: linear\nmodels: [{model: ./a}, {model: ./b}]\n")
    verbs = [
        ["plan", "r.yml", "out"],
        ["merge", "r.yml", "out"],
        ["inspect", "out", "--hash"],
        ["verify", "out", "--inputs"],
        ["lineage", "out"],
        ["diff", "out", "out"],
        ["reproduce-merge", "out", "again"],
    ]
    code = GUARD.replace("ARGUMENTS", json.dumps(verbs))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
