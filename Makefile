# All that a newcomer needs. Prerequisites: a Rust toolchain (1.95 or newer) and a C compiler.
#
#   make demo     a mesh on this machine, and what happens to it under load, counted (Ctrl-C ends the live table)
#   make test     every test; installs first what the tests need and the system lacks (as root)
#   make check    format, lints, documentation, the workspace's own rules
#   make bench    our pair against Envoy, HAProxy, a bare relay and no proxy (docs/performance.md); 20 minutes
#   make bench-instructions    instruction counts against the committed baseline
#   make fuzz     every parser and state machine that a stranger reaches, for FUZZ_SECONDS each
#   make soak     the long versions of the property tests, of the demo and of rolling restarts

SHELL     := /bin/bash
CARGO     ?= cargo
DEMO_ARGS ?=
FUZZ_SECONDS ?= 10
BINARIES  := --workspace --bins

.PHONY: all setup demo test check fuzz bench bench-engines bench-instructions bench-instructions-baseline bench-micro bench-push setup-bench \
        soak build clean
.DEFAULT_GOAL := build

build:
	$(CARGO) build --locked $(BINARIES)

setup:
	@./tests/setup.sh

demo:
	$(CARGO) build --locked --release $(BINARIES)
	./target/release/outrigger demo $(DEMO_ARGS)

# The whole-mesh tests run the built binaries. What is measured within a millisecond, or lives on a rate that the machine must keep
# up, has the machine for itself, one test after the other.
ALONE := truth:: overload::a_sidecar_refuses overload::a_proxy_that_has_no_time accept_queue::what_is_too_much mesh::overload::

test: setup
	$(CARGO) build --locked $(BINARIES)
	$(CARGO) test --locked --workspace -- $(addprefix --skip ,$(ALONE))
	$(CARGO) test --locked --workspace --test it -- --test-threads=1 $(ALONE)

check:
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items
	$(CARGO) test --locked --workspace --test it -- workspace::

# Coverage-guided, on a stable compiler; fuzz/targets. What is found becomes a test where it belongs.
fuzz:
	@./fuzz/run.sh $(FUZZ_SECONDS)

setup-bench:
	@./benches/setup.sh compare

# BENCH_ROUNDS=3 BENCH_SECONDS=2 for a quick look; BENCH_ARGS="--cells h1-32 --pairs envoy outrigger" for a part.
bench: setup-bench
	$(CARGO) build --locked --profile dist $(BINARIES)
	python3 -m unittest discover --quiet -s benches/compare
	python3 benches/compare $(BENCH_ARGS)

# The engines that could carry the sidecar's HTTP (docs/adr/0001-engine.md).
bench-engines: setup-bench
	@./benches/setup.sh engines
	$(CARGO) build --locked --profile dist -p outrigger-bench --bins
	$(CARGO) build --locked --release --manifest-path benches/engines/Cargo.toml
	python3 benches/compare --name=-engines --pairs direct relay envoy envoy-mux hyper-h1 hyper-mux pingora \
	  --cells h1-1 h1-32 h1-256 rate-1000

# Instructions of each decision and of a whole request, against benches/instructions/baseline.json.
bench-instructions bench-instructions-baseline:
	@./benches/setup.sh instructions
	$(CARGO) build --locked --release $(BINARIES)
	python3 -m unittest discover --quiet -s benches/instructions
	python3 benches/instructions $(if $(findstring baseline,$@),--write)

# How fast a policy is in force on 3 and on 200 proxies, and the control plane's memory.
bench-push:
	$(CARGO) build --locked --profile dist $(BINARIES)
	python3 benches/push

# The decisions on a request's path, in nanoseconds.
bench-micro:
	$(CARGO) bench --locked -p outrigger-bench

# PROPTEST_CASES=20000 random cases of each property and model test. SOAK_RATE=2000 requests per second while
# SOAK_RESTARTS=100 instances go and come back.
soak:
	$(CARGO) build --locked --release $(BINARIES)
	PROPTEST_CASES=$${PROPTEST_CASES:-20000} $(CARGO) test --locked --release -p outrigger-core -p outrigger-control-plane
	$(MAKE) fuzz FUZZ_SECONDS=60
	./target/release/outrigger demo --exit
	$(CARGO) test --locked --release -p outrigger-tests --test it -- --ignored --exact mesh::rolling::soak_of_rolling_restarts --nocapture

clean:
	$(CARGO) clean
