# `make demo` and `make test` need nothing but Python 3.11+ and the package index.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= constraints.txt
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS)
# The tests of a file share what they compile, so one worker runs them; files with
# few tests are not left for the end, because some of them take long.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder
FAST := "not exhaustive and not slow and not parity and not kauldron and not mesh"
EIGHT := XLA_FLAGS=--xla_force_host_platform_device_count=8

# What of each part of the library calls most of JAX, Flax and Orbax.
LOWEST_TESTS := cache ckpts cross_entropy experts load_hf model peft_modules \
  project quantize runs sampler training
# The files with such tests: collecting the others takes longer than that.
TRAIN_TESTS = $(shell grep -l 'mark.kauldron' tests/test_*.py)
MESH_TESTS = $(shell grep -l 'mark.mesh' tests/test_*.py)

.PHONY: demo test mesh train-test check lint fast lowest format golden constraints clean

demo: $(VENV)/core  ## A streamed chat and a sample from the bundled model.
	@$(BIN)/python examples/demo.py

test: $(VENV)/dev  ## All tests, those against transformers and the slow ones too.
	$(PYTEST) -m "not exhaustive and not kauldron and not mesh"
	$(MAKE) mesh VENV=$(VENV)

mesh: $(VENV)/test  ## The tests on eight devices.
	$(EIGHT) $(PYTEST) --dist load -m "mesh and not exhaustive and not kauldron" $(MESH_TESTS)

train-test: $(VENV)/train  ## The tests that train with Kauldron.
	$(PYTEST) -m "kauldron and not exhaustive and not mesh" $(TRAIN_TESTS)
	$(EIGHT) $(PYTEST) -m "kauldron and mesh and not exhaustive" $(TRAIN_TESTS)

check: lint fast  ## Format, lint, types, and the fast tests.

lint: $(VENV)/test  ## Format, lint and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fast: $(VENV)/test  ## The fast tests alone.
	$(PYTEST) -m $(FAST)

lowest: $(VENV)/test  ## Some of these, for other versions of what is used.
	$(PYTEST) -m $(FAST) $(LOWEST_TESTS:%=tests/test_%.py)

format: $(VENV)/test  ## Puts the code in its standard form.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

golden: $(VENV)/dev  ## Writes tests/golden anew.
	cd tests && ../$(BIN)/python make_golden.py

constraints:  ## Writes constraints.txt anew, with the Pythons found.
	$(PYTHON) .ci/constraints.py

clean:
	rm -rf $(VENV)

# Each stamp stands for one set of installed packages.
$(VENV)/core: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed: make PYTHON=python3.12 ...'; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/test: $(VENV)/core
	$(PIP) -e '.[test]'
	touch $@

$(VENV)/dev: $(VENV)/test
	$(PIP) -e '.[dev]'
	touch $@

$(VENV)/train: $(VENV)/test
	$(PIP) -e '.[train]'
	touch $@
