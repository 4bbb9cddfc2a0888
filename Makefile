# The two commands of the README are `make demo` and `make test`; each does all of its own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.headrace-installed
DEMO_STAMP := $(VENV)/.headrace-demo-installed

# A tenth of pip's time; but uv does not read pip's configuration, so where it finds no registry pip does the work.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes
install = $(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r $(1) || $(PIP) -r $(1)

.PHONY: setup demo test test-unit test-clients test-gpu-kernels faults fuzz lint audit bench lock clean models

# What the demo needs, and what everything needs: two stamps, so that the demo stays quick on a fresh machine.
$(DEMO_STAMP): requirements-demo.lock requirements-uv.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements-uv.lock
	$(call install,requirements-demo.lock)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(STAMP): requirements-dev.lock pyproject.toml $(DEMO_STAMP)
	$(call install,requirements-dev.lock)
	touch $@

setup: $(STAMP)

models: $(DEMO_STAMP)
	$(BIN)/python -m triton_models.build

# The whole way on this machine: embedded broker, real Triton, real images.
demo: $(DEMO_STAMP)
	$(BIN)/headrace demo

# Everything; real Kafka and real Triton are started by the tests themselves. Two processes, since much of it is waiting for
# sessions to end; a file stays whole and the files in order, which has the long ones first.
test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 25

test-unit: $(STAMP)
	$(BIN)/python -m pytest tests/unit

# Whatever runs a worker, over librdkafka: the environment chooses the client of every worker that a test starts.
test-clients: $(STAMP)
	HEADRACE_KAFKA__CLIENT=confluent $(BIN)/python -m pytest -n 2 --dist loadfile $(addprefix tests/integration/test_, \
		librdkafka.py way.py guarantees.py rebalance.py exactly_once.py offsets.py outages.py poison.py memory.py security.py \
		faults_quick.py)

# The GPU path on a GPU host, with a Triton there that serves a model: docs/gpu.md. What is missing fails; nothing is skipped.
.PHONY: test-gpu
test-gpu: $(STAMP)
	@test -n "$$HEADRACE_TEST_GPU_TRITON" -a -n "$$HEADRACE_TEST_GPU_MODEL" || \
		{ echo "set HEADRACE_TEST_GPU_TRITON to Triton's host:port (gRPC), HEADRACE_TEST_GPU_MODEL to the model's folder"; exit 2; }
	$(call install,requirements-gpu.lock)
	$(MAKE) test-gpu-kernels PYTHON=$(BIN)/python
	$(BIN)/python -m pytest tests/gpu

# The kernels on this machine's GPU: offline, with no more than numpy, pytest and CuPy in $(PYTHON). No other test's set-up.
test-gpu-kernels:
	HEADRACE_KERNELS=cuda $(PYTHON) -m pytest -c /dev/null --rootdir . --confcutdir tests/kernels -p no:cacheprovider \
		tests/kernels/test_preprocess.py tests/kernels/test_wrapper.py tests/kernels/test_on_cuda.py

# Every fault with all its seeds, hours on two cores; goes on where it was cut, and writes the table of docs/reliability.md.
faults: $(STAMP)
	$(BIN)/python -m tests.faults --report

# Any bytes through validate and decode, guided by coverage; what it finds stays in the data folder.
SECONDS ?= 600
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

# The graphs that engines are built from: their agreement with float32 on real frames, and NVIDIA's builder over each of them.
.PHONY: engines
engines: $(STAMP)
	HEADRACE_ENGINES=all $(BIN)/python -m pytest -s tests/integration/test_precision_graphs.py

# hadolint, the Compose schema, and Dockerfile.gpu built without an engine: docs/engines.md.
.PHONY: image-check
image-check: $(STAMP)
	UV=$(BIN)/uv deploy/image-check.sh

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Known vulnerabilities of what the lock files name. Needs PyPI's JSON interface: docs/security.md. What can't be asked fails.
LOCKS := requirements-uv.lock requirements-demo.lock requirements-dev.lock triton_models/requirements-models.lock triton_models/requirements-triton.lock triton_models/requirements-tensorrt-rtx.lock \
	triton_models/requirements-node.lock requirements-gpu.lock benchmarks/requirements-peers.lock
audit: $(STAMP)
	$(BIN)/uv tool run pip-audit==2.10.1 --strict --disable-pip $(addprefix -r ,$(LOCKS))

bench: $(STAMP)
	$(BIN)/python -m benchmarks throughput --quick
	$(BIN)/python -m benchmarks overhead --quick
	$(BIN)/python -m benchmarks latency --quick

# Lock files hold hashes and no addresses.
lock: $(STAMP)
	echo uv | $(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-annotate --universal --python-version 3.11 -o requirements-uv.lock -
	$(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-annotate --universal --python-version 3.11 --extra demo -o requirements-demo.lock pyproject.toml build-system.in
	$(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-annotate --universal --python-version 3.11 --extra dev -o requirements-dev.lock pyproject.toml build-system.in
	$(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-annotate --universal --python-version 3.11 --extra gpu -o requirements-gpu.lock pyproject.toml build-system.in
	$(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-annotate --universal --python-version 3.11 -o benchmarks/requirements-peers.lock benchmarks/requirements-peers.in

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
