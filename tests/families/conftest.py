"""Tiny models of every family on disk, made once."""

from __future__ import annotations

import pytest
from zoo import FAMILIES


class Zoo:
    """Folders of tiny models, made when they are first asked for."""

    def __init__(self, place):
        self.place = place

    def saved(self, family, seed=0, *, dtype="float32", shards="1GB", **changes):
        """The folder of a model of ``family``."""
        import torch

        told = "-".join([family, str(seed), dtype, shards, *(f"{k}={v}" for k, v in sorted(changes.items()))])
        folder = self.place / told
        if not folder.exists():
            model = FAMILIES[family].new(seed, **changes).to(getattr(torch, dtype))
            model.save_pretrained(folder, max_shard_size=shards)
        return folder


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    return Zoo(tmp_path_factory.mktemp("zoo"))
