# Everything a newcomer needs. `make` alone lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?=
TRAIN_UNTIL ?=
OUT ?=
PORT ?= 9092
REGISTRY ?=
REGISTRY_PORT ?= 8085
PROTO := trueup/doors/inference/grpc/generated

.DEFAULT_GOAL := help
.PHONY: help demo test lint unit clients kafka bench bench-peers lock proto types clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

demo: $(VENV)/.demo ## train, deploy, replay and true up settlement fails (DATA=FOLDER TRAIN_UNTIL=YYYY-MM-DD OUT=FILE.json)
	$(BIN)/trueup demo $(if $(DATA),--data $(DATA)) $(if $(TRAIN_UNTIL),--train-until $(TRAIN_UNTIL)) $(if $(OUT),--out $(OUT))

test: $(VENV)/.dev clients lint ## lint, types, import contracts, and the whole test suite
	@echo "== tests: unit, contract, integration, acceptance"
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests/acceptance tests/integration tests/contract tests/unit

lint: $(VENV)/.dev ## style, types, directions of imports
	@echo "== style"
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	@echo "== types"
	$(BIN)/mypy
	@echo "== directions of imports"
	$(BIN)/lint-imports

unit: $(VENV)/.dev ## the quick tests only
	$(BIN)/python -m pytest tests/unit

clients: $(VENV)-clients/.made $(VENV)-oracles/.made ## clients and statistics of other makers, whose pins collide with ours, for the tests

kafka: $(VENV)/.dev ## run a Kafka to try streams with, until Ctrl-C (REGISTRY=1 with a schema registry; PORT, REGISTRY_PORT)
	$(BIN)/python tests/brokers.py --port $(PORT) $(if $(REGISTRY),--registry-port $(REGISTRY_PORT))

bench: $(VENV)/.dev ## measure decoding, booking and serving against their limits and what else people use
	$(BIN)/python benchmarks/decode.py
	$(BIN)/python benchmarks/booking.py
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/streaming.py
	$(BIN)/python benchmarks/monitoring.py

bench-peers: $(VENV)-mlserver/.made $(VENV)-kserve/.made $(VENV)-granian/.made $(VENV)-quix/.made ## servers of other makers, for benchmarks/peers

lock: $(VENV)/.dev ## resolve the dependencies anew, with hashes
	$(BIN)/uv pip compile pyproject.toml --extra demo --group editable --python-version 3.11 --universal --generate-hashes \
		--no-emit-index-url --no-header --no-annotate -o requirements/demo.txt
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --python-version 3.11 --universal \
		--generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements/dev.txt
	for name in clients oracles bench-mlserver bench-kserve bench-granian bench-quix; do \
		$(BIN)/uv pip compile requirements/$$name.in --python-version 3.11 --universal --generate-hashes \
			--no-emit-index-url --no-header --no-annotate --no-emit-package nvidia-nccl-cu12 -o requirements/$$name.txt || exit 1; done

proto: ## make the gRPC door's Python code from its .proto file
	$(BIN)/python -m grpc_tools.protoc -I $(PROTO)=src/trueup/doors/inference/grpc --python_out=$(or $(OUT),src) \
		--pyi_out=$(or $(OUT),src) --grpc_python_out=$(or $(OUT),src) $(PROTO)/open_inference.proto

types: $(VENV)/.dev ## make the TypeScript types from the OpenAPI document (needs Node 18 or newer and npm)
	$(BIN)/trueup openapi > clients/typescript/openapi.json
	cd clients/typescript && npm ci && npm run generate && npm run check

clean: ## remove what the commands above made here (not the data of trueup)
	rm -rf $(VENV) $(VENV)-clients $(VENV)-oracles $(VENV)-mlserver $(VENV)-kserve $(VENV)-granian $(VENV)-quix build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .cache

$(VENV)/.made:
	@echo "== a virtual environment in $(VENV)"
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later with venv is needed (Debian: apt install python3-venv), or name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.made requirements/demo.txt pyproject.toml
	@test -f $(VENV)/.dev || { echo "== installing what the demonstration needs (once)"; \
		$(BIN)/python -m pip install --quiet --require-hashes -r requirements/demo.txt && \
		$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable . ; }
	@touch $@

$(VENV)/.dev: $(VENV)/.made requirements/dev.txt pyproject.toml
	@echo "== installing what development needs (once)"
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Environments beside ours, each of its own: a failed install leaves no .made.
$(VENV)-clients/.made: requirements/clients.txt
$(VENV)-oracles/.made: requirements/oracles.txt
$(VENV)-mlserver/.made: requirements/bench-mlserver.txt
$(VENV)-kserve/.made: requirements/bench-kserve.txt
$(VENV)-granian/.made: requirements/bench-granian.txt
$(VENV)-quix/.made: requirements/bench-quix.txt
$(VENV)-clients/.made $(VENV)-oracles/.made $(VENV)-mlserver/.made $(VENV)-kserve/.made $(VENV)-granian/.made $(VENV)-quix/.made:
	@echo "== installing $(@D) (once)"
	@$(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install --quiet --no-deps --require-hashes -r $<
	@touch $@
