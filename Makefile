# make demo: build the built-in model's bundle and play it.   make test: everything CI checks.
# make test-gpu: what only a GPU can show, with the reason where something is skipped.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: setup demo test test-gpu lint clean

setup: $(STAMP)

$(STAMP): pyproject.toml runtime/python/pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt -e runtime/python[ort,text] -e .[dev]
	touch $@

demo: $(STAMP)
	$(BIN)/soda-export build --model digits --budget 17 --plan-seconds 60
	$(BIN)/python scripts/demo.py engines/digits-b17-ort --out out/demo.png

test: lint
	$(BIN)/python -m pytest

test-gpu: $(STAMP)
	$(BIN)/python -m pytest tests/gpu -rs

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) out engines/.work build
