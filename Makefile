# On a fresh machine with Python (3.11 or newer) and make: `make demo` runs it, `make test` proves it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGE := $(VENV)/.package
STAMP := $(VENV)/.installed
SITE := $(VENV)/.site
DEMO_ARGS ?=
CLUSTER_ARGS ?=
# Most of their time tests wait: for starts, timeouts, the ends of faults. So there are two for each core.
XDIST ?= $(shell expr 2 \* $$(getconf _NPROCESSORS_ONLN))
# Where it is set, as in images of Python, each process of each pass would compile the tests anew.
unexport PYTHONDONTWRITEBYTECODE

# A trial that times something can fail by what runs beside it. In CI what failed is run once more, with nothing beside it:
# $(call again,marks) behind a run of pytest; the run's own summary stands in the output as it was.
again = $(if $(CI),|| { [ $$? = 1 ] && echo "once more and alone:" \
  && $(BIN)/python -m pytest -x --last-failed --last-failed-no-failures none -m '$(1)'; })

.PHONY: help demo cluster test test-rest test-all install lint types layers compiled tests trials soak fuzz simulate bench bench-check shape docs site screenshots lock sbom dist deb clean

help:
	@echo "make demo    make .venv, install, record a simulated market into ./data until Ctrl-C"
	@echo "make cluster two recorders, three NATS servers, two tiers and HAProxy on this machine, and what to kill of them"
	@echo "make test    make .venv, install, lint, types, layers, tests: what a change must pass, in minutes"
	@echo "make test-all  that, and the rest: clients, containers, systemd, browsers, longer trials; needs what .ci/run installs"
	@echo "make trials  the long forms of all trials (hours), figures into docs/reliability.md; goes on where it was cut;"
	@echo "             TRIAL=09 for those of one number, FRESH=1 to begin again"
	@echo "make soak    HOURS=n of load with rotation, reconnects and client churn; plot and figures into docs"
	@echo "make fuzz    FUZZ_SECS=n of fuzzing for each claim, and the state machines at length"
	@echo "make simulate SEEDS=n   the core on a virtual clock, with faults from n seeds; SEED=s HOURS=h runs one again"
	@echo "make bench   measure beside the peers, figures and plots into docs; SCENARIO=record for one, QUICK=1 to try it"
	@echo "make bench-check  has an event become more expensive? UPDATE=1 accepts what it costs now"
	@echo "make docs    write what is made from the code: docs (settings, metrics, /status, channels, commands), .env.example, dashboard"
	@echo "make shape   lines by folder, SINCE=REVISION to compare; what is large, and why; files that each recipe touches"
	@echo "make site    the docs as a site with search, in build/site; a broken link ends it"
	@echo "make screenshots  the live page of \`recorder demo\`, into docs/images"
	@echo "make lock    container/requirements.txt anew, after a change of pyproject.toml; UPGRADE=1 for the newest versions"
	@echo "make sbom    what the recorder is run with, and the licences: build/sbom.cdx.json (CycloneDX) and docs/dependencies.md"
	@echo "make dist    wheels and sdist into dist/, checked, and each tried in an empty environment;"
	@echo "             BASE_URL=https://HOST/OWNER/NAME/blob/TAG lets the links of their README lead there"
	@echo "make deb     dist/*.deb for this machine's Debian or Ubuntu, with its own Python; MAINTAINER='NAME <ADDRESS>' names you"
	@echo "make clean   remove .venv, what was built, and caches"

# What it takes to run, and no more: a first look is quick.
$(PACKAGE): pyproject.toml hatch_build.py $(wildcard native/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "recorder needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

# What the tests need, too. Most of its modules are never imported: each is compiled when it is.
$(STAMP): $(PACKAGE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --group dev
	@touch $@

# What `make site` and the test of it need.
$(SITE): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group site
	@touch $@

install: $(STAMP)

demo: $(PACKAGE)
	@$(BIN)/recorder demo $(DEMO_ARGS)

cluster: $(PACKAGE)
	@$(BIN)/python -c 'import nats, nkeys' 2>/dev/null \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[nats]'
	@$(BIN)/python examples/cluster.py $(CLUSTER_ARGS)

test: $(STAMP)
	@begun=$$(date +%s); $(MAKE) --no-print-directory --jobs=2 --output-sync lint types layers $(if $(CI),compiled) \
	  && $(MAKE) --no-print-directory tests && mkdir -p build \
	  && expr $$(date +%s) - $$begun > build/test-seconds && echo "make test: $$(cat build/test-seconds) s"

test-all: test test-rest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@if command -v shellcheck >/dev/null; then shellcheck .ci/run deb/*; \
	 elif [ -n "$$CI" ]; then echo "shellcheck is missing"; exit 1; \
	 else echo "shellcheck is not installed: shell scripts were not checked"; fi

types: $(STAMP)
	$(BIN)/mypy

layers: $(STAMP)
	$(BIN)/lint-imports

# On a machine that has not run them, each of several processes would compile all tests.
compiled: $(STAMP)
	@said=$$($(BIN)/python -m pytest --collect-only --quiet) || { echo "$$said"; exit 1; }

tests: $(STAMP)
	$(BIN)/python -m pytest -n $(XDIST) --dist worksteal -m 'not rest' $(PYTEST_ARGS) $(call again,not rest)

test-rest: $(SITE)
	$(BIN)/python -m pytest -n $(XDIST) --dist worksteal -m 'rest and not alone' $(PYTEST_ARGS) $(call again,rest and not alone)
	$(BIN)/python -m pytest -m 'rest and alone' $(PYTEST_ARGS) $(call again,rest and alone)
	export RECORDER_NATIVE=no; $(BIN)/python -m pytest -n $(XDIST) --dist worksteal $(PYTEST_ARGS) -m without_native \
	  $(call again,without_native)

TRIAL ?=
trials: $(STAMP)
	$(BIN)/python tests/all_trials.py $(TRIAL) $(if $(FRESH),--fresh)

HOURS ?= 1
soak: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group plots
	@mkdir -p build && rm -f build/soak.ndjson
	TRIALS_REPORT=build/soak.ndjson $(BIN)/python tests/soak.py --hours $(HOURS) --plot docs/images/soak.png
	$(BIN)/python tests/reliability.py build/soak.ndjson

FUZZ_SECS ?= 60
fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group fuzz
	$(BIN)/python -m fuzz decoding --seconds $(FUZZ_SECS)
	$(BIN)/python -m fuzz scanning --seconds $(FUZZ_SECS)
	$(BIN)/python -m fuzz cutting --seconds $(FUZZ_SECS)
	$(BIN)/python -m fuzz tabulating --seconds $(FUZZ_SECS)
	$(BIN)/python -m fuzz requesting --seconds $(FUZZ_SECS)
	$(BIN)/python -m fuzz reading --seconds $(FUZZ_SECS)
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest $(wildcard tests/unit/test_*_machine.py) tests/unit/test_fuzz_claims.py

SCENARIO ?=
PEER ?=
bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group plots
	$(BIN)/python -m benchmarks $(SCENARIO) $(if $(QUICK),--quick) $(if $(PEER),--peer '$(PEER)'); \
	status=$$?; $(BIN)/python -m benchmarks.page && $(BIN)/python -m benchmarks.plots && $(MAKE) --no-print-directory docs; exit $$status

bench-check: $(STAMP)
	$(BIN)/python -m benchmarks.check $(if $(UPDATE),--update)

simulate: $(STAMP)
	@PYTHONPATH=tests $(BIN)/python -m simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),100)) \
	  $(if $(HOURS),--hours $(HOURS))

docs: $(STAMP)
	@PYTHONPATH=. $(BIN)/python tests/generated.py

shape: $(STAMP)
	@$(BIN)/python tests/shape.py $(if $(SINCE),--since $(SINCE))

site: $(SITE)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "build/site is ready; to look at it: $(BIN)/python -m http.server --bind 127.0.0.1 --directory build/site 8000"

screenshots: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group plots
	PYTHONPATH=tests $(BIN)/python tests/screenshots.py

lock: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group lock
	$(BIN)/uv pip compile --quiet --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade) --extra zmq --extra nats --extra kafka --extra s3 \
	  --generate-hashes --python-version 3.11 --python-platform linux \
	  pyproject.toml container/requirements.in --output-file container/requirements.txt

sbom: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group sbom
	$(BIN)/python tests/dependencies.py

# The wheel of pure Python is for any machine; that with native code for machines like this one, where it can be compiled.
BASE_URL ?=
dist: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dist
	rm -f dist/*.whl dist/*.tar.gz
	README_BASE_URL='$(BASE_URL)' RECORDER_NATIVE=no $(BIN)/python -m build --outdir dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist dist/*.tar.gz
	$(BIN)/twine check --strict dist/*.whl dist/*.tar.gz
	$(BIN)/check-wheel-contents dist/*.whl
	PYTHONPATH=tests $(BIN)/python tests/first_run.py dist/*.whl dist/*.tar.gz
	@[ -n '$(BASE_URL)' ] || echo "The links of the README in these files are relative: BASE_URL=… lets them lead into the repository."

# With the distribution's Python, not that of $(VENV).
deb:
	@deb/build

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .cache
