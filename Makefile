# glowplug's entry points. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

CARGO ?= cargo
BIN := target/release/glowplug
STATE_DIR ?=

.PHONY: help setup build demo test check fmt lint deny generate bench simulate fuzz clean

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install what building and testing need (Debian: PostgreSQL; checks for Rust and Go)
	@deploy/setup.sh

build: ## Build the release binary
	$(CARGO) build --release --locked

demo: setup build ## Storage and a compute on this machine, until Ctrl-C
	@$(BIN) dev examples/compute.yaml $(if $(STATE_DIR),--state-dir $(STATE_DIR))

test: setup ## Run every test (builds etcd and kube-apiserver, fetches PostgreSQL 14 to 18, once)
	@tools="$$(tests/tools/build.sh)" && postgres="$$(tests/tools/postgres.sh)" && \
	GLOWPLUG_TOOLS_BIN="$$tools" GLOWPLUG_TEST_POSTGRES="$$postgres" $(CARGO) test --locked

check: fmt lint deny ## What CI checks before the tests

fmt: ## Check the formatting
	$(CARGO) fmt --check

lint: ## Lint with warnings as errors
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --no-default-features -- -D warnings

deny: ## Check licenses, sources and advisories of dependencies
	@deploy/setup.sh cargo-deny
	$(CARGO) deny --locked check bans licenses sources

generate: ## Write the CRD and the generated parts of the docs anew
	GLOWPLUG_BLESS=1 $(CARGO) test --locked --lib --test observability
	GLOWPLUG_BLESS=1 $(CARGO) test --locked --test apiserver chart

bench: setup ## Measure against the yardsticks, in one run (BENCH: which; all)
	$(CARGO) build --release --locked --no-default-features
	cp $(BIN) $(BIN)-production
	GLOWPLUG_PRODUCTION_BIN=$(CURDIR)/$(BIN)-production $(CARGO) bench --locked -- $(BENCH)

simulate: ## Run 100,000 seeds of the proposer's simulation
	GLOWPLUG_SIM_SEEDS=100000 $(CARGO) test --release --locked --test simulation -- --nocapture

fuzz: setup ## Fuzz each decoder for FUZZ_SECONDS (60), and print a table
	@deploy/setup.sh cargo-fuzz
	@fuzz/run.sh $(FUZZ_TARGETS)

clean: ## Remove what was built
	$(CARGO) clean
