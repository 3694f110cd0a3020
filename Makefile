# `make` or `make help` lists what there is.
SHELL := /bin/sh
CARGO ?= cargo
# Where `make up` keeps its state; `make down` removes it.
DIR ?= .skerry
# Seeds of `make sim`.
SEEDS ?= 1000
# root is needed for containers, mounts and network namespaces.
SUDO := $(shell [ "$$(id -u)" -eq 0 ] || echo sudo)

SKERRY := target/debug/skerry
# What `make up` shows: pods with configuration, and a boiler (simulated with pymodbus) on a Modbus line.
EXAMPLES := --example examples/hello --example examples/modbus \
	--run "boiler=$(CURDIR)/target/python/bin/python $(CURDIR)/examples/modbus/simulator.py"
JEMALLOC := skerry/jemalloc,skerry-cloudhub/jemalloc
SHIPPED := skerry skerry-apiserver skerry-controllers skerry-edgecontroller skerry-devicecontroller skerry-cloudhub skerry-edgehub skerry-edged \
	skerry-dmi skerry-mapper-modbus skerry-mapper-opcua

.PHONY: help up up-processes down build tools test fmt lint unit sim robustness dist dist-edge \
	bench-sessions bench-link bench-pod-start bench-edge bench-restart bench-wear bench-modbus bench-dmi bench-devices clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' Makefile

up: build ## install what is missing, build, start everything, run the examples
	$(SUDO) $(SKERRY) up --dir $(DIR) $(EXAMPLES)

up-processes: build ## the same with every service as its own process
	$(SUDO) $(SKERRY) up --dir $(DIR) $(EXAMPLES) --processes

down: ## stop everything and leave nothing behind
	@if [ -x $(SKERRY) ]; then $(SUDO) $(SKERRY) down --dir $(DIR); else \
	  [ ! -e $(DIR) ] || { echo "$(SKERRY) is not built, and $(DIR) exists: run make build, then make down" >&2; exit 1; }; fi

tools:
	@scripts/install-tools run

# The unoptimised profile: it is built in a third of the time. `make dist` builds what is shipped.
build: tools ## build all binaries (unoptimised)
	$(CARGO) build --locked --workspace --bins

test: ## format, lints and all tests; installs what they need
	@scripts/install-tools test
	$(MAKE) --no-print-directory fmt lint unit

fmt:
	$(CARGO) fmt --all --check

lint:
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

# Programs and tests in one build: apart they would see other features of the same dependencies, and
# each of those would be compiled twice.
unit:
	$(CARGO) build --locked --workspace --bins --tests
	$(SUDO) env "PATH=$$PATH" "HOME=$$HOME" $(CARGO) nextest run --locked --workspace

sim: ## simulate the sync protocol with SEEDS=1000 (optimised)
	$(CARGO) run --locked --release -p skerry-sim -- --seeds $(SEEDS)

robustness: ## the fault cases of tests/ROBUSTNESS.md at their full counts (hours)
	@scripts/install-tools test
	$(MAKE) --no-print-directory sim SEEDS=10000
	$(SUDO) env "PATH=$$PATH" "HOME=$$HOME" SKERRY_ROUNDS=10 \
	  $(CARGO) nextest run --locked --profile robustness -p skerry-store
	$(SUDO) env "PATH=$$PATH" "HOME=$$HOME" SKERRY_ROUNDS=20 \
	  $(CARGO) nextest run --locked --profile robustness -p skerry-edged killed_at_random all_at_once
	$(CARGO) build --locked -p skerry-mapper-modbus --bins
	$(SUDO) env "PATH=$$PATH" "HOME=$$HOME" SKERRY_ROUNDS=10 \
	  $(CARGO) nextest run --locked --profile robustness -p skerry-dmi restarts_in_every_order
	$(SUDO) env "PATH=$$PATH" "HOME=$$HOME" SKERRY_ROUNDS=200 \
	  $(CARGO) nextest run --locked --profile robustness -p skerry-devices-tests twins_converge
	$(MAKE) --no-print-directory bench-link bench-sessions bench-wear

dist: tools ## build what is shipped (optimised, jemalloc)
	$(CARGO) build --locked --profile dist $(addprefix -p ,$(SHIPPED)) --bins --features $(JEMALLOC)

# The same command line without the control plane and the cloud services.
DIST_EDGE = $(CARGO) build --locked --profile dist-edge -p skerry --no-default-features --features jemalloc

dist-edge: tools ## build the program for nodes (small)
	$(DIST_EDGE)

# What is measured is what is shipped.
BENCH = $(CARGO) build --locked --profile dist $(addprefix -p ,$(SHIPPED)) -p skerry-bench --bins --features $(JEMALLOC) \
	&& $(SUDO) target/dist

bench-sessions: tools ## 10,000 nodes on one hub: memory, processor time, bytes; ARGS= for others
	$(BENCH)/bench-sessions $(ARGS)

bench-link: tools ## silent cuts, 2,000 changed Services, an idle link; ARGS= for others
	$(BENCH)/bench-link $(ARGS)

BENCH_NODE = $(DIST_EDGE) && $(BENCH)/bench-node --program target/dist-edge/skerry

bench-pod-start: tools ## from the creation of a pod to Running, one by one and 100 at once; ARGS= for others
	$(BENCH_NODE) pod-start $(ARGS)

bench-edge: tools ## memory, processor time and size of a node's program; ARGS= for others
	$(BENCH_NODE) edge $(ARGS)

bench-restart: tools ## a restart of the agent without the cloud, 20 pods; ARGS= for others
	$(BENCH_NODE) restart $(ARGS)

bench-dmi: tools ## a thousand devices: calls of DMI v1beta1, values of streams, memory, API writes; ARGS= for others
	$(DIST_EDGE) && $(BENCH)/bench-dmi --program target/dist-edge/skerry $(ARGS)

bench-devices: tools ## from a patch of a desired value to the register, and from a register to the DeviceStatus
	$(DIST_EDGE) && $(BENCH)/bench-devices --program target/dist-edge/skerry $(ARGS)

bench-wear: tools ## 3,000 pods through one node; ARGS= for others
	$(BENCH_NODE) wear $(ARGS)

bench-modbus: tools ## the Modbus mapper: points a second, requests, a pulled cable; ARGS= for others
	$(BENCH)/bench-modbus $(ARGS)

clean: down ## remove build output too
	$(CARGO) clean
