# The whole project by name: make setup | demo | test | test-avx2 | wheel-test | browser | docs | lint | typecheck | audit | bench | lock | clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NUMERIC := $(addprefix tests/test_,$(addsuffix .py,adapters onnx_int8 packing precision precision_choice real reference training whole))

.PHONY: setup demo test test-avx2 wheel-test browser docs lint links imports typecheck audit bench lock clean

setup: $(STAMP)

# Where pip finds torch. Without an NVIDIA card: PyTorch's own CPU builds, where they can be reached (the default index
# has builds with gigabytes of CUDA libraries). With a card: the default index. `make setup TORCH_INDEX=` skips this.
CPU_BUILDS := https://download.pytorch.org/whl/cpu
TORCH_INDEX ?= $(shell if nvidia-smi -L 2>/dev/null | grep -q GPU; then :; \
	elif curl -sfI -m 3 $(CPU_BUILDS)/torch/ >/dev/null 2>&1; then echo $(CPU_BUILDS); fi)

# The pinned set; llama-cpp-python has no Linux wheel and is compiled here once (about 5 minutes on 2 cores).
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
		--editable ".[train,gguf,serve,dev]"
	touch $@

demo: $(STAMP)
	$(BIN)/delrec-lite quickstart

test: $(STAMP)
	$(BIN)/python -m pytest

# The tests in which torch computes, once more as on a common laptop: no AVX512, no native bf16. About 4 minutes on 2 cores.
test-avx2: $(STAMP)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python -m pytest $(NUMERIC)

# What the test of the page needs, on Debian; it is left out where there is none.
browser:
	apt-get update
	apt-get install --yes --no-install-recommends chromium chromium-driver

# Builds wheel and sdist, installs the wheel with the extra `onnx` alone in a fresh environment and asks it.
wheel-test: $(STAMP)
	$(BIN)/python -m pytest -m slow tests/test_packaging.py

# The pages that are made from code, and the tables that are made from bench/results.
docs: $(STAMP)
	$(BIN)/python docs/reference.py
	$(BIN)/python docs/figures.py

lint: imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Type and import checkers can't see that export/ and bench/ are sub-packages, so they check a tree of links.
links: $(STAMP)
	rm -rf build/typing && mkdir -p build/typing/delrec_lite
	for entry in delrec_lite/*; do case $$entry in */export|*/bench) ;; *) ln -s "$(CURDIR)/$$entry" build/typing/delrec_lite/;; esac; done
	ln -s "$(CURDIR)/export" "$(CURDIR)/bench" build/typing/delrec_lite/

# The import contracts of pyproject.toml: who may call whom, no circles, no torch where bundles are served.
imports: links
	cd build/typing && "$(CURDIR)/$(BIN)/lint-imports" --no-cache --no-logo "$(CURDIR)/pyproject.toml"

typecheck: links
	cd build/typing && "$(CURDIR)/$(BIN)/mypy" --config-file "$(CURDIR)/pyproject.toml" -p delrec_lite

# Fails on a known vulnerability of a pinned version; where no database can be reached it says that nothing was audited.
audit: $(STAMP)
	test -x build/audit/bin/pip-audit || ($(PYTHON) -m venv build/audit && build/audit/bin/pip install --quiet pip-audit) || true
	$(BIN)/python .ci/audit.py build/audit/bin/pip-audit constraints.txt

bench: $(STAMP)
	$(BIN)/delrec-lite bench runs/ml-100k-cpu/ml-100k-cpu.delrec

lock: $(STAMP)
	$(BIN)/python -m pip freeze --exclude-editable | grep -viE '^(pip|setuptools|wheel)=' | sed 's/+[a-z0-9.]*$$//' > constraints.txt

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
