# Everything a person or a pipeline does with this checkout. `make help` lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
PREPARE := $(PYTHON) deploy/setup/prepare.py
BIN := .venv/bin
PROTOC := .venvs/protos/bin/python deploy/setup/generate_protos.py
BUF = .tools/buf/$$(sed -n 's/^VERSION = "\(.*\)"/\1/p' deploy/setup/buf_tool.py)/buf
ROUNDS ?= 5
MINUTES ?= 20
FAULTS := tests/e2e/test_failures.py tests/quota/test_process.py tests/ledger/test_process.py tests/cache/test_process.py tests/clients/test_outbox_faults.py
LINTED := services edge cloud tests deploy
# Collected by ONNX Runtime unless told otherwise; set for whatever a target starts.
export ORT_DISABLE_TELEMETRY := 1

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-18s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# -- use it ------------------------------------------------------------------------------

.PHONY: setup run test
setup: ## Make .venv, build the engine, fetch Consul; quick when nothing changed
	@$(PREPARE) suite

run: setup ## Start the whole suite and serve real prompts (ONCE=1: show one round and stop)
	@exec $(BIN)/python deploy/setup/foreground.py $(BIN)/farthing up --demo $(if $(ONCE),--once)

test: setup ## Run the full test suite (ARGS='-k name' narrows it)
	@exec $(BIN)/python -m pytest $(ARGS)

# -- contracts ---------------------------------------------------------------------------

.PHONY: protos verify-protos lint-protos breaking-protos fix-baseline
protos: ## Generate the Python modules from the .proto files
	@$(PREPARE) protos
	@$(PROTOC)

verify-protos: ## Fail when the generated modules are not fresh (fix: make protos)
	@$(PREPARE) protos
	@$(PROTOC) --check

lint-protos: ## Check the .proto files against the style in buf.yaml
	@$(PREPARE) buf
	@$(BUF) lint
	@echo "protos: style holds"

breaking-protos: ## Fail when a .proto breaks callers of the committed baseline
	@$(PREPARE) buf
	@$(BUF) breaking --against protos/baseline.binpb
	@echo "protos: nothing breaks the baseline"

fix-baseline: ## Make the present .proto files the baseline (at a release, never to hide a break)
	@$(PREPARE) buf
	@$(BUF) build -o protos/baseline.binpb

# -- the gate ----------------------------------------------------------------------------

.PHONY: check lint fix types imports
check: lint types imports verify-protos lint-protos breaking-protos test ## Everything that must hold before a commit

lint: setup ## Check style and formatting (fix: make fix)
	@$(BIN)/ruff check $(LINTED)
	@$(BIN)/ruff format --check $(LINTED)

fix: setup ## Format, and repair what can be repaired
	@$(BIN)/ruff check --fix $(LINTED)
	@$(BIN)/ruff format $(LINTED)

types: setup ## Check types, strictly
	@$(BIN)/mypy

imports: setup ## Check which part may import which
	@$(BIN)/lint-imports

# -- heavier work ------------------------------------------------------------------------

.PHONY: engine-wheel chaos bench-router bench-engines soak-engines bench-edge bench-gpu models
engine-wheel: setup ## Build the engine as a wheel for other processors, into dist/ (MACHINE=aarch64: for ARM devices)
	@$(PREPARE) engine-wheel $(MACHINE)

chaos: setup ## Kill, pause and cut while it serves, ROUNDS times over; money must still add up
	@for round in $$(seq $(ROUNDS)); do echo "round $$round of $(ROUNDS)"; $(BIN)/python -m pytest -q $(FAULTS) $(ARGS) || exit 1; done

bench-router: setup ## Measure what router and gateway add to a request, beside LiteLLM's proxy
	@exec $(BIN)/python -m tests.bench.router $(ARGS)

bench-engines: setup ## Measure both engines through gRPC, beside their libraries' own servers (ARGS=throughput ...)
	@exec $(BIN)/python -m tests.bench.engines $(ARGS)

soak-engines: setup ## Load both engines with all kinds of requests for MINUTES; fail on leaks, stuck requests and wrong books
	@exec $(BIN)/python -m tests.soak --minutes $(MINUTES) $(ARGS)

bench-edge: setup ## Measure steps of the edge engine (ARGS=layout, mixed, drafts, copies, sampling, share or rows)
	@exec $(BIN)/python -m tests.bench.edge_engine $(or $(ARGS),share)

bench-gpu: setup ## Check the cloud engine on CUDA; measure it beside transformers and onnxruntime-genai
	@exec $(BIN)/python -m tests.bench.gpu $(ARGS)

models: setup ## Train and export the demo models again
	@exec $(BIN)/python deploy/demo-models/build.py $(ARGS)

# -- upkeep ------------------------------------------------------------------------------

.PHONY: lock clean
lock: ## Pin every dependency anew, with hashes
	@$(PYTHON) deploy/setup/lock.py

clean: ## Remove everything made here; the machine's shared cache stays
	rm -rf .venv .venvs .tools .cache build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
