# Two commands on a fresh machine with Python 3.11+: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint docs fuzz bench torture torture-memory test-lowest compare-mergekit compare-vllm clean

demo: $(VENV)/.demo
	$(BIN)/stockpot demo demo-out

test: $(VENV)/.test lint
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.test
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/mypy
	$(BIN)/lint-imports

# The page about methods, from their declarations; `make test` fails while it is stale.
docs: $(VENV)/.demo
	$(BIN)/stockpot methods --markdown > docs/methods.md

# Damaged headers, recipes, indexes, configs and pickles, as many as docs/security.md promises; some twenty minutes.
fuzz: $(VENV)/.test
	$(BIN)/python tests/fuzz/run.py --target all --jobs 2

bench: $(VENV)/.demo
	$(BIN)/python benchmarks/run.py --stockpot $(BIN)/stockpot

# Kills, faults at every system call, full disks: some 20 minutes.
torture: $(VENV)/.test
	$(BIN)/python tests/torture/run.py

# The core with the oldest versions that pyproject.toml admits.
test-lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints/lowest.txt -e . pytest hypothesis safetensors
	$(VENV)-lowest/bin/python -m pytest tests/kernels tests/methods tests/planning tests/execute tests/failures -W default

# Our numbers beside mergekit's; needs `pip install 'stockpot[bench]'` in an environment of its own.
compare-mergekit:
	$(BIN)/python tests/oracle/compare_mergekit.py

# Figures of lm-eval's tasks by vLLM beside transformers'; needs an environment with vLLM and stockpot[lm-eval].
compare-vllm:
	$(BIN)/python tests/oracle/compare_vllm.py

# Every method in the least memory that its plan accepts, as the kernel counts it: about a quarter of an hour.
torture-memory: $(VENV)/.test
	$(BIN)/python tests/torture/memory.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml constraints/test.txt
	$(PIP) -c constraints/test.txt -e '.[demo]'
	touch $@

# torch first, alone: its pinned version decides which build everything after it finds installed.
$(VENV)/.test: $(VENV)/.demo
	$(PIP) -c constraints/test.txt torch==2.13.0
	$(PIP) -c constraints/test.txt -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-lowest demo-out .bench build dist
