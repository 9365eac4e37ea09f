# Each target does all of its own set-up. What a target needs is named once, as a stamp file.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
SOAK_SECONDS ?= 600

SOURCES := $(shell find csrc shim sim agent hooks examples -type f -not -name '*.pyc' 2>/dev/null) \
           CMakeLists.txt pyproject.toml
PLUGINS := $(shell find plugins -type f -not -name '*.pyc' 2>/dev/null)
C_SOURCES := $(shell find csrc tests bench -name '*.[ch]' 2>/dev/null)

export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: build demo test sanitize coverage soak bench conformance lint clean

build: $(VENV)/stamp/aliquot

demo: build $(VENV)/stamp/demo $(VENV)/stamp/plugins
	$(BIN)/python -m aliquot.agent.demo

test: build $(VENV)/stamp/test $(VENV)/stamp/plugins
	$(BIN)/python -m pytest -m "not soak" $(PYTEST)

# The same tests on libraries that watch their own memory and arithmetic. Python does not know of
# the sanitizers, so they are loaded before it; what Python itself never frees is not looked at.
# Benches measure nothing here.
SANITIZED := $(CURDIR)/build/sanitized
sanitize: build $(VENV)/stamp/test $(VENV)/stamp/plugins $(VENV)/stamp/sanitized
	PYTHONPATH=$(SANITIZED) \
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:handle_segv=0 \
	UBSAN_OPTIONS=halt_on_error=1:abort_on_error=1:print_stacktrace=1 \
	$(BIN)/python -m pytest -m "not soak" --ignore tests/test_bench.py $(PYTEST)

# What of the shims the tests of the vendors' libraries execute, by lines and branches. (What is killed
# does not say.)
COVERED := $(CURDIR)/build/covered
SHIM_TESTS := $(addprefix tests/test_,faults.py caps.py caps_steps.py deaths.py traps.py shared_names.py \
              time_shim.py cndrv.py cambricon_ipc.py cambricon_topo.py) \
              $(wildcard tests/test_ascend_[!ac]*.py)
coverage: build $(VENV)/stamp/test $(VENV)/stamp/coverage $(VENV)/stamp/covered
	find build/coverage -name '*.gcda' -delete
	PYTHONPATH=$(COVERED) $(BIN)/python -m pytest -m "not soak" $(SHIM_TESTS) $(PYTEST)
	$(BIN)/gcovr --root . --object-directory build/coverage build/coverage --merge-lines \
	    --merge-mode-functions=separate --gcov-ignore-errors=all --filter 'csrc/(cuda|ascend|cambricon|shim)/' \
	    --txt --txt-summary

soak: build $(VENV)/stamp/test $(VENV)/stamp/plugins
	$(BIN)/python -m pytest -m soak -s --soak-seconds $(SOAK_SECONDS) --timeout 0 $(PYTEST)

bench: build
	@for name in overhead launch live_allocations init container_start admit arbiter shares preempt set; do \
	    $(BIN)/python bench/$$name.py $(BENCH) || exit; done

# On a machine with a device of NVIDIA's: whether the caps hold there, and a report to send.
conformance: build $(VENV)/stamp/demo
	@$(BIN)/python -m aliquot.agent.conformance $(CONFORMANCE)

lint: build $(VENV)/stamp/test $(VENV)/stamp/lint
	mkdir -p build/packages/aliquot
	ln -sfn $(CURDIR)/agent $(CURDIR)/hooks $(CURDIR)/shim $(CURDIR)/sim build/packages/aliquot/
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p aliquot -p aliquot_drm
	$(BIN)/mypy tests $(wildcard bench) csrc/generate.py csrc/find_header.py csrc/binding.py csrc/shim/one_libc.py csrc/sim/nvml/generate.py
	$(BIN)/clang-format --dry-run --Werror $(C_SOURCES)

clean:
	rm -rf build dist $(VENV)

docs/coverage.md: csrc/cuda/functions.tsv csrc/generate.py
	$(PYTHON) csrc/generate.py $< docs $@

docs/coverage-ascend.md: csrc/ascend/functions.tsv csrc/generate.py
	$(PYTHON) csrc/generate.py $< docs $@

docs/coverage-nvml.md: csrc/nvml/functions.tsv csrc/generate.py
	$(PYTHON) csrc/generate.py $< docs $@

docs/coverage-cambricon.md: csrc/cambricon/functions.tsv csrc/generate.py
	$(PYTHON) csrc/generate.py $< docs $@

# -- Set-up --------------------------------------------------------------------------------------

# Debian packages, by the file that shows that they are there.
$(VENV)/stamp/system: .ci/system
	@PYTHON=$(PYTHON) .ci/system
	@mkdir -p $(@D) && touch $@

$(VENV)/stamp/venv: $(VENV)/stamp/system pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q --group build
	@touch $@

# The installed package is what is tested, demonstrated and measured, never the source folders.
$(VENV)/stamp/aliquot: $(VENV)/stamp/venv docs/coverage.md docs/coverage-nvml.md docs/coverage-ascend.md docs/coverage-cambricon.md $(SOURCES)
	$(BIN)/python -m pip install -q --no-build-isolation \
	    -C cmake.define.ALIQUOT_WERROR=ON -C cmake.define.ALIQUOT_SYMBOLS=ON \
	    -C install.strip=false .
	@touch $@

# Vendors from outside: distributions of their own, which building does not need.
$(VENV)/stamp/plugins: $(VENV)/stamp/venv $(PLUGINS)
	$(BIN)/python -m pip install -q --no-deps --force-reinstall plugins/aliquot-drm
	@touch $@

# (Watched code warns of other things, so that warnings stop nothing here.)
$(VENV)/stamp/sanitized: $(VENV)/stamp/venv $(SOURCES)
	$(BIN)/python -m pip install -q --no-build-isolation --no-deps --upgrade \
	    --target $(SANITIZED) -C build-dir=build/sanitize \
	    -C cmake.define.ALIQUOT_SANITIZE=address,undefined -C install.strip=false .
	@touch $@

$(VENV)/stamp/covered: $(VENV)/stamp/venv $(SOURCES)
	$(BIN)/python -m pip install -q --no-build-isolation --no-deps --upgrade \
	    --target $(COVERED) -C build-dir=build/coverage \
	    -C cmake.define.ALIQUOT_COVERAGE=ON -C install.strip=false .
	@touch $@

$(VENV)/stamp/coverage: $(VENV)/stamp/venv pyproject.toml
	$(BIN)/python -m pip install -q --group coverage
	@touch $@

$(VENV)/stamp/test: $(VENV)/stamp/venv pyproject.toml .ci/system
	@PYTHON=$(PYTHON) .ci/system test
	$(BIN)/python -m pip install -q --group test --group clients
	@touch $@

$(VENV)/stamp/demo: $(VENV)/stamp/venv pyproject.toml .ci/system
	@PYTHON=$(PYTHON) .ci/system containers
	$(BIN)/python -m pip install -q --group demo
	@touch $@

$(VENV)/stamp/lint: $(VENV)/stamp/venv pyproject.toml
	$(BIN)/python -m pip install -q --group lint
	@touch $@
