# Tulle. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/tulle-mesh/tulle/internal/cli.Version=$(VERSION)
PKGS := ./...
# go build -v names each package as it is compiled; anything else is an error.
PROGRESS = /[: ]/ {print; next} {n++; if (tty) printf "\r\033[K  compiled %d packages: %s", n, $$1; else if (n % 100 == 0) print "  compiled", n, "packages"} END {if (tty && n) print ""}

.PHONY: help
help: ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## both programs into bin/ (a cold build takes some minutes; packages are shown as they compile)
	@mkdir -p bin
	@# The C library would be 1.5 MB of every sidecar's memory.
	@set -o pipefail; { $(GO) build -v -ldflags '$(LDFLAGS)' -o bin/ ./cmd/tulle && \
		CGO_ENABLED=0 $(GO) build -v -ldflags '$(LDFLAGS)' -o bin/ ./cmd/tulle-proxy; } 2>&1 | awk -v tty="$$([ -t 1 ] && echo 1)" '$(PROGRESS)'

.PHONY: demo
demo: build ## a mesh of six services on this machine, with stories to try
	@./bin/tulle demo $(ARGS)

.PHONY: test
test: build ## text, paths, short wire, demo check, short Envoy comparison
	$(GO) run ./test/budget -timeout 20m $$($(GO) list $(PKGS) | grep -v /test/strict)

.PHONY: test-wire
test-wire: ## vectors, conformance suites and hostile peers against whole proxies
	$(GO) run ./test/budget -timeout 15m ./test/strict/...

.PHONY: test-race
test-race: ## the data plane's rooms under the race detector
	$(GO) test -race -timeout 20m ./internal/...

.PHONY: e2e
e2e: ## what users do on a real Kubernetes cluster, as root; the first time it is built, which takes some minutes
	$(GO) run ./test/cluster/up -build
	$(GO) run ./test/budget -tags e2e -timeout 30m ./test/cluster ./test/e2e ./internal/source/kube ./internal/kube/serve

.PHONY: conformance
conformance: ## the Gateway API's conformance suite on a cluster of its own, as root; its reports are in test/conformance/report
	$(GO) run ./test/gatewayapi -reports test/conformance/report -version $(VERSION) $(ARGS)

.PHONY: cluster
cluster: ## a two-node Kubernetes cluster to play with until Ctrl-C, as root
	@$(GO) run ./test/cluster/up $(ARGS)

.PHONY: check
check: ## format, vet, lint, house test, tulle builds elsewhere, generated files clean
	@out=$$(gofmt -l cmd internal test *.go); [ -z "$$out" ] || { echo "gofmt wants: $$out"; exit 1; }
	$(GO) vet -tags e2e $(PKGS)
	$(GO) tool -modfile=tools/go.mod staticcheck -tags e2e $(PKGS)
	$(GO) test -run TestHouse -count=1 .
	@for os in darwin windows; do GOOS=$$os $(GO) build -o /dev/null ./cmd/tulle || exit 1; done
	@$(MAKE) --no-print-directory gen
	@git diff --exit-code --stat -- internal/proxy/conf/wire internal/kube/install/crds.yaml.gz go.mod go.sum || { echo "generated files differ: commit what make gen wrote"; exit 1; }

.PHONY: gen
gen: ## rewrite generated files (xDS decoders, definitions of Istio's kinds)
	$(GO) run ./internal/gen/xdswire
	$(GO) run ./internal/gen/crds

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (30s) each, two at a time; failing inputs are kept, unless under CI
	$(GO) run ./test/fuzz -time $(or $(FUZZTIME),30s) $(if $(CI),,-keep) $(ARGS)

.PHONY: bench
bench: build ## tulle-proxy beside nginx, HAProxy and Envoy in one interleaved run of some 20 minutes: tables, JSON, SVG in OUT (bin/bench)
	$(GO) run ./test/bench -out $(or $(OUT),bin/bench) $(ARGS)

.PHONY: bench-control
bench-control: ## the control plane alone: S services x N proxies, changes, growth; table, JSON, SVG in OUT (bin/bench); ARGS=-quick for under two minutes
	$(GO) run ./test/bench/control -out $(or $(OUT),bin/bench) $(ARGS)

.PHONY: bench-control-save
bench-control-save: ## run bench-control and keep its figures, and its picture for the README
	$(GO) run ./test/bench/control -out test/bench/control $(ARGS)

.PHONY: bench-quick
bench-quick: build ## three shapes of the bench in under five minutes; OUT/bench.json
	$(GO) run ./test/bench -quick -out $(or $(OUT),bin/bench) $(ARGS)

.PHONY: bench-compare
bench-compare: build ## run the bench, tell what moved beyond noise since BASE (test/bench/baseline.json)
	$(GO) run ./test/bench -out $(or $(OUT),bin/bench) -compare $(or $(BASE),test/bench/baseline.json) $(ARGS)

.PHONY: bench-save
bench-save: build ## run the bench and keep it as BASE, and its picture for the README
	$(GO) run ./test/bench -out $(or $(OUT),bin/bench) -save $(or $(BASE),test/bench/baseline.json) $(ARGS)
	cp $(or $(OUT),bin/bench)/bench.svg test/bench/bench.svg

.PHONY: pgo
pgo: build ## what the proxy does under the bench's loads, taken anew: cmd/tulle-proxy/default.pgo, by which it is compiled
	@rm -rf bin/pgo && mkdir -p bin/pgo && cp bin/tulle bin/pgo/
	$(GO) build -tags profile -pgo=off -o bin/pgo/ ./cmd/tulle-proxy
	TULLE_PROFILE=$(CURDIR)/bin/pgo $(GO) run ./test/bench -tulle bin/pgo/tulle -only tulle -shapes h1-64,h2-8x16,mtls-pair-64 -rate 0 -rounds 1 -seconds 10 $(ARGS)
	$(GO) tool pprof -proto -output bin/pgo/all $$(find bin/pgo -name '*.pprof' -size +1k)
	$(GO) run ./internal/gen/pgo bin/pgo/all cmd/tulle-proxy/default.pgo

.PHONY: soak
soak: ## mixed traffic while everything changes, for FOR (30m) with SEED (1); then a hundred hot restarts under load
	$(GO) test -count=1 -timeout 0 -v -run TestSoak ./test/soak -args -for $(or $(FOR),30m) -seed $(or $(SEED),1)
	$(GO) test -count=1 -v -run TestHotRestart ./test/life -args -restarts 100

.PHONY: clean
clean: ## remove what make built
	rm -rf bin
