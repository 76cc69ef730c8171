# `make` alone lists what there is. Everything runs in .venv, which the first target that needs it creates.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
OUT ?= data/ilsvrc2012
SAMPLE_ARCHIVES := data/sample-archives
RUNS ?= runs
PORT ?= 6006
EVENTS := $(firstword $(wildcard $(RUNS)/*/tensorboard/events.*))

.DEFAULT_GOAL := help
.PHONY: help install demo sample test lint prepare-imagenet tensorboard clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed  ## create .venv with the project in it

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "make: needs Python 3.10 or newer, and $(PYTHON) is older or missing; give PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "make: $(PYTHON) cannot make a virtual environment (Debian and \
	Ubuntu: install python3-venv)" >&2; exit 2; }

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	@echo 'installing the project and PyTorch into $(VENV): several GB, some minutes'
	$(RUN) -m pip install --quiet --editable .
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(VENV)/bin/python
	@echo 'installing the project, PyTorch and the tools for tests into $(VENV): several GB, some minutes'
	$(RUN) -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/installed

demo: sample  ## the main job on the embedded sample: prepare, train, evaluate, report
	$(RUN) -m alexnet_repro.train experiment=demo
	$(RUN) -m alexnet_repro.evaluate run=demo
	$(RUN) -m alexnet_repro.figures run=demo

sample: $(VENV)/installed  ## draw the embedded sample and prepare it in data/sample
	$(RUN) -m data_prep.sample $(SAMPLE_ARCHIVES)
	$(RUN) -m data_prep.prepare src=$(SAMPLE_ARCHIVES) out=data/sample

# Through the environment, where quotes and spaces in a path mean nothing.
prepare-imagenet: export SRC := $(SRC)
prepare-imagenet: export OUT := $(OUT)
prepare-imagenet: $(if $(SRC),$(VENV)/installed)  ## SRC=/path/to/archives [OUT=data/ilsvrc2012]: prepare ImageNet
ifndef SRC
	@echo 'make prepare-imagenet: give SRC=FOLDER, the folder that holds ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar' >&2
	@echo 'and ILSVRC2012_devkit_t12.tar.gz, or ImageNet in another layout, and if you like OUT=FOLDER; docs/preparing.md' >&2
	@echo 'says where to get ImageNet, which layouts are understood, and how long and how much disk preparing it takes' >&2
	@exit 2
else
	@$(RUN) -m data_prep.prepare 'src=$${oc.env:SRC}' 'out=$${oc.env:OUT}'
endif

test: $(VENV)/installed-dev  ## run all tests
	$(RUN) -m pytest

lint: $(VENV)/installed-dev  ## style and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

tensorboard: $(if $(EVENTS),$(VENV)/installed)  ## [RUNS=runs] [PORT=6006]: serve the dashboards of all runs
ifeq ($(EVENTS),)
	@echo 'make tensorboard: no run in $(RUNS)/ has dashboards yet; make demo trains one (RUNS=FOLDER if yours are elsewhere)' >&2
	@exit 2
else
	$(VENV)/bin/tensorboard --logdir '$(RUNS)' --port $(PORT)
endif

clean:  ## remove the environment and all caches; data/ and runs/ stay
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
