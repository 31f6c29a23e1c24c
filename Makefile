# make demo: build the built-in model's bundle and play it.   make test: everything CI checks.
# make test-long: further cases of what make test shows with one, minutes of them.
# make test-gpu: what only a GPU can show, with the reason where something is skipped.
# make cpp: build the C++ runtime and test it.   make cpp-package: as a tarball for other machines, tested unpacked.
# make cpp-check: make cpp with sanitizers, fuzzing (of both readers, too) and 1,000 openings.
# make wheels: wheels of both distributions in dist/.
# make floors, make newest: both distributions with the lowest and with the newest allowed dependencies, checked.
# make audit: known vulnerabilities and licences of what is installed.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name) 2>/dev/null)))
# On Linux the default index has torch with 5 GB of CUDA. Its CPU build:
#   make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# What is installed uncompiled is compiled once, not in each of the processes that tests start. Containers often set this:
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test pytest test-long test-gpu lint clean cpp cpp-tools cpp-check cpp-package wheels floors newest
.PHONY: audit

setup: $(STAMP)

# --no-compile: of 22,000 modules few are ever imported, which compiles them
$(STAMP): pyproject.toml runtime/python/pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-compile --index-url $(TORCH_INDEX) torch)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt -e runtime/python[ort,text] -e .[dev]
	touch $@

demo: $(STAMP)
	$(BIN)/soda-export build --model digits --budget 17
	$(BIN)/python scripts/demo.py engines/digits-b17-ort --out out/demo.png

test: lint pytest

pytest: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-long: $(STAMP)
	$(BIN)/python -m pytest -m long --numprocesses 2

test-gpu: $(STAMP)
	$(BIN)/python -m pytest tests/gpu -rs

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

wheels: $(STAMP)
	$(BIN)/python scripts/build_wheels.py dist

floors:
	$(PYTHON) scripts/floors.py lowest $(VENV)-floors

newest:
	$(PYTHON) scripts/floors.py newest $(VENV)-newest

# The tools have an environment of their own: what they need is not what is judged
audit: $(STAMP)
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet pip-audit pip-licenses
	$(VENV)-audit/bin/pip-licenses --python=$(BIN)/python --from=mixed --partial-match --fail-on="GPL;UNKNOWN"
	$(VENV)-audit/bin/pip-audit --skip-editable --progress-spinner off \
	    --path $$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")

CPP_TOOLS := PATH="$(CURDIR)/$(BIN):$$PATH"
FUZZ_SECONDS ?= 60

# CMake, ninja and the headers that are missing go into .venv; a C++17 compiler is needed
cpp-tools: $(STAMP)
	$(BIN)/python -m pip install --quiet "cmake>=3.22,<5" ninja
	$(BIN)/python scripts/fetch_cpp_headers.py $(VENV)/cpp

cpp: cpp-tools
	cd runtime/cpp && $(CPP_TOOLS) cmake --preset release && $(CPP_TOOLS) cmake --build --preset release
	cd runtime/cpp && $(CPP_TOOLS) ctest --preset release --label-exclude long
	$(BIN)/python -m pytest tests/cpp --numprocesses 2 --dist loadfile

CPP_PACKAGE := $(CURDIR)/build/cpp-package

cpp-package: cpp-tools
	rm -f $(CPP_PACKAGE)/*.tar.gz
	cd runtime/cpp && $(CPP_TOOLS) cmake --preset package && $(CPP_TOOLS) cmake --build --preset package
	cd $(CPP_PACKAGE) && $(CPP_TOOLS) cpack
	$(CPP_TOOLS) SODA_CPP_BUILD=$(CPP_PACKAGE) SODA_CPP_PACKAGE=$$(ls $(CPP_PACKAGE)/*.tar.gz) \
	    $(BIN)/python -m pytest tests/cpp/test_install.py

cpp-check: cpp
	cd runtime/cpp && $(CPP_TOOLS) ctest --preset release --label-regex long
	cd runtime/cpp && for preset in asan tsan; do \
	    $(CPP_TOOLS) cmake --preset $$preset && $(CPP_TOOLS) cmake --build --preset $$preset && \
	    $(CPP_TOOLS) ctest --preset $$preset --label-exclude long || exit 1; done
	$(CPP_TOOLS) scripts/fuzz_cpp.sh $(FUZZ_SECONDS)
	$(BIN)/python scripts/fuzz_readers.py --seconds $(FUZZ_SECONDS)

clean:
	rm -rf $(VENV) $(VENV)-floors $(VENV)-newest $(VENV)-audit out engines/.work build dist runtime/python/build
