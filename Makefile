# Everything a newcomer needs: `make demo`, `make test`. PYTHON may name another interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS := $(VENV)/.docs
DEMO := demo

.PHONY: demo docs test coverage slow gpu torture fuzz soak scaling bench lint check exactness families clean

$(READY): pyproject.toml constraints.txt
	@echo 'Installing into $(VENV): minutes, most of them for torch'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

$(DOCS): $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	touch $@

test: $(READY)  ## the fast test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

coverage: $(READY)  ## the same, a quarter slower, with the lines that no test runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal --cov --cov-report=term:skip-covered --cov-fail-under=90

slow: $(READY)  ## minutes long: training against known entropies; with chromium and `pip install -c constraints.txt '.[browser]'`, the pages
	$(BIN)/python -m pytest -m slow

gpu: $(READY)  ## what needs a GPU, beside the same on a CPU
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m gpu

bench: $(READY)  ## how fast training and sampling are, beside the textbook loop, as tables; on a machine at rest
	$(BIN)/python benchmarks/bench.py

torture: $(READY)  ## training killed, damaged and starved: what it survives, as a table
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/torture.py

soak: $(READY)  ## two hours of training, and what the process holds meanwhile, as a table
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/soak.py

scaling: $(READY)  ## many processes: do they compute the same, and what they need, as tables
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/scaling.py

fuzz: $(READY)  ## 10,000 documents, 2,000 recipes, 2,000 command lines and 2,000 damaged runs, all new each time
	DDCLI_FUZZ=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --durations=0 tests/test_fuzz.py

lint: $(READY)  ## formatting, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(DOCS)  ## the documentation as a site in site/, which fetches nothing; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet build --strict
	@echo 'Open site/index.html, or, to search in it too, $(BIN)/python -m http.server -d site'

check: lint docs test

families: $(READY)  ## what each family of models can do, tried on tiny ones, as the table of docs/models.md
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/families.py --write docs/models.md

exactness: $(READY)  ## how far every identity of docs/theory.md is from holding; fails where it is too far
	$(BIN)/python benchmarks/exactness.py

demo: $(READY)  ## train on the standard library's code, sample, infill and draw, in six minutes
	mkdir -p $(DEMO)
	@printf '\n== Training on the Python standard library\n'
	$(BIN)/ddcli train demo $$(test -f $(DEMO)/run/config.toml && echo --resume) -o $(DEMO)/run
	@printf '\n== Writing new code\n'
	$(BIN)/ddcli sample $(DEMO)/run --length 128 --seed 1 -o $(DEMO)/sample.txt
	@cat $(DEMO)/sample.txt
	@printf '\n== Filling the gaps of a file\n'
	printf 'def read(path):\n    with open(path[MASK:4]) as file:\n        return[MASK:4]\n' > $(DEMO)/gaps.py
	$(BIN)/ddcli infill $(DEMO)/run $(DEMO)/gaps.py --seed 1 -o $(DEMO)/filled.py
	@cat $(DEMO)/filled.py
	@printf '\n== Drawing the noise\n'
	$(BIN)/ddcli noise-viz --text 'with open(path) as file:' -m $(DEMO)/run -o $(DEMO)/noise.html
	$(BIN)/ddcli noise-viz --text 'with open(path) as file:' -m $(DEMO)/run -o $(DEMO)/noise.png
	@printf '\nMade, in %s/: the model run/, sample.txt, filled.py, noise.html, noise.png\n' $(DEMO)
	@printf '\nNext: $(BIN)/ddcli infill $(DEMO)/run YOUR_FILE.py   (write [MASK:8] where eight tokens are missing)\n'

clean:
	rm -rf $(VENV) $(DEMO) site build dist .coverage .pytest_cache .ruff_cache .mypy_cache .hypothesis
