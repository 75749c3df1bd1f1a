# `make demo` and `make test` need nothing but Python 3.11+ and the package index.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= constraints.txt
# uv installs in a quarter of pip's time. Where it fails, pip does the work.
INSTALL := $(BIN)/python .ci/install.py -c $(CONSTRAINTS)
# The tests of a file share compiled programs, so one worker runs them all. Files
# with few tests are not left for the end, because some of them take long.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder
# `make exhaustive` sets this to a condition that always holds.
COMBINATIONS ?= not exhaustive
FAST := "$(COMBINATIONS) and not slow and not parity and not kauldron and not mesh"
EIGHT := XLA_FLAGS=--xla_force_host_platform_device_count=8

# Files that between them call most of JAX, Flax and Orbax, and of Kauldron.
COMPAT_TESTS := cache ckpts cross_entropy experts load_hf model peft_modules \
  project quantize runs sampler training
COMPAT_TRAIN_TESTS := tests/test_kauldron_examples.py
# The files with such tests: collecting the others takes longer than that.
TRAIN_TESTS = $(shell grep -l 'mark.kauldron' tests/test_*.py)
MESH_TESTS = $(shell grep -l 'mark.mesh' tests/test_*.py)

.PHONY: demo test mesh train-test exhaustive check lint fast compat compat-train extras format golden constraints clean

demo: $(VENV)/core  ## A streamed chat and a sample from the bundled model.
	@$(BIN)/python examples/demo.py

test: $(VENV)/dev  ## All tests but those that train with Kauldron.
	$(PYTEST) -m "$(COMBINATIONS) and not kauldron and not mesh"
	$(MAKE) mesh VENV=$(VENV)

mesh: $(VENV)/test  ## The tests on eight devices.
	$(EIGHT) $(PYTEST) --dist load -m "$(COMBINATIONS) and mesh and not kauldron" $(MESH_TESTS)

train-test: $(VENV)/train  ## The tests that train with Kauldron.
	$(PYTEST) -m "$(COMBINATIONS) and kauldron and not mesh" $(TRAIN_TESTS)
	$(EIGHT) $(PYTEST) -m "$(COMBINATIONS) and kauldron and mesh" $(TRAIN_TESTS)

exhaustive:  ## Every combination of every test, for releases: over an hour.
	$(MAKE) test train-test COMBINATIONS='(exhaustive or not exhaustive)'

check: lint fast  ## Format, lint, types, and the fast tests.

lint: $(VENV)/test  ## Format, lint and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fast: $(VENV)/test  ## The fast tests alone.
	$(PYTEST) -m $(FAST)

compat: $(VENV)/test  ## Fast tests for other versions of the dependencies.
	$(PYTEST) -m $(FAST) $(COMPAT_TESTS:%=tests/test_%.py)

compat-train: $(VENV)/train  ## Training with another version of Kauldron.
	$(PYTEST) -m "$(COMBINATIONS) and kauldron and not mesh" $(COMPAT_TRAIN_TESTS)

extras: $(VENV)/core  ## Each extra, with the newest versions, chats.
	$(BIN)/python .ci/extras.py

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
	$(INSTALL) -e .
	touch $@

$(VENV)/test: $(VENV)/core
	$(INSTALL) -e '.[test]'
	touch $@

$(VENV)/dev: $(VENV)/test
	$(INSTALL) -e '.[dev]'
	touch $@

$(VENV)/train: $(VENV)/test
	$(INSTALL) -e '.[train]'
	touch $@
