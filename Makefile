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

# What is too long for every commit; writes docs/results/. The ablation compares what is in runs/, the
# work of hours: python bench/trainings.py --out runs
prove: $(READY)
	$(BIN)/python -m pytest -m slow
	$(BIN)/python bench/equivalence.py --out docs/results/equivalence.md
	$(BIN)/python bench/kernels.py --out docs/results/kernels.md
	$(BIN)/python bench/ttft.py --out docs/results/ttft.md
	$(BIN)/python bench/npcs.py --out docs/results/npcs.md
	$(BIN)/python bench/contextual.py --ttft --out docs/results/contextual_ttft.md
	$(BIN)/python bench/placements.py --out docs/results/placements.md
	$(BIN)/python bench/ablation.py --model runs/block-* --twin runs/causal-* --finetuned runs/fine-* \
		--control runs/control-* --out docs/results/ablation.md
	$(BIN)/python bench/plan.py --out docs/results/plan.md
	$(BIN)/python bench/restart.py --out docs/results/restart.md
	$(BIN)/python bench/store.py --out docs/results/store.md
	$(BIN)/python bench/lore.py --out docs/results/lore.md
	$(BIN)/python bench/flops.py --out docs/results/flops.md
	$(BIN)/python bench/background.py --out docs/results/background.md
	$(BIN)/python bench/abuse.py --out docs/results/abuse.md
	$(BIN)/python bench/load.py --layers 4 --out docs/results/load.md
	$(BIN)/python bench/answers.py --out docs/results/answers.md
	$(BIN)/python bench/demo.py --out docs/results/demo.md
	$(BIN)/python bench/soak.py --out docs/results/soak

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
