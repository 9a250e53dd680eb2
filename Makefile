# Everything a newcomer needs: `make demo`, `make test`. PYTHON may name another interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := demo

.PHONY: demo test slow lint check clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

test: $(READY)  ## the fast test suite, with coverage
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered --cov-fail-under=90

slow: $(READY)  ## minutes long: training against known entropies, a real browser
	$(BIN)/python -m pytest -m slow

lint: $(READY)  ## formatting, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

demo: $(READY)  ## train, sample, infill and draw, in a few minutes
	sh recipes/demo.sh $(BIN)/ddcli $(DEMO)

clean:
	rm -rf $(VENV) $(DEMO) build dist .coverage .pytest_cache .ruff_cache .mypy_cache .hypothesis
