# The commands of this project. Each first creates or updates .venv if necessary.

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.SILENT:
.PHONY: help demo up cluster test test-unit test-integration test-e2e test-release test-matrix test-cluster bench-cluster coverage lint docs bench screenshots dist check-release hooks clean

PYTHON := .venv/bin/python
INSTALLED := .venv/.installed
INSTALLED_CLUSTER := .venv/.installed-cluster
INSTALLED_DOCS := .venv/.installed-docs
INSTALLED_MATRIX := .venv/.installed-matrix

help: ## Show this list
	awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED) ## Make the videos of a small product catalog with a real Airflow, then show their cost
	$(PYTHON) -m dev.demo run

up: $(INSTALLED) ## Run the demo's Airflow and its UI until Ctrl-C
	$(PYTHON) -m dev.demo up

screenshots: $(INSTALLED) ## Take the screenshots in docs/images from the demo's Airflow, with Chromium
	$(PYTHON) -m dev.demo screenshots

cluster: $(INSTALLED_CLUSTER) ## Run Airflow with Celery workers, two triggerers, PostgreSQL and Redis until Ctrl-C
	$(PYTHON) -m dev.cluster $(if $(MINUTES),--minutes $(MINUTES))

test: $(INSTALLED) ## Run the whole test suite
	$(PYTHON) -m pytest --numprocesses 2 --durations 10 tests/unit tests/integration
	$(PYTHON) -m pytest --numprocesses 2 --no-loadscope-reorder --durations 10 tests/e2e tests/release

test-unit: $(INSTALLED) ## Run only the unit tests, which need nothing but Python
	$(PYTHON) -m pytest tests/unit

test-integration: $(INSTALLED) ## Run only the tests against the emulator
	$(PYTHON) -m pytest tests/integration

test-e2e: $(INSTALLED) ## Run only the tests in a real Airflow
	$(PYTHON) -m pytest --numprocesses 2 --no-loadscope-reorder tests/e2e

test-release: $(INSTALLED) ## Run only the tests of the wheel: its content, and the quickstart in an environment with only the wheel
	$(PYTHON) -m pytest tests/release

test-matrix: $(INSTALLED_MATRIX) ## Run unit tests, integration tests and a DAG with every Airflow and Python; PAIR=2.11-3.11 for one pair
	.venv/bin/nox --session $(if $(PAIR),"airflow($(PAIR))",airflow) $(if $(TESTS),-- $(TESTS))

test-cluster: $(INSTALLED_CLUSTER) ## Kill every part of the cluster while it makes 1,200 videos; takes up to 25 minutes
	$(PYTHON) -m pytest -o addopts= tests/cluster

bench-cluster: $(INSTALLED_CLUSTER) ## Measure what a video costs the cluster
	$(PYTHON) -m dev.cluster.load

lint: $(INSTALLED) ## Check style, format, spelling, workflow files, imports and types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	.venv/bin/codespell
	.venv/bin/actionlint -shellcheck= -pyflakes= .github/workflows/*.yml
	.venv/bin/zizmor --offline --quiet .github
	.venv/bin/lint-imports --no-cache --no-logo
	$(PYTHON) -m mypy

docs: $(INSTALLED_DOCS) ## Build the documentation as a site, into site/, and check it in a browser
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict
	$(PYTHON) -m pytest tests/site
	echo "The documentation is in site/index.html."

coverage: $(INSTALLED) ## Measure the branch coverage of unit and integration tests, and list what they do not run
	$(PYTHON) -m pytest --numprocesses 2 --cov --cov-report=term-missing tests/unit tests/integration

bench: $(INSTALLED) ## Measure the performance targets: waiting, polling, memory, downloads
	$(PYTHON) -m dev.benchmarks

dist: $(INSTALLED) ## Build the wheel and the sdist into dist/, and check them as the package index does
	rm -rf dist
	.venv/bin/uv build --quiet --build-constraints constraints.txt --python $(PYTHON) --out-dir dist
	$(PYTHON) -m twine check --strict dist/*

check-release: $(INSTALLED) ## Check that TAG=v1.2.3 matches the version, and that the changelog has its date
	$(PYTHON) -m dev.scripts.check_release

hooks: $(INSTALLED) ## Install git hooks that run the checks of .pre-commit-config.yaml before every commit
	.venv/bin/pre-commit install

clean: ## Remove .venv, .nox, caches and the demo's Airflow, but not the videos in demo-output
	rm -rf .venv .nox .demo dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt dev/scripts/install
	dev/scripts/install

$(INSTALLED_CLUSTER): $(INSTALLED)
	.venv/bin/uv pip install --quiet --python $(PYTHON) --constraint constraints.txt --editable '.[emulator,dev,cluster]'
	touch $@

$(INSTALLED_MATRIX): $(INSTALLED)
	.venv/bin/uv pip install --quiet --python $(PYTHON) --constraint constraints.txt --editable '.[emulator,dev,matrix]'
	touch $@

$(INSTALLED_DOCS): $(INSTALLED)
	.venv/bin/uv pip install --quiet --python $(PYTHON) --constraint constraints.txt --editable '.[emulator,dev,docs]'
	touch $@
