# Everything a newcomer needs is `make demo` and `make test`; both set up .venv first.
# What stands behind each target, for machines without make: CONTRIBUTING.md.

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
DEMO_FLAGS ?= --data datasets/nuclei --batch-size 2 --steps 450 --evaluate-every 0 --run runs/solov2/demo
TEST_FLAGS ?= -n 2 --dist loadfile

ENVIRONMENT := .venv
OLDEST := .venv-oldest
RUN := $(ENVIRONMENT)/bin/python
# What an environment was made from: when one of these changes, it is brought up to date.
SOURCES := pyproject.toml $(wildcard common/ops/*.c)

unexport PYTHONDONTWRITEBYTECODE # the tests start hundreds of programs: each module is compiled once

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow test-oldest lint bench ext clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(ENVIRONMENT)/.ready ## train SOLOv2 on pictures of cells (8 minutes on 2 cores), evaluate it, write a report, draw what it finds
	$(RUN) -m solov2.train $(DEMO_FLAGS)
	$(RUN) -m solov2.predict --weights runs/solov2/demo/best.safetensors datasets/nuclei/val/images --out runs/solov2/demo/drawn

test: $(ENVIRONMENT)/.ready ## the test suite, minutes
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m "not slow" $(TEST_FLAGS)

test-slow: $(ENVIRONMENT)/.ready ## the proofs that take long: learning to a score, memorising photographs
	$(RUN) -m pytest -m slow

test-oldest: $(OLDEST)/.ready ## imports, parity and a step of every training with the lowest versions that pyproject.toml allows (its own environment)
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -m "not slow" $(TEST_FLAGS) tests/test_imports.py tests/test_devices.py tests/parity

lint: $(ENVIRONMENT)/.ready ## ruff, ruff format and mypy --strict; changes nothing
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

bench: $(ENVIRONMENT)/.ready ## every program of scripts/bench; writes BENCHMARKS.md
	$(RUN) scripts/benchmarks.py

ext: $(ENVIRONMENT)/.ready ## build the C code, and the CUDA code where nvcc is, in place
	$(RUN) -W ignore -c "import setuptools; setuptools.setup()" -q build_ext --inplace --force
	@if command -v nvcc >/dev/null || [ -x "$$CUDA_HOME/bin/nvcc" ]; then $(RUN) -m common.ops.focal_loss_cuda; \
	  else echo "nvcc was not found: the CUDA code was not built"; fi

clean: ## remove what was built and cached (built again when next needed); environments, data and runs stay
	rm -rf build dist *.egg-info */build */dist */*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f common/ops/*.so $(ENVIRONMENT)/.ready $(OLDEST)/.ready
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

$(ENVIRONMENT)/.ready: $(SOURCES) $(CONSTRAINTS)
	$(call install,$(ENVIRONMENT),$(CONSTRAINTS),dev)

$(OLDEST)/.ready: $(SOURCES) constraints-oldest.txt
	$(call install,$(OLDEST),constraints-oldest.txt,test)

# install(environment, constraints, extra): the stamp is written last, so that a broken set-up is taken up again.
# --no-compile: of the libraries' 13,000 modules those that are used are compiled when they are.
define install
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	  { echo "maskworks needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --no-compile --disable-pip-version-check --constraint $(2) --editable ".[$(3)]"
	@touch $@
endef
