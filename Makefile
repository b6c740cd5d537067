PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/digits
BIN := $(VENV)/bin

.PHONY: demo test lint benchmark clean

demo: $(VENV)/installed  ## train a zoo on the handwritten digits, generate networks, audit them, write the report
	$(BIN)/python -m launch.run --config=configs/digits.py --workdir=$(WORKDIR)

test: $(VENV)/installed  ## run the test suite
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(VENV)/installed  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

benchmark: $(VENV)/installed  ## measure this machine
	$(BIN)/python -m launch.benchmark --suite=all

$(VENV)/installed: requirements.txt pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'jaxweights needs Python 3.11 or newer: make PYTHON=python3.12 ...')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

clean:  ## remove the environment and the compilation cache, never a workdir
	rm -rf $(VENV) .cache
