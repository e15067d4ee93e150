# Every target sets up what it needs, and set-up is skipped while pyproject.toml and constraints.txt are unchanged.
# ARGS is passed on:  make run ARGS="flux.p=2 seed=1"   make test ARGS="tests/plap_jax/test_flux.py -x"
# PYTHON=python3.13 rebuilds .venv where it holds another version, CONSTRAINTS=/dev/null with the newest packages.

VENV := .venv
PY := $(VENV)/bin/python
# The one of .venv, or else the first of 3.11 to 3.13 that runs.
PYTHON ?= $(shell for python in $(PY) python3.11 python3.12 python3.13; do \
	$$python -c "" 2>/dev/null && echo $$python && break; done)
SHOW_VERSION := -c "import sys; print('%d.%d' % sys.version_info[:2])"
VERSION := $(shell $(PYTHON) $(SHOW_VERSION) 2>/dev/null)
CONSTRAINTS ?= constraints.txt
PIP := -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)
DEV := $(VENV)/.installed-dev-$(VERSION)$(if $(filter-out constraints.txt,$(CONSTRAINTS)),-newest)
OTHERS := $(filter-out $(DEV),$(wildcard $(VENV)/.installed-dev-*))
BENCH := $(VENV)/.installed-bench-$(VERSION)
LAUNCHERS := $(VENV)/.installed-launchers-$(VERSION)
# It asks for a cloudpickle that joblib refuses, and runs with the one that is there.
RAY_LAUNCHER := hydra-ray-launcher==1.2.2
# Of its own: PyTorch and what comes with it is 1 GB and more, and `make test` shows that everything else works without.
TORCH_VENV := .venv-torch
TORCH := $(TORCH_VENV)/.installed-$(VERSION)
# Other people's trainers, audited by the tests: without what they need for pictures and FID alone, and in a folder of
# their own, since transformers would import a torchvision that does not go with a CPU build of torch.
TORCH_EXAMPLES := denoising-diffusion-pytorch smalldiffusion ema-pytorch einops torchvision
# Of its own as well: the site is built from the sources, without JAX, and so in half a minute from nothing.
DOCS_VENV := .venv-docs
DOCS := $(DOCS_VENV)/.installed-$(VERSION)
DOCS_EXTRA := import sys, tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")
# make setup JAX=cuda13 EXTRAS=hf
JAX ?=
EXTRAS ?=
comma := ,
MORE := $(subst $() ,$(comma),$(strip $(JAX) $(subst $(comma), ,$(EXTRAS))))
ifneq ($(filter-out cuda13 cuda12 tpu,$(JAX)),)
$(error JAX=$(JAX): must be cuda13, cuda12 or tpu, or not be given for the CPU)
endif

.DEFAULT_GOAL := help
.PHONY: help setup setup-cluster setup-torch run audit-demo test test-all test-torch test-cluster lint format bench gpu-check sweep figures results docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(DEV) $(if $(MORE),$(VENV)/.installed-$(MORE)-$(VERSION)) ## .venv with pinned versions; JAX=cuda13|cuda12|tpu, EXTRAS=…

# The stamps are written last: an interrupted set-up is taken up again.
$(DEV): pyproject.toml constraints.txt
	@test -n "$(VERSION)" || { echo "PYTHON=$(PYTHON): must be Python 3.11 to 3.13; none was found" >&2; exit 2; }
	@test "$$($(PY) $(SHOW_VERSION) 2>/dev/null)$(OTHERS)" = "$(VERSION)" || $(PYTHON) -m venv --clear $(VENV)
	$(PY) $(PIP) --editable ".[dev]"
	@touch $@

$(VENV)/.installed-$(MORE)-$(VERSION): $(DEV)
	$(PY) $(PIP) --editable ".[$(MORE)]"
	@touch $@

$(BENCH): $(DEV)
	$(PY) $(PIP) --editable ".[bench]"
	@touch $@

$(LAUNCHERS): $(DEV)
	$(PY) $(PIP) --editable ".[launchers,ray,search]"
	$(PY) $(PIP) --no-deps $(RAY_LAUNCHER)
	@touch $@

# torch alone first: a CPU build, where the configured index has one, is then kept by everything that follows.
$(TORCH): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(TORCH_VENV)
	$(TORCH_VENV)/bin/python $(PIP) torch
	$(TORCH_VENV)/bin/python $(PIP) --editable ".[dev,torch,torchax]"
	$(TORCH_VENV)/bin/python $(PIP) --no-deps --target $(TORCH_VENV)/examples $(TORCH_EXAMPLES)
	@touch $@

setup-cluster: $(LAUNCHERS) ## what make test-cluster needs, in .venv

setup-torch: $(TORCH) ## .venv-torch, what make test-torch needs

$(DOCS): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(DOCS_VENV)
	$(PYTHON) -c '$(DOCS_EXTRA)' > $(DOCS_VENV)/docs.txt
	$(DOCS_VENV)/bin/python $(PIP) --requirement $(DOCS_VENV)/docs.txt
	@touch $@

docs: $(DOCS) ## the documentation as a site that opens from disk: site/index.html
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/python -m mkdocs build --strict --quiet $(ARGS)
	@echo "open site/index.html"

run: $(DEV) ## the main experiment; results go to outputs/
	$(PY) -m experiments.run +exp=gmm_memorization $(ARGS)

# One thread of BLAS and OpenMP each: those of two workers would wait for each other, spinning.
test: $(DEV) ## the tests of every day: all but the markers slow and browser
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal --compile-fast -m "not slow and not browser" $(ARGS)

test-all: $(DEV) ## every test: also killed and repeated runs, and coverage over thousands of draws
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal $(ARGS)

test-torch: $(TORCH) ## models of PyTorch and diffusers folders, in an environment of their own
	OMP_NUM_THREADS=1 $(TORCH_VENV)/bin/python -m pytest -n 2 --dist loadfile tests/plap_jax/pretrained $(ARGS)

test-cluster: $(LAUNCHERS) ## audits on a Ray of this machine, and as jobs of a real Slurm: as root, with Debian's packages
	PLAP_JAX_CLUSTER=1 $(PY) -m pytest tests/cluster $(ARGS)

lint: $(DEV) ## style and imports, checked
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(DEV) ## style and imports, mended
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(BENCH) ## speed against PyTorch-style baselines
	$(PY) -m benchmarks.run $(ARGS)

gpu-check: $(DEV) ## what only an accelerator can tell, in six minutes; docs/benchmarks.md has the bare command
	$(PY) -m benchmarks.gpu_check $(ARGS)

audit-demo: $(DEV) ## digits planted in a training set and found again; ends with report.html
	$(PY) -m experiments.run +exp=audit_demo train.n_steps=6000 hydra.run.dir=outputs/audit_demo/latest $(ARGS)
	@echo "open outputs/audit_demo/latest/report.html"

sweep: ARGS ?= seed=0,1,2 flux.p=1,2
sweep: $(DEV) ## the main experiment over seeds and p, collected in one table
	$(PY) -m experiments.run -m +exp=gmm_memorization $(ARGS)

figures: $(DEV) ## every figure, into figures/ with its pages; runs what is not there yet (hours at first; ARGS=NAME makes one)
	$(PY) -m experiments.publish.gallery $(ARGS)
	$(if $(ARGS),,$(PY) -m experiments.publish.tutorial_pictures)

# One target for each experiment, none of which runs a seed again that lies there: make results SEEDS=1,2 goes on later.
SEEDS ?= 1,2,3,4,5
SEEDS_DIT ?= 1,2,3
DIR := outputs/results
OVER_SEEDS = $(PY) -m experiments.publish.seeds $(DIR)/$(1) $(2) +exp=$(3) $(ARGS)
RESULTS := digits patches fashion detection trajectory clothes clothes_dit clothes_difficulty clothes_trajectory \
	local_unet local_dit mitigation mitigation_dit mitigation_digits
.PHONY: results-pack results-unpack $(RESULTS:%=results-%)

results-digits: $(DEV)
	$(call OVER_SEEDS,digits,$(SEEDS),image_memorization)
results-patches: $(DEV)
	$(call OVER_SEEDS,patches,$(SEEDS),image_memorization_patches)
results-fashion: $(DEV)
	$(call OVER_SEEDS,fashion,$(SEEDS),image_memorization_fashion)
results-detection: $(DEV)
	$(call OVER_SEEDS,detection,$(SEEDS),detection_benchmark)
results-trajectory: $(DEV)
	$(call OVER_SEEDS,trajectory,$(SEEDS),memorization_trajectory)
results-clothes: $(DEV)
	$(call OVER_SEEDS,clothes,$(SEEDS),detection_benchmark_fashion)
results-clothes_dit: $(DEV)
	$(call OVER_SEEDS,clothes_dit,$(SEEDS_DIT),detection_benchmark_fashion_dit)
results-clothes_difficulty: $(DEV)
	$(call OVER_SEEDS,clothes_difficulty,$(SEEDS),detection_difficulty_fashion)
results-clothes_trajectory: $(DEV)
	$(call OVER_SEEDS,clothes_trajectory,$(SEEDS),memorization_trajectory_fashion)
results-local_unet: $(DEV)
	$(call OVER_SEEDS,local_unet,$(SEEDS),local_memorization)
results-local_dit: $(DEV)
	$(call OVER_SEEDS,local_dit,$(SEEDS_DIT),local_memorization model=dit diffusion=rectified_flow)
results-mitigation: $(DEV)
	$(call OVER_SEEDS,mitigation,$(SEEDS),mitigation)
results-mitigation_dit: $(DEV)
	$(call OVER_SEEDS,mitigation_dit,$(SEEDS),mitigation_dit)
results-mitigation_digits: $(DEV)
	$(call OVER_SEEDS,mitigation_digits,$(SEEDS),mitigation_digits)

results: $(RESULTS:%=results-%) ## the experiments on images over their seeds, and the tables of docs/results.md, local.md and mitigation.md (some fifteen hours, in any number of sittings)
	$(PY) -m experiments.publish.results $(DIR)

results-pack: $(DEV) ## docs/runs/: the metrics behind the tables, kept with the code
	$(PY) -m experiments.publish.pack $(DIR)

results-unpack: $(DEV) ## back from docs/runs/ to where make results goes on with the next seed
	$(PY) -m experiments.publish.pack $(DIR) --unpack

clean: ## remove the environment and what the tools cache (results in outputs/ stay)
	rm -rf $(VENV) $(TORCH_VENV) $(DOCS_VENV) site build dist .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
