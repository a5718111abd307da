"""What tests of soups and sweeps share."""

from __future__ import annotations

import pytest
from searching import search_bench


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """The folder of :func:`searching.search_bench`, which the test runs in, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STOCKPOT_CACHE_DIR", str(tmp_path / "cache"))
    return search_bench(tmp_path)
