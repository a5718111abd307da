"""What all tests share: which files are no tests, and how hypothesis runs."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Several folders have one, and doctests would import each by the same name.
collect_ignore_glob = ["*conftest.py", "*/run.py"]

# The same examples in every run, so that the gate never fails by chance; no deadline, since kernels compile once.
settings.register_profile(
    "stockpot", derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("stockpot")
