# The same set-up for everything: a virtual environment in .venv, versions pinned by constraints.txt.
# On Windows, without make:
#   py -m venv .venv
#   .venv\Scripts\pip install -c constraints.txt -e .[demo]     then   .venv\Scripts\game-agent demo

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
NATIVE := $(wildcard CMakeLists.txt kernels/src/*)

.PHONY: demo test check prove bench clean

demo: $(READY)
	$(BIN)/game-agent demo

test: check clients/js/node_modules
	$(BIN)/python -m pytest -m "not slow"

# The quick half: form, types, layers.
check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py

# What is too long for every commit; writes docs/results/, hours on an idle machine. Ended early, or after
# failures, the same command goes on with what is missing. More: bench/prove.py.
prove: $(READY)
	$(BIN)/python bench/prove.py

bench: $(READY)
	$(BIN)/python bench/ttft.py

$(READY): pyproject.toml constraints.txt $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[demo,bench,finetune,dev]"
	touch $@

# The JavaScript client is tested where there is npm.
clients/js/node_modules: clients/js/package-lock.json
	-! command -v npm || npm --prefix clients/js ci --no-audit --no-fund --loglevel=error

clean:
	rm -rf clients/js/node_modules .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build
