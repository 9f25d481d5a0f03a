# Every target sets itself up. Needed beforehand: Python >= 3.11 and make.

PYTHON ?= python3
OLDEST_PYTHON ?= python3.11
VENV ?= .venv
# One torch for all targets, installed before anything else, so that no later step
# chooses another. Where pip is pointed at CPU builds (2.13.0+cpu) it takes one and
# needs none of the CUDA packages, which are several gigabytes.
TORCH ?= torch==2.13.0

.PHONY: demo test test-oldest lint doc clean
.PHONY: bench-engine bench-classifiers bench-samn-cost reproduce-samn
.PHONY: bench-oversampling bench-oversampling-speed bench-out-of-core
.PHONY: reproduce-oversampling reproduce-neighbors bench-neighbors
.PHONY: bench-neighbor-networks bench-data-parallel
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(VENV)/bin/python benchmarks/demo.py --out demo

test: $(VENV)/.test
	$(VENV)/bin/pytest

# The same tests with the lower bounds of pyproject.toml.
test-oldest: oldest-requirements.txt
	$(MAKE) test PYTHON=$(OLDEST_PYTHON) VENV=.venv-oldest PIP_OPTIONS="-c $<"

oldest-requirements.txt: pyproject.toml .ci/oldest_requirements.py
	$(OLDEST_PYTHON) .ci/oldest_requirements.py > $@

lint: $(VENV)/.lint
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/lint-imports --config setup.cfg

doc: $(VENV)/.doc
	$(VENV)/bin/sphinx-build -W --keep-going -b html doc doc/_build/html

bench-engine: $(VENV)/.benchmarks
	$(VENV)/bin/python benchmarks/bench_engine.py

# These need the folder of data sets: make bench-classifiers DATA_DIR=...
# A rerun goes on from the rows in benchmarks/results.
DATA_DIR ?= ../shared/data
N_JOBS ?= 1

bench-classifiers: $(VENV)/.benchmarks
	$(VENV)/bin/python benchmarks/bench_classifiers.py --data-dir $(DATA_DIR) --n-jobs $(N_JOBS)

bench-samn-cost: $(VENV)/.benchmarks
	$(VENV)/bin/python benchmarks/bench_samn_cost.py --data-dir $(DATA_DIR)

bench-data-parallel: $(VENV)/.benchmarks
	$(VENV)/bin/python benchmarks/bench_data_parallel.py --data-dir $(DATA_DIR)

# Takes 10 GB of the folder for temporary files, and hours.
bench-out-of-core: $(VENV)/.benchmarks
	$(VENV)/bin/python benchmarks/bench_out_of_core.py --data-dir $(DATA_DIR)

reproduce-samn: $(VENV)/.benchmarks
	$(VENV)/bin/python benchmarks/reproduce_samn.py --data-dir $(DATA_DIR) --n-jobs $(N_JOBS) --runtime

bench-oversampling: $(VENV)/.benchmarks
	$(VENV)/bin/python benchmarks/bench_oversampling.py --data-dir $(DATA_DIR) --n-jobs $(N_JOBS) --ablations

bench-oversampling-speed: $(VENV)/.benchmarks
	$(VENV)/bin/python benchmarks/bench_oversampling_speed.py --data-dir $(DATA_DIR)

reproduce-oversampling: $(VENV)/.benchmarks
	$(VENV)/bin/python benchmarks/reproduce_oversampling.py --data-dir $(DATA_DIR) --n-jobs $(N_JOBS)

reproduce-neighbors: $(VENV)/.benchmarks
	$(VENV)/bin/python benchmarks/reproduce_neighbors.py --data-dir $(DATA_DIR) --n-jobs $(N_JOBS) --paper --k 3 4 5 6 7 8 9 10

# PyNNDescent is the extra "approximate"; faiss-cpu is measured too where it is there.
bench-neighbors: $(VENV)/.benchmarks $(VENV)/.approximate
	$(VENV)/bin/python benchmarks/bench_neighbors.py --data-dir $(DATA_DIR)

bench-neighbor-networks: $(VENV)/.benchmarks
	$(VENV)/bin/python benchmarks/bench_neighbor_networks.py --data-dir $(DATA_DIR) --n-jobs $(N_JOBS)

# Everything that the targets above leave behind.
clean:
	rm -rf .venv .venv-oldest oldest-requirements.txt build dist *.egg-info
	rm -rf doc/_build doc/generated .pytest_cache .ruff_cache .import_linter_cache
	rm -rf .coverage demo
	find . -name __pycache__ -prune -exec rm -rf {} +

# The stamp .test says that the extra "test" is installed, and so on.
$(VENV)/.%: pyproject.toml | $(VENV)/.torch
	$(VENV)/bin/pip install $(PIP_OPTIONS) -e ".[$*]"
	touch $@

$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "sklearn_samn needs Python >= 3.11; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install "$(TORCH)"
	touch $@
