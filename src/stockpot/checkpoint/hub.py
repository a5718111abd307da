"""Fetching from the Hugging Face hub: only the files that a merge needs, into the hub's cache.

huggingface_hub does the talking, so its settings hold: HF_ENDPOINT, HF_HOME, HF_HUB_CACHE,
HF_HUB_OFFLINE, HF_TOKEN. Messages here are our own; what the library says may quote requests, and
so is never repeated.
"""

from __future__ import annotations

import errno
import fnmatch
import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stockpot.checkpoint.folder import adapter_files, choose_weights
from stockpot.checkpoint.jsons import read_index
from stockpot.checkpoint.parts import COMPONENTS, MODULES, listed_in, parts_in
from stockpot.checkpoint.places import HubId, member
from stockpot.errors import CheckpointError, Problem, StockpotError

__all__ = ["fetch", "small_files"]

_SMALL = (
    "config.json", "generation_config.json", "model_index.json", "modules.json",
    "configuration.json", "config_sentence_transformers.json", "sentence_*_config.json",
    "tokenizer*", "*.spm", "spiece.model", "vocab.*", "merges.txt",
    "special_tokens_map.json", "added_tokens.json", "chat_template*",
    "additional_chat_templates/*", "*preprocessor_config.json", "*processor_config.json",
    "sentencepiece.*", "*.tiktoken", "tekken.json", "*.py", "[0-9]_*/*",
    "README*", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip
"""What makes weights a usable model; ``1_Pooling`` and the like are of sentence-transformers."""

_TIMEOUT = 30.0
"""Seconds to wait for the hub's first answer."""

_WEB_LIBRARIES = ("requests", "urllib3", "httpx", "httpx2", "httpcore", "httpcore2")


def fetch(wanted: HubId, offline: bool | None = None, *, adapter: bool = False) -> Path:
    """The folder in the hub's cache that holds ``wanted``; what it lacks is downloaded.

    When the hub cannot be reached, what the cache holds is used; a receipt names its commit.

    Args:
        adapter: Whether the files of an adapter are wanted, not those of a model.

    Raises:
        CheckpointError: when it is not found, not allowed, or cannot be had.
        UnsupportedError: when it holds an adapter, or no format that Stockpot reads.
    """
    hub = _library()
    if offline or (offline is None and hub.constants.HF_HUB_OFFLINE):
        return _cached(hub, wanted, "offline mode is on")
    try:
        return _online(hub, wanted, adapter)
    except StockpotError:
        raise
    except Exception as error:  # noqa: BLE001 - of requests, httpx or the library's own, by its version
        trouble = _trouble(hub, error)
        if trouble is None:
            raise _failed(hub, wanted, error) from None
    return _cached(hub, wanted, trouble)


def small_files(names: Sequence[str]) -> list[str]:
    """Those of a repository's files that a model needs beside its weights.

    >>> small_files(["config.json", "vocab.txt", "original/params.json", "m.gguf"])
    ['config.json', 'vocab.txt']
    """
    return [
        name for name in names if any(name.count("/") == p.count("/") and fnmatch.fnmatchcase(name, p) for p in _SMALL)
    ]


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        fix = "pip install huggingface_hub, or name a folder"
        raise CheckpointError(Problem("models of the hub need huggingface_hub", fix=fix)) from error
    return huggingface_hub


def _online(hub: Any, wanted: HubId, adapter: bool) -> Path:
    # One request that fails at once; list_repo_files tries again for half a minute without network.
    info = hub.HfApi().model_info(wanted.name, revision=wanted.revision, timeout=_TIMEOUT)
    names = [file.rfilename for file in info.siblings or ()]
    if adapter:
        return _download(hub, wanted, adapter_files(names, f"hub repository {_shown(wanted)}").names)
    lists = [name for name in (COMPONENTS, MODULES) if name in names]
    home = _download(hub, wanted, lists) if lists else Path()
    listed = listed_in(home, names) if lists else ()
    parts = parts_in(home, names) if lists else ()
    chosen = {part: _chosen(part, names, wanted) for part in parts or ("",)}
    settings = _settings(listed, parts, names) if parts else []
    first = [*small_files(names), *settings, *(name for weights in chosen.values() for name in weights)]
    folder = _download(hub, wanted, first)
    shards = []
    for part, weights in chosen.items():
        for index in (name for name in weights if name.endswith(".json")):
            below = f"{part}/" if part else ""
            shards += [below + shard for shard in sorted(set(read_index(folder / index).values()))]
    for shard in shards:
        member(folder, shard)
    return _download(hub, wanted, shards) if shards else folder


def _chosen(part: str, names: Sequence[str], wanted: HubId) -> list[str]:
    """The files of weights of a part, or the index that lists them."""
    below = f"{part}/" if part else ""
    weights = choose_weights(_of_part(part, names), f"hub repository {_shown(wanted)}")
    return [below + name for name in (weights.files if weights.index is None else (weights.index,))]


def _of_part(part: str, names: Sequence[str]) -> list[str]:
    """The files in a folder below, its own folders left out, by their names there; of ``""`` all files."""
    return [name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")] if part else list(names)


def _settings(listed: Sequence[str], parts: Sequence[str], names: Sequence[str]) -> list[str]:
    """The small files of parts, and those of folders without weights, such as scheduler and tokenizer."""
    return [
        f"{part}/{name}"
        for part in listed
        if part
        for own in (_of_part(part, names),)
        for name in (small_files(own) if part in parts else own)
    ]


def _download(hub: Any, wanted: HubId, names: Sequence[str]) -> Path:
    """Names are patterns to the library, so their special characters are escaped."""
    patterns = [glob.escape(name) for name in names]
    return Path(hub.snapshot_download(wanted.name, revision=wanted.revision, allow_patterns=patterns))


def _cached(hub: Any, wanted: HubId, why: str) -> Path:
    """The folder in the cache; whether every file is there shows when it is opened.

    No pattern is allowed, for else newer versions of the library insist on files that no merge
    needs.
    """
    try:
        found = hub.snapshot_download(wanted.name, revision=wanted.revision, local_files_only=True, allow_patterns=[])
    except Exception as error:  # noqa: BLE001 - likewise
        if not isinstance(error, hub.errors.LocalEntryNotFoundError):
            raise _failed(hub, wanted, error) from None
        name = _shown(wanted)
        message = f"no such file or folder, nor is it in the hub's cache, and {why}: {name}"
        fix = "check the path; for a model of the hub, run once online, without HF_HUB_OFFLINE"
        raise CheckpointError(Problem(message, fix=fix)) from None
    return Path(found)


def _trouble(hub: Any, error: Exception) -> str | None:
    """Why the hub cannot be reached, or None when it answered."""
    status = _status(error)
    if status is not None:
        return f"the hub is in trouble (HTTP {status})" if status >= 500 or status == 429 else None
    silent = isinstance(error, ConnectionError | TimeoutError | hub.errors.LocalEntryNotFoundError)
    if silent or type(error).__module__.partition(".")[0] in _WEB_LIBRARIES:
        return "the hub cannot be reached"
    return None


def _failed(hub: Any, wanted: HubId, error: Exception) -> CheckpointError:
    """``error`` in our words; the library's own may quote a request with its token."""
    errors, name, status = hub.errors, _shown(wanted), _status(error)
    if isinstance(error, errors.GatedRepoError) or status == 403:
        message = f"the hub does not let you read {name}: it is gated"
        fix = "accept its terms on its page at the hub, and log in (hf auth login, or set HF_TOKEN)"
    elif isinstance(error, errors.RevisionNotFoundError):
        message, fix = f"no such revision: {name}", "name a branch, tag or full commit that exists"
    elif isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError) or status in (
        401,
        404,
    ):
        message = f"no such file or folder, and no such repository on the hub (or a private one): {name}"
        fix = "check the spelling; for a private one, log in (hf auth login, or set HF_TOKEN)"
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        message, fix = f"no space left for {name}", "free some, or move the cache (HF_HOME)"
    else:
        told = type(error).__name__ if status is None else f"HTTP {status}"
        message, fix = (
            f"could not be fetched from the hub ({told}): {name}",
            "try again, or download it by hand",
        )
    return CheckpointError(Problem(message, fix=fix))


def _status(error: Exception) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _shown(wanted: HubId) -> str:
    return wanted.name if wanted.revision is None else f"{wanted.name}@{wanted.revision}"
