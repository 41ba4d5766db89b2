# Berth's build. Two commands do all the set-up by themselves: `make demo` and `make test`.
#
# Everything is built into bin/; what is only needed by tests and benchmarks goes to .cache/.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
BIN     := $(CURDIR)/bin
# "failpoint" makes a berthd that the tests of crashes can end at any step.
BERTHD_TAGS ?=
CACHE   := $(CURDIR)/.cache

export GOFLAGS ?= -buildvcs=false

# The monitor starts once for every container as its init, so its start-up time counts:
# it is linked statically and without the resolver and account lookups of the C library.
MONITOR_TAGS    := osusergo netgo seccomp
MONITOR_LDFLAGS := $(LDFLAGS) -linkmode external -extldflags '-static'

# The reference plugins that the demo, the tests and the default network use.
CNI_PLUGINS := main/bridge main/loopback main/ptp main/host-device ipam/host-local \
               meta/portmap meta/bandwidth meta/tuning meta/firewall
CNI_MODULE  := github.com/containernetworking/plugins/plugins

.PHONY: help
help: ## Show the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

.PHONY: setup
setup: ## Install the Debian packages that building and testing need.
	@hack/setup.sh

.PHONY: build
build: setup ## Build bin/berthd, bin/berth-monitor and bin/berth.
	@mkdir -p $(BIN)
	CGO_ENABLED=1 go build -trimpath -tags "$(BERTHD_TAGS)" -ldflags "$(LDFLAGS)" -o $(BIN)/berthd ./cmd/berthd
	CGO_ENABLED=1 go build -trimpath -tags "$(MONITOR_TAGS)" -ldflags "$(MONITOR_LDFLAGS)" -o $(BIN)/berth-monitor ./cmd/berth-monitor
	CGO_ENABLED=0 go build -trimpath -ldflags "$(LDFLAGS)" -o $(BIN)/berth ./cmd/berth

.PHONY: cni-plugins
cni-plugins: setup ## Build the CNI reference plugins into bin/cni.
	@mkdir -p $(BIN)/cni
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o $(BIN)/cni/ $(addprefix $(CNI_MODULE)/,$(CNI_PLUGINS))

.PHONY: demo
demo: build cni-plugins ## Pull, run, reach, exec into, log, measure and remove a pod.
	hack/demo.sh

.PHONY: test
test: test-unit test-integration ## Unit tests with the race detector, the integration suite, and some crashes.
	$(MAKE) test-crash N=10 CRASH_FLAGS=-short

.PHONY: test-unit
test-unit: build cni-plugins
	go test -race -tags seccomp -timeout 15m $$(go list ./... | grep -v -e /cri/integration -e /cri/crash -e /hack/kubelettest)

.PHONY: test-integration
test-integration: build cni-plugins
	go test -count=1 -timeout 20m ./cri/integration/...

# How many kills at random steps; 500 take about half an hour. SEED repeats a run, and
# CRASH_FLAGS=-short has it go through half of the steps.
N    ?= 40
SEED ?=
CRASH_FLAGS ?=

.PHONY: test-crash
test-crash: setup ## Kill berthd at every step and at N random ones, cut the power, fail the disk.
	CRASH_N=$(N) CRASH_SEED=$(SEED) go test -count=1 -timeout 90m $(CRASH_FLAGS) ./cri/crash

# What depends on the runtime, with another one than Berth's own; the whole suite with
# RUNTIME_TESTS=. RUNTIME_SKIP=^$$
RUNTIME_TESTS ?= Life|Commands|Environment|Exec|Attach|Log|Mount|ImageWhose|ReadOnly|Namespace|PIDs|Shared|Sysctls|Hostname|WorkingDirectory|Users|Stop|ExitCodes|KillOf|Resources|OOM|Pids|Memory|Limits|Unified|Cgroup|Capabilities|Seccomp|Profile|Privileg|Descriptors|Devices|Stats
RUNTIME_SKIP  ?= Handler|NRIStop|NRIAfter|DeadVolume|Filters|TestMonitor|WhatDoesNotRun|UserNamespaceRefused

.PHONY: test-runtime
test-runtime: build cni-plugins $(CACHE)/runc ## The tests that depend on the runtime, with runc as handler.
	BERTH_TEST_HANDLER=$(CACHE)/runc go test -count=1 -tags seccomp -timeout 15m ./runtimeservice/monitor
	BERTH_TEST_HANDLER=$(CACHE)/runc go test -count=1 -timeout 20m -run '$(RUNTIME_TESTS)' -skip '$(RUNTIME_SKIP)' ./cri/integration/...

$(CACHE)/runc: hack/runc/go.mod hack/runc/go.sum
	@mkdir -p $(CACHE)
	cd hack/runc && go build -trimpath -tags seccomp -ldflags "-s -w -X main.version=1.5.2" -o $@ github.com/opencontainers/runc

.PHONY: test-kubelet
test-kubelet: build cni-plugins $(CACHE)/kubelet ## Run static pods through a real kubelet.
	go test -count=1 -timeout 20m ./hack/kubelettest/...

.PHONY: test-vm
test-vm: ## Run the suite on cgroup v2, with systemd and AppArmor, in an emulated machine.
	@hack/setup.sh vm
	hack/vm/test.sh

# The kubelet is a module of its own; about five minutes once, then Go's build cache has it.
$(CACHE)/kubelet: hack/kubelet/go.mod hack/kubelet/go.sum
	@mkdir -p $(CACHE)
	cd hack/kubelet && go build -trimpath \
	  -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2" -o $@ k8s.io/kubernetes/cmd/kubelet

.PHONY: bench
bench: build cni-plugins ## Measure Berth, beside a second CRI socket where there is one.
	hack/bench.sh

.PHONY: lint
lint: setup ## gofmt, go vet and staticcheck.
	@unformatted=$$(gofmt -l cmd config cni cri imageservice runtimeservice hack); \
	  if [ -n "$$unformatted" ]; then echo "not formatted: $$unformatted"; exit 1; fi
	go vet -tags seccomp ./...
	go tool staticcheck -tags seccomp ./...

.PHONY: clean
clean: ## Remove what was built.
	rm -rf $(BIN) $(CACHE)
