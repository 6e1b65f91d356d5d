# Thin over tools/: every target is one command that can be run by hand.
# `make test ARGS="-k serial"` hands arguments to what the target runs.
.DEFAULT_GOAL := help
.PHONY: help demo test test-native test-long test-long-guest test-guest test-kernels test-drgn check docs lab bench report conformance conformance-sentry coverage-sentry fuzz fuzz-sentry prove guest-kernel kata-image wheels deb deps clean
MAKEFLAGS += --no-print-directory
PYTHON := .venv/bin/python
ARGS ?=
# Of the demo: own or debian. Not taken from the environment, where the name can mean something else.
kernel := $(if $(filter command,$(firstword $(origin KERNEL))),$(KERNEL))

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## boot a guest (KERNEL=own builds its kernel, KERNEL=debian has the distribution's)
	@python3 tools/deps.py demo lab $(if $(filter own,$(kernel)),kernel)
	@$(PYTHON) -m tools.demo $(if $(kernel),--kernel "$(kernel)")

test: ## all tests; those that boot guests run in the lab where there is no usable KVM
	@python3 tools/deps.py kernel lab guest check fuzz
	@$(PYTHON) -m tools.run_tests $(ARGS)

test-native: ## only the tests that need no KVM
	@python3 tools/deps.py check fuzz
	@$(PYTHON) -m tools.run_tests --native $(ARGS)

test-long-guest: ## those that boot guests: random operations around volumes, servers; compared with crun
	@python3 tools/deps.py kernel lab guest wheels
	@$(PYTHON) -m tools.run_tests --long-guest $(ARGS)

test-long: ## the tests that need no KVM and take minutes: 100,000 faults in config.json and the like
	@python3 tools/deps.py check long kernel kata wheels deb
	@$(PYTHON) -m tools.run_tests --long $(ARGS)

test-guest: ## only the tests that boot guests
	@python3 tools/deps.py kernel lab guest
	@$(PYTHON) -m tools.run_tests --guest $(ARGS)

test-kernels: ## a part of the guest tests on each supported kernel; ARGS="older debian" for some of them
	@python3 tools/deps.py kernel lab guest
	@$(PYTHON) -m tools.kernels $(ARGS)

test-hostile: ## a third of the guest tests, in a lab with another CPU model and CPUs that are always busy: an hour
	@python3 tools/deps.py kernel lab guest
	@$(PYTHON) -m tools.run_tests --hostile $(ARGS)

test-drgn: ## build the guest kernel with its types (6 minutes, once) and run drgn's tests on it
	@python3 tools/deps.py kernel lab guest
	@$(PYTHON) tools/step.py "guest kernel with types" -- \
		$(PYTHON) guest-kernel/build.py --config guest-kernel/debug.config
	@$(PYTHON) -m tools.run_tests --guest tests/guest/test_debug.py $(ARGS)

check: ## lint, format, types, import layers, documents, C warnings
	@python3 tools/deps.py check
	@$(PYTHON) -m tools.check

docs: ## the site of the documents and of the docstrings; into build/docs
	@python3 tools/deps.py check
	@$(PYTHON) -m tools.check docs

lab: ## a shell in the lab, the nested KVM host
	@python3 tools/deps.py lab
	@$(PYTHON) -m tests.lab shell $(ARGS)

bench: ## the benchmark against QEMU; results in build/
	@python3 tools/deps.py kernel lab bench
	@$(PYTHON) -m tests.bench $(ARGS)

report: ## tests and benchmark on this machine, and one file about it to send: figures of real KVM are wanted
	@python3 tools/deps.py kernel lab guest check fuzz bench
	@$(PYTHON) -m tools.report $(ARGS)

conformance: ## the container runtime beside crun, runc and runsc; the table goes into docs/reference/conformance.md
	@python3 tools/deps.py kernel lab conformance
	@$(PYTHON) -m tests.conformance $(ARGS)

conformance-sentry: ## suites that others wrote, natively and on the Sentry; their table goes into docs/reference/sentry-conformance.md
	@python3 tools/deps.py suites
	@PYTHONPATH=examples/sentry $(PYTHON) -m tests.sentry.conformance $(ARGS)

prove: ## proofs of the code that reads the guest's rings, for every content up to a small size
	@python3 tools/deps.py prove
	@$(PYTHON) -m tests.native.prove $(ARGS)

fuzz: ## the fuzzers; ARGS="--hours 8": for so long; ARGS=--coverage: which lines they reach
	@python3 tools/deps.py fuzz
	@$(PYTHON) -m tests.native.fuzz $(ARGS)

fuzz-sentry: ## random programs of system calls, on Linux and on the Sentry; ARGS="--seconds 600": for so long; ARGS="--calls 3600": attack it
	@python3 tools/deps.py check
	@PYTHONPATH=examples/sentry $(PYTHON) -m tests.sentry.fuzz $(ARGS)

coverage-sentry: ## which lines of the Sentry's core its tests and its fuzzer run; ARGS="--seconds 600" fuzzes for so long
	@python3 tools/deps.py check fuzz
	@PYTHONPATH=examples/sentry $(PYTHON) -m tests.sentry.coverage $(ARGS)

guest-kernel: ## build the guest kernel and the root disk; print their paths
	@python3 tools/deps.py kernel
	@$(PYTHON) tools/step.py "guest kernel" -- $(PYTHON) guest-kernel/build.py $(ARGS)
	@$(PYTHON) tools/step.py "root disk" -- $(PYTHON) guest-kernel/rootfs.py

kata-image: ## build the image of the container runtime's guest; print its path
	@python3 tools/deps.py kata
	@$(PYTHON) tools/step.py "guest image" -- $(PYTHON) examples/kata/linux-guest/image/build.py $(ARGS)

wheels: ## build wheels and sdists of all packages into dist/; ARGS="pyvmm pyvmm-guest": of some
	@python3 tools/deps.py check kernel kata wheels
	@$(PYTHON) -m tools.wheels $(ARGS)

deb: ## build Debian packages into dist/; ARGS="pyvmm pyvmm-server": some of them
	@python3 tools/deps.py check kernel kata wheels deb
	@$(PYTHON) -m tools.deb $(ARGS)

deps: ## install what is missing, build the C extension
	@python3 tools/deps.py build kernel lab check

clean: ## remove what was built here (not ~/.cache/pyvmm)
	rm -rf build dist .venv *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	rm -f vmm/native/_native*.so vmm/native/_native.c vmm/native/pyvmm-fsd vmm/native/pyvmm-broker vmm/faststart/pyvmm-warm
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
