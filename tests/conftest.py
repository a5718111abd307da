"""What all tests share: which files are no tests."""

from __future__ import annotations

collect_ignore_glob = ["*conftest.py"]  # several folders have one, and doctests would import each by the same name
