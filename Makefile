# Every target sets itself up: a machine with Python >= 3.10 and make is enough.
# Set-up is skipped while pyproject.toml is older than the stamp; its time and the run's are printed apart. It compiles
# bytecode: with PYTHONDONTWRITEBYTECODE, which many containers set, every process would compile PyTorch again.

PYTHON ?= python3
EXTRAS ?= export,train,ort,dev
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed.stamp
# Trust what the system trusts (a company's proxy, say) where it says so; a bare image has only uv's own list.
CERTS := $(if $(wildcard /etc/ssl/certs/*.crt /etc/pki/tls/certs/*.crt),--system-certs)

LINT := $(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/mypy

# $(call timed,label,command): run the command, print how long it took, keep its exit status
timed = begin=$$(date +%s); status=0; { $(2); } || status=$$?; \
	echo "$(1): $$(( $$(date +%s) - begin )) s"; exit $$status

.PHONY: help setup demo test test-benchmarks quick lint format coverage clean

help:
	@echo "make demo      train a small model, export it, verify it, show the numbers"
	@echo "make test      ruff, mypy, all tests but those of the next line (what CI runs, within 10 minutes)"
	@echo "make test-benchmarks  the graphs of the benchmark scripts: rivals, rewrites"
	@echo "make quick     the tests that take under 5 s each"
	@echo "make lint      ruff and mypy only"
	@echo "make format    let ruff rewrite the sources"
	@echo "make coverage  all tests, with the lines they miss"
	@echo "make setup     only the environment: $(VENV) with tofe-export[$(EXTRAS)]"
	@echo "make clean     remove $(VENV), caches and build outputs"

setup: $(STAMP)
	@echo "set-up: up to date ($(VENV))"

demo: setup
	@$(call timed,demo,$(BIN)/python benchmarks/demo.py)

test: setup
	@$(call timed,checks and tests,$(LINT) && OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not benchmarks")

test-benchmarks: setup
	@$(call timed,tests of the benchmarks,OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m benchmarks)

quick: setup
	@$(call timed,quick tests,OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not benchmarks")

lint: setup
	@$(call timed,lint,$(LINT))

format: setup
	@$(BIN)/ruff check --fix-only
	@$(BIN)/ruff format

coverage: setup
	@$(BIN)/coverage run -m pytest
	@$(BIN)/coverage report

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .coverage build dist tofe_export.egg-info

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python >= 3.10 is needed, found %d.%d: call make PYTHON=python3.10" % sys.version_info[:2])'
	@$(call timed,set-up,$(PYTHON) -m venv $(VENV) \
		&& $(BIN)/python -m pip install --quiet --disable-pip-version-check uv \
		&& $(BIN)/uv pip install --compile-bytecode $(CERTS) --python $(BIN)/python -e '.[$(EXTRAS)]' \
		&& touch $@)
