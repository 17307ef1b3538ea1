# Two targets do all: `make demo` and `make test`. Both install what is missing first.

CARGO ?= cargo
export CARGO_TERM_COLOR ?= auto

.PHONY: help demo test matrix soak mutations lint doc bench stack picture servers

help:  ## What there is to make
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo:  ## The main job on a private server, in under a minute once built
	@tests/servers/install.sh any
	@echo "building headcount, which takes some minutes the first time"
	$(CARGO) build --release --quiet
	target/release/headcount demo

test: servers lint doc  ## Everything that must hold, against real servers of 13, 16, 18, and 19 where it can be had
	@tests/run.sh

matrix:  ## What talks to servers, on each of 13 to 19, one after the other, with a table at the end
	@tests/servers/install.sh all
	@tests/servers/observability.sh
	@tests/servers/matrix.sh $(VERSIONS)

soak: servers  ## 1,000 seeded runs a version over cut lines; 1,000,000 histories of the core; 1,000 healthy runs; 10 million keys; mutations
	@bash tests/mutations.sh all
	HEADCOUNT_SOAK_RUNS=$${HEADCOUNT_SOAK_RUNS:-1000} $(CARGO) test --all-features --test update -- a_line_cut_at_any_byte memory_does_not_grow
	HEADCOUNT_SOAK_RUNS=$${HEADCOUNT_SOAK_RUNS:-1000} $(CARGO) test --all-features --test core -- effects:: pools::
	HEADCOUNT_SOAK_RUNS=$${HEADCOUNT_SOAK_RUNS:-1000} $(CARGO) test --all-features --test live -- launches:: ceiling:: cancels::

mutations:  ## Each promise that needs no server broken once on purpose: a test must notice
	@bash tests/mutations.sh

lint:  ## Format and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features --quiet -- -D warnings
	$(CARGO) clippy --package headcount --all-targets --quiet -- -D warnings

doc:  ## Documentation, without a broken link
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --all-features --quiet

bench: servers  ## The figures of the README, as ratios within one run
	$(CARGO) bench --all-features

stack: servers  ## A demo watched by Prometheus, Alertmanager and Pushgateway, without containers
	$(CARGO) build --quiet
	sh dashboards/stack.sh target/debug/headcount

picture: servers  ## dashboards/below-minimum.png, by a headless Chromium (Debian's package chromium)
	$(CARGO) test --all-features --test stack -- --ignored picture

servers:  ## PostgreSQL 13, 16, 18, and 19 where it can be had, and the programs of the observability tests
	@tests/servers/install.sh tests
	@tests/servers/observability.sh
