# The front door. `make help` lists the targets; nothing is written while this file is read.

SHELL := /bin/sh
ROOT := $(CURDIR)
# Node 24 comes with the dependencies; what the system has is only used to install them.
NODE := $(ROOT)/node_modules/.bin/node
ARGS ?=

.DEFAULT_GOAL := help

.PHONY: help
help: ## Say what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

node_modules/.installed: package.json package-lock.json
	@command -v npm >/dev/null 2>&1 || { echo "npm is missing: it installs the dependencies and Node 24; install Node 20 or newer with npm" >&2; exit 2; }
	@node -e 'process.exit(parseInt(process.versions.node, 10) < 20 ? 1 : 0)' || { echo "Node is missing or older than 20: npm needs it to install Node 24 and the rest; install Node 20 or newer" >&2; exit 2; }
	@echo "Installing the dependencies (npm ci)"
	@npm ci --no-audit --no-fund --loglevel=error
	@touch $@

SOURCES := $(shell find src controllers webhooks -name '*.ts' ! -name '*.test.ts' 2>/dev/null)

dist/.built: node_modules/.installed $(SOURCES) build.js
	@$(NODE) build.js
	@touch $@

.PHONY: build
build: dist/.built ## Bundle the five binaries into dist/ (bin/ runs them)

.PHONY: demo
demo: dist/.built ## The main job: cluster, operator, model, a conversation (ARGS=--once to stop after it)
	@bin/signalbox demo $(ARGS)

.PHONY: test
test: dist/.built ## All tests; ends with "N passed, N failed" (ARGS=unit for the fast ones)
	@$(NODE) test/run.ts $(ARGS)

.PHONY: bench
bench: dist/.built ## Benchmarks with the peers' figures beside (ARGS=epp for one)
	@$(NODE) test/bench/run.ts $(ARGS)

.PHONY: generate
generate: node_modules/.installed ## Write what comes from source: CRDs, RBAC, references, the install manifest
	@$(NODE) src/generate/main.ts

.PHONY: verify
verify: node_modules/.installed ## Fail when generated files differ from their source
	@$(NODE) src/generate/main.ts --check

.PHONY: lint
lint: node_modules/.installed ## Biome and the type checker
	@node_modules/.bin/biome check .
	@node_modules/.bin/tsc --noEmit -p .

.PHONY: sbom
sbom: node_modules/.installed ## Write sbom.cdx.json: what is shipped, in CycloneDX, from the lock file
	@npm sbom --sbom-format cyclonedx --package-lock-only --omit dev --loglevel=error > sbom.cdx.json && echo "wrote sbom.cdx.json"

.PHONY: clean
clean: ## Remove what was built (not the cache outside the checkout)
	rm -rf dist dist.new .jest-cache sbom.cdx.json
