# Everything from a clean clone on Debian 12 or 13, as root:
#
#   make              install what is missing, build, provision a CRIU that works here
#   make demo         the main job on this machine: build/demo.json
#   make demo-docker  the same with two containers as nodes: build/demo-docker.json
#   make test         every test, from bare
#   make bench-pause  how long a program stands still for a checkpoint: build/bench/pause.json
#   make bench-store  packs against restic and borg, and what 8 agents that ship at once cost the
#                     controller: build/bench/store.json
#   make bench-migrate, make bench-failover
#                     planned moves against stock CRIU, and recoveries: build/bench/….json
#   make bench-memory the memory part of that alone: build/bench/memory.json
#   make bench-controller
#                     a controller with 1,000 agents and 10,000 jobs: build/bench/controller.json
#   make sim [SEEDS=4300]
#                     simulated clusters, 1,000 hours of them, and with bugs that must be found
#   make prove-checkpoints [COUNT=2000] [SEED=n]
#                     random checkpoints of a restless program, each restored and checked
#   make chaos [CHAOS_FAULTS=300] [CHAOS_SECONDS=600] [SEED=n]
#                     everything breaks on a real cluster; jobs that check themselves must not notice
#   make fuzz [FUZZ_SECONDS=600] [FUZZ_TARGET="pack tree"]
#                     decoders under input that clang's libFuzzer makes up: tests/fuzz
#   make test-asan, make test-tsan
#                     unit tests under AddressSanitizer and UBSan, or under ThreadSanitizer;
#                     scripts/run-sanitized says which
#   make format       clang-format
#   make clean

BUILD := build
PROGRAMS := baton baton-init criu-shim simple_loop


.PHONY: all bench-controller bench-failover bench-memory bench-migrate bench-packages bench-pause bench-store chaos clean configure criu demo demo-docker deps format fuzz programs prove-checkpoints sim test test-asan test-tsan

all: criu

deps:
	scripts/install-deps build

configure: deps
	cmake --preset default

programs: configure
	cmake --build $(BUILD) --target $(PROGRAMS)

criu: programs
	scripts/provision-criu

demo: criu
	scripts/demo

demo-docker: criu
	scripts/demo-docker

test: deps
	scripts/install-deps test
	cmake --preset default
	cmake --build $(BUILD)
	scripts/provision-criu
	scripts/run-tests

bench-store: bench-packages

bench-packages: deps
	scripts/install-deps bench

bench-pause bench-memory bench-store: bench-%: criu
	cmake --build $(BUILD) --target bench_$*
	mkdir -p $(BUILD)/bench
	$(BUILD)/bench_$* --json $(BUILD)/bench/$*.json

bench-controller: configure
	cmake --build $(BUILD) --target baton bench_controller
	mkdir -p $(BUILD)/bench
	$(BUILD)/bench_controller --json $(BUILD)/bench/controller.json

bench-migrate bench-failover: bench-%: criu
	scripts/install-deps test bench
	cmake --build $(BUILD) --target memwork
	mkdir -p $(BUILD)/bench
	PYTHONDONTWRITEBYTECODE=1 BATON_BUILD=$(abspath $(BUILD)) /usr/bin/python3 bench/moves/$*.py --json $(BUILD)/bench/$*.json

sim: configure
	cmake --build $(BUILD) --target sim_core sim_core_planted
	$(BUILD)/sim_core --seeds $(or $(SEEDS),4300) --fresh 20
	$(BUILD)/sim_core_planted --seeds 150

prove-checkpoints: criu
	cmake --build $(BUILD) --target prove_checkpoints
	BATON_PROVE_COUNT=$(or $(COUNT),2000) BATON_PROVE_SEED=$(SEED) $(BUILD)/prove_checkpoints

chaos: criu
	scripts/install-deps test
	cmake --build $(BUILD) --target memwork filework statework stepped-clock
	PYTHONDONTWRITEBYTECODE=1 BATON_BUILD=$(abspath $(BUILD)) /usr/bin/python3 tests/chaos/chaos.py \
	  --faults $(or $(CHAOS_FAULTS),300) --seconds $(or $(CHAOS_SECONDS),600) $(if $(SEED),--seed $(SEED)) \
	  --json $(BUILD)/chaos.json

fuzz: deps
	scripts/install-deps fuzz
	cmake --preset fuzz
	cmake --build build-fuzz --target $(if $(FUZZ_TARGET),$(addprefix fuzz_,$(FUZZ_TARGET)),fuzzers)
	FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/fuzz $(FUZZ_TARGET)

test-asan test-tsan: test-%: criu
	scripts/install-deps test
	cmake --preset $*
	cmake --build build-$* --target sanitized
	scripts/run-sanitized $*

format:
	git ls-files '*.cc' '*.h' | xargs clang-format -i

clean:
	rm -rf $(BUILD) build-fuzz build-asan build-tsan
