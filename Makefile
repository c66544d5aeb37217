# `make` lists what there is. Every target sets up what it needs; a second call costs nothing.
.DEFAULT_GOAL := help
.PHONY: help setup demo up down train-env train-test view test test-faults test-k8s lint format bench bench-quick lock lock-train lock-bom clean
BIN := .venv/bin
ARGS ?=

help:  ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 14

setup:  ## .venv with the locked versions of everything
	@sh scripts/setup.sh

demo: setup  ## the main job on a drawn slide, or on your own: make demo SLIDE=path
	@$(BIN)/python scripts/demo.py $(if $(SLIDE),--slide "$(SLIDE)") $(ARGS)

up: setup  ## Prefect's pages, and all that turns slides in .state/slides into results (docs/small-lab.md)
	@$(BIN)/python -m deployments.lab up

down:  ## stops what make up has started
	@$(BIN)/python -m deployments.lab down

train-env: setup  ## .train-env: the official StarDist package, for the deployment train/on-demand (2 GB)
	@test -x .train-env/bin/python || $(BIN)/uv venv --quiet --python 3.12 .train-env
	@$(BIN)/uv pip sync --quiet --python .train-env/bin/python --require-hashes requirements-train.lock

train-test: train-env  ## trains a small model for some minutes; not part of make test
	@MICROTOME_TRAIN_ENV=.train-env $(BIN)/pytest tests/train -o timeout=1800 $(ARGS)

view: setup  ## results in a browser: serves the folder demo/ on this machine only (make view DIR=path)
	@$(BIN)/python scripts/view.py $(if $(DIR),"$(DIR)",demo) $(ARGS)

test: lint  ## checks, then every test that this machine can run (make test ARGS="-k seams")
	@$(BIN)/pytest $(ARGS)

test-faults: setup  ## breaks a whole installation again and again, for minutes; not part of make test
	@$(BIN)/pytest -m fault $(ARGS)

test-k8s: setup  ## image, chart and runs on the Kubernetes of KUBECONFIG (docs/kubernetes.md)
	@sh tests/k8s/run.sh $(ARGS)

lint: setup  ## style, types, and that imports go down only
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet || { echo "format: run make format"; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo >.venv/lint-imports.log 2>&1 || { cat .venv/lint-imports.log; exit 1; }

format: setup  ## rewrites the code in the project's format
	@$(BIN)/ruff check --quiet --fix
	@$(BIN)/ruff format --quiet

bench: setup  ## every figure of docs/performance.md, as a table and as JSON
	@$(BIN)/python -m tests.bench $(ARGS)

bench-quick: setup  ## the useful part of it in under three minutes
	@$(BIN)/python -m tests.bench --quick $(ARGS)

# No index address gets into the lock: it names versions and hashes, and any mirror can serve them.
lock: setup  ## newest versions that pyproject.toml allows (make lock ARGS="--upgrade-package zarr" for one)
	@env -u PIP_FIND_LINKS -u UV_FIND_LINKS $(BIN)/uv pip compile --quiet --universal --python-version 3.12 --all-extras \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-header $(ARGS) pyproject.toml -o requirements.lock

lock-train: setup  ## the same for .train-env
	@env -u PIP_FIND_LINKS -u UV_FIND_LINKS $(BIN)/uv pip compile --quiet --universal --python-version 3.12 \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-header $(ARGS) \
		requirements-train.in -o requirements-train.lock

lock-bom: setup  ## the same for the list of packages in the image
	@env -u PIP_FIND_LINKS -u UV_FIND_LINKS $(BIN)/uv pip compile --quiet --universal --python-version 3.12 \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-header $(ARGS) \
		requirements-bom.in -o requirements-bom.lock

clean:  ## removes .venv, .train-env, caches and the demo; what a small lab keeps in .state stays
	@rm -rf .venv .train-env demo build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
