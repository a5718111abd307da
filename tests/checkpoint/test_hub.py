"""The hub: what is downloaded, what is cached, and what is said when it does not work.

A small local server imitates the endpoints that huggingface_hub asks; each call runs in a process
of its own, because the library reads its settings (HF_ENDPOINT, HF_HOME) once, when it is imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

pytest.importorskip("huggingface_hub", reason="models of the hub need huggingface_hub")

COMMIT = "0123456789" * 4
TOKEN = "hf_secretTokenThatNobodyMaySee"
SCRIPT = """
import json, sys
from stockpot.checkpoint import open_checkpoint
from stockpot.checkpoint.adapters import open_adapter
from stockpot.errors import StockpotError
wanted = sys.argv[1]
try:
    adapter = wanted.removeprefix("adapter:") != wanted
    found = (open_adapter if adapter else open_checkpoint)(wanted.removeprefix("adapter:"), line=7)
    facts = {"tensors": list(found.tensors), "config": found.config, "identity": found.identity}
    print(json.dumps(facts))
except StockpotError as error:
    print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""


class Hub(ThreadingHTTPServer):
    """Repositories by name (files by path), errors by name, and every request that came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.errors: dict[str, tuple[int, str]] = {}
        self.downloads: list[str] = []
        self.authorizations: set[str] = set()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """The hub's own paths: /api/models/…, and /REPOSITORY/resolve/REVISION/FILE."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        """Facts about a file."""
        self.answer(body=False)

    def do_GET(self) -> None:
        """A file, or a listing."""
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        """Answer like the hub does."""
        path = unquote(urlsplit(self.path).path).strip("/")
        if "Authorization" in self.headers:
            self.server.authorizations.add(self.headers["Authorization"])
        if path.startswith("api/models/"):
            self.api(path.removeprefix("api/models/"))
            return
        name, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        content = self.server.repositories.get(name, {}).get(file)
        if content is None or revision != COMMIT:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        if body:
            self.server.downloads.append(file)
        etag = hashlib.sha1(file.encode() + content, usedforsecurity=False).hexdigest()
        self.send(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}, body)

    def api(self, path: str) -> None:
        """Information about a repository, or its tree."""
        parts = path.split("/")
        name, rest = "/".join(parts[:2]), parts[2:]
        if len(parts) == 1 or parts[1] in {"revision", "tree"}:
            name, rest = parts[0], parts[1:]
        if name in self.server.errors:
            status, code = self.server.errors[name]
            self.send(status, b"{}", {"X-Error-Code": code})
            return
        files = self.server.repositories.get(name)
        if files is None:
            self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif rest and rest[1] not in {"main", COMMIT}:
            self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif rest and rest[0] == "tree":
            tree = [
                {"type": "file", "path": file, "size": len(content), "oid": f"{number:040x}"}
                for number, (file, content) in enumerate(files.items())
            ]
            self.send(200, json.dumps(tree).encode())
        else:
            facts = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
            self.send(200, json.dumps(facts).encode())

    def send(self, status: int, content: bytes, headers: dict[str, str] | None = None, body: bool = True) -> None:
        """One response."""
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A running hub without repositories."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A function that opens a reference in a fresh process against a hub."""

    def call(reference: str, endpoint: str, **settings: str) -> dict[str, Any]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
        for key in (
            "http_proxy",
            "https_proxy",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "all_proxy",
            "ALL_PROXY",
        ):
            kept.pop(key, None)
        environment = {
            **kept,
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
            **settings,
        }
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, reference],
            env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert TOKEN not in done.stdout + done.stderr
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return call


@pytest.fixture
def model(tmp_path: Path, save: Callable[..., Path]) -> dict[str, bytes]:
    """A repository with everything that repositories hold, needed or not."""
    files = {
        "config.json": b'{"model_type": "llama"}',
        "generation_config.json": b"{}",
        "tokenizer.json": b"{}",
        "tokenizer_config.json": b"{}",
        "chat_template.jinja": b"{{ messages }}",
        "merges.txt": b"a b",
        "LICENSE": b"MIT",
        "README.md": b"# model",
        ".gitattributes": b"",
        "model.safetensors.index.json": json.dumps({
            "weight_map": {"a": "part-one.safetensors", "b": "part[2].safetensors"}
        }).encode(),
    }  # fmt: skip
    for file, names in (
        ("part-one", "a"),
        ("part[2]", "b"),
        ("consolidated", "ab"),
        ("original/x", "ab"),
    ):
        path = save(tmp_path / "made.safetensors", {n: np.ones(2, np.float32) for n in names})
        files[f"{file}.safetensors"] = path.read_bytes()
        path.unlink()
    unneeded = (
        "pytorch_model.bin",
        "onnx/model.onnx",
        "m.gguf",
        "flax_model.msgpack",
        "tf_model.h5",
        "a.png",
    )
    return {**files, **dict.fromkeys(unneeded, b"unneeded")}


def test_download_then_offline(hub: Hub, ask: Callable[..., Any], model: dict[str, bytes]) -> None:
    """Only what a merge needs is fetched; afterwards the same reference opens without the hub."""
    hub.repositories["org/name"] = model
    found = ask("org/name", hub.url)
    assert found["tensors"] == ["a", "b"]
    assert found["config"] == {"model_type": "llama"}
    assert found["identity"]["reference"] == "org/name"
    assert found["identity"]["revision"] == COMMIT
    assert [f["name"] for f in found["identity"]["files"]] == [
        "part-one.safetensors",
        "part[2].safetensors",
    ]
    assert sorted(hub.downloads) == sorted([
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "merges.txt", "LICENSE", "README.md", "model.safetensors.index.json",
        "part-one.safetensors", "part[2].safetensors",
    ])  # fmt: skip
    assert hub.authorizations == {f"Bearer {TOKEN}"}
    hub.downloads.clear()
    nowhere = "http://127.0.0.1:9"
    assert ask("org/name", nowhere, HF_HUB_OFFLINE="1") == found
    assert ask(f"org/name@{COMMIT}", nowhere, HF_HUB_OFFLINE="1")["tensors"] == ["a", "b"]
    assert ask("org/name", nowhere)["tensors"] == ["a", "b"], "no network: the cache serves"
    assert ask("org/name@main", hub.url)["tensors"] == ["a", "b"]
    assert hub.downloads == [], "nothing is downloaded twice"


def test_pickles_only_without_safetensors(hub: Hub, ask: Callable[..., Any], model: dict[str, bytes]) -> None:
    """Pickles are fetched when there is nothing else (and then read like any file)."""
    hub.repositories["old"] = {
        "config.json": b"{}",
        "pytorch_model.bin": b"no pickle",
        "tf_model.h5": b"x",
    }
    found = ask("old", hub.url)
    assert sorted(hub.downloads) == ["config.json", "pytorch_model.bin"]
    assert "not a checkpoint" in found["message"]


def test_a_pipeline(hub: Hub, ask: Callable[..., Any], tmp_path: Path, save: Callable[..., Path]) -> None:
    """Of a model in several folders: its index, each component's weights and settings, and folders without weights."""
    weights = save(tmp_path / "made.safetensors", {"w": np.ones(2, np.float32)}).read_bytes()
    index = {"unet": ["diffusers", "UNet"], "text_encoder": ["transformers", "T5"], "scheduler": ["diffusers", "Euler"]}
    shards = {"weight_map": {"w": "model-1.safetensors"}}
    wanted = {
        "model_index.json": json.dumps(index).encode(),
        "unet/config.json": b"{}",
        "unet/diffusion_pytorch_model.safetensors": weights,
        "text_encoder/config.json": b"{}",
        "text_encoder/model.safetensors.index.json": json.dumps(shards).encode(),
        "text_encoder/model-1.safetensors": weights,
        "scheduler/scheduler_config.json": b"{}",
    }
    unneeded = ("v1.ckpt", "unet/diffusion_pytorch_model.bin", "text_encoder/model.fp16.safetensors", "pictures/a.png")
    hub.repositories["org/pipe"] = {**wanted, **dict.fromkeys(unneeded, b"unneeded")}
    found = ask("org/pipe", hub.url)
    assert found["tensors"] == ["unet/w", "text_encoder/w"]
    assert sorted(hub.downloads) == sorted(wanted)
    assert ask("org/pipe", "http://127.0.0.1:9", HF_HUB_OFFLINE="1") == found


def test_index_that_leaves_the_repository(hub: Hub, ask: Callable[..., Any]) -> None:
    """A hostile index is refused before anything it names is asked for."""
    index = json.dumps({"weight_map": {"a": "../../../secret.safetensors"}}).encode()
    hub.repositories["org/evil"] = {"model.safetensors.index.json": index}
    assert "outside its folder" in ask("org/evil", hub.url)["message"]


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("org/none", "no such repository"),
        ("org/private", "no such repository"),
        ("org/gated", "gated"),
        ("org/name@v9", "no such revision"),
        ("org/forbidden", "gated"),
    ],
)
def test_refusals(hub: Hub, ask: Callable[..., Any], model: dict[str, bytes], reference: str, words: str) -> None:
    """Each refusal is told with its way out and the recipe's line, never with the token."""
    hub.repositories["org/name"] = model
    hub.errors = {
        "org/private": (401, "RepoNotFound"),
        "org/gated": (403, "GatedRepo"),
        "org/forbidden": (403, ""),
    }
    found = ask(reference, hub.url)
    assert found["error"] == "CheckpointError"
    assert words in found["message"]
    assert "fix:" in found["message"]
    assert "recipe line 7" in found["message"]


def test_adapter_and_foreign_repositories(hub: Hub, ask: Callable[..., Any]) -> None:
    """What cannot be merged is told from the list of files; nothing is downloaded."""
    hub.repositories["org/lora"] = {"adapter_model.safetensors": b"x", "adapter_config.json": b"{}"}
    hub.repositories["org/quants"] = {"m-q4.gguf": b"x", "m-q8.gguf": b"x", "README.md": b""}
    hub.repositories["org/flax"] = {"flax_model.msgpack": b"x"}
    assert ask("org/lora", hub.url)["error"] == "UnsupportedError"
    assert "several GGUF files (m-q4.gguf, m-q8.gguf)" in ask("org/quants", hub.url)["message"]
    assert "Flax" in ask("org/flax", hub.url)["message"]
    assert hub.downloads == []


def test_an_adapter_is_fetched_alone(
    hub: Hub, ask: Callable[..., Any], tmp_path: Path, save: Callable[..., Path]
) -> None:
    """Of an adapter's repository settings and weights are fetched, with the licence; then it opens without the hub."""
    weights = save(tmp_path / "w.safetensors", {"lora_A.weight": np.ones((2, 2), np.float32)}).read_bytes()
    settings = json.dumps({"peft_type": "LORA", "r": 2}).encode()
    others = {"adapter_model.bin": b"x", "optimizer.pt": b"x", "tokenizer.json": b"{}", "README.md": b"x"}
    hub.repositories["org/lora"] = {"adapter_model.safetensors": weights, "adapter_config.json": settings, **others}
    found = ask("adapter:org/lora", hub.url)
    assert found["tensors"] == ["lora_A.weight"]
    assert found["config"]["r"] == 2
    assert found["identity"]["revision"] == COMMIT
    assert sorted(hub.downloads) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert ask("adapter:org/lora", hub.url, HF_HUB_OFFLINE="1") == found
    hub.repositories["org/model"] = {"config.json": b"{}", "model.safetensors": weights}
    told = ask("adapter:org/model", hub.url)["message"]
    assert "not an adapter" in told
    assert "recipe line 7" in told


def test_neither_hub_nor_cache(ask: Callable[..., Any]) -> None:
    """Without network or in offline mode, an unknown model is told with both ways out."""
    offline = ask("org/name", "http://127.0.0.1:9", HF_HUB_OFFLINE="1")["message"]
    assert "offline mode is on" in offline
    assert "check the path" in offline
    down = ask("org/name", "http://127.0.0.1:9")["message"]
    assert "cannot be reached" in down


def test_hub_in_trouble(hub: Hub, ask: Callable[..., Any]) -> None:
    """An error of the server itself is called that."""
    hub.errors = {"org/name": (500, "")}
    assert "HTTP 500" in ask("org/name", hub.url)["message"]


def test_incomplete_cache(ask: Callable[..., Any], tmp_path: Path, model: dict[str, bytes]) -> None:
    """A cache that another program filled in part is told, with what is missing."""
    repository = tmp_path / "home" / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / COMMIT
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot.mkdir(parents=True)
    for file in ("config.json", "model.safetensors.index.json", "part-one.safetensors"):
        (snapshot / file).write_bytes(model[file])
    message = ask("org/name", "http://127.0.0.1:9", HF_HUB_OFFLINE="1")["message"]
    assert "part[2].safetensors" in message
    assert "run once with network access" in message


def test_the_library_is_imported_only_for_hub_ids(tmp_path: Path, save: Callable[..., Path]) -> None:
    """Opening a path imports neither huggingface_hub nor PyTorch: both take long."""
    path = save(tmp_path / "m.safetensors", {"w": np.ones(2, np.float32)})
    code = (
        "import sys; from stockpot.checkpoint import open_checkpoint; "
        f"open_checkpoint({str(path)!r}); "
        "print([m for m in ('huggingface_hub', 'torch', 'transformers') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
