# make demo: build the built-in model's bundle and play it.   make test: everything CI checks.
# make test-gpu: what only a GPU can show, with the reason where something is skipped.
# make cpp: build the C++ runtime and test it.   make cpp-check: the same with sanitizers, fuzzing (of both readers, too) and 1,000 openings.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: setup demo test test-gpu lint clean cpp cpp-check

setup: $(STAMP)

$(STAMP): pyproject.toml runtime/python/pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(if $(INDEX),--extra-index-url $(INDEX)) -e runtime/python[ort,text] -e .[dev]
	touch $@

demo: $(STAMP)
	$(BIN)/soda-export build --model digits --budget 17
	$(BIN)/python scripts/demo.py engines/digits-b17-ort --out out/demo.png

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-gpu: $(STAMP)
	$(BIN)/python -m pytest tests/gpu -rs

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

CPP_TOOLS := PATH="$(CURDIR)/$(BIN):$$PATH"
FUZZ_SECONDS ?= 60

# CMake, ninja and the headers that are missing go into .venv; a C++17 compiler is needed
cpp: $(STAMP)
	$(BIN)/python -m pip install --quiet "cmake>=3.22,<5" ninja
	$(BIN)/python scripts/fetch_cpp_headers.py $(VENV)/cpp
	cd runtime/cpp && $(CPP_TOOLS) cmake --preset release && $(CPP_TOOLS) cmake --build --preset release
	cd runtime/cpp && $(CPP_TOOLS) ctest --preset release --label-exclude long
	$(BIN)/python -m pytest tests/cpp

cpp-check: cpp
	cd runtime/cpp && $(CPP_TOOLS) ctest --preset release --label-regex long
	cd runtime/cpp && for preset in asan tsan; do \
	    $(CPP_TOOLS) cmake --preset $$preset && $(CPP_TOOLS) cmake --build --preset $$preset && \
	    $(CPP_TOOLS) ctest --preset $$preset --label-exclude long || exit 1; done
	$(CPP_TOOLS) scripts/fuzz_cpp.sh $(FUZZ_SECONDS)
	$(BIN)/python scripts/fuzz_readers.py --seconds $(FUZZ_SECONDS)

clean:
	rm -rf $(VENV) out engines/.work build
