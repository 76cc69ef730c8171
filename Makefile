# `make` alone lists the targets. Everything runs in .venv, which the first target that needs it creates.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
OUT ?= data/ilsvrc2012
SAMPLE_ARCHIVES := data/sample-archives
RUNS ?= runs
PORT ?= 6006
MINUTES ?= 9
TINY ?= data/downloads/tiny-imagenet-200.zip
CIFAR10_EPOCHS ?= 10
comma := ,
# Paths reach the commands through the environment and as they were typed, so that quotes, spaces and $ in them need no
# escaping; $$, which make wants for $, is understood, too.
override SRC := $(subst $$$$,$$,$(value SRC))
override OUT := $(subst $$$$,$$,$(value OUT))
override DATA := $(subst $$$$,$$,$(value DATA))
override RUNS := $(subst $$$$,$$,$(value RUNS))
override TINY := $(subst $$$$,$$,$(value TINY))
export SRC OUT DATA RUNS TINY
# Of `make ablations` and `make gpu-claims`: the experiments; the one that the others are compared with; and settings for
# the machine.
ABLATIONS ?= paper,one_column,no_lrn,pool_non_overlapping,no_colour_noise,no_crops_no_mirrors,no_dropout,no_conv2,no_conv4
GPU_ABLATIONS ?= $(ABLATIONS),code2012,code2012_one_column,code2012_no_lrn,code2012_pool_non_overlapping,no_conv3,no_conv5,no_weight_decay,zero_biases
BASELINE ?= $(firstword $(subst $(comma), ,$(ABLATIONS)))
GPU_RUNTIME ?= gpus=1 runtime.precision=bf16 runtime.data_on_gpu=true
ABLATION_RUNS = $(foreach name,$(subst $(comma), ,$(ABLATIONS)),$(name)-0 $(name)-1 $(name)-2)
SMALL ?= model.width=0.25 model.input_size=120 schedule=constant schedule.epochs=10 optim.batch_size=32 optim.learning_rate=0.005
EVENTS := $(firstword $(wildcard $(subst $() ,\ ,$(RUNS))/*/tensorboard/events.*))

.DEFAULT_GOAL := help
.PHONY: help install demo sample claims cifar10 fashion-mnist ablations test gpu-check gpu-claims lint mutants columns prepare-imagenet tensorboard clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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

$(VENV)/installed-mutants: $(VENV)/installed-dev
	$(RUN) -m pip install --quiet --editable '.[dev,mutants]'
	@touch $@

demo: sample  ## draw sample images, prepare them, train, evaluate, write a report
	$(RUN) -m alexnet_repro.train experiment=demo
	$(RUN) -m alexnet_repro.evaluate run=demo
	$(RUN) -m alexnet_repro.figures run=demo

sample: $(VENV)/installed  ## draw the embedded sample and prepare it in data/sample
	$(RUN) -m data_prep.sample $(SAMPLE_ARCHIVES)
	$(RUN) -m data_prep.prepare src=$(SAMPLE_ARCHIVES) out=data/sample

claims: cifar10 fashion-mnist  ## [CIFAR10_EPOCHS=10]: run the claims that need no ImageNet (520: section 3.3's pair complete), list all
	$(RUN) -m alexnet_repro.train --multirun experiment=cifar10_relu,cifar10_tanh seed=0,1,2
	$(RUN) -m alexnet_repro.figure1
	$(RUN) -m alexnet_repro.train experiment=fashion_mnist
	$(RUN) -m alexnet_repro.evaluate run=fashion_mnist-0 checkpoint=best split=test views=1
	$(RUN) -m alexnet_repro.train --multirun experiment=cifar10_lrn,cifar10_no_lrn schedule.epochs=$(CIFAR10_EPOCHS) \
	  'allow_changes=[schedule.epochs]'
	$(RUN) -m alexnet_repro.evaluate --multirun run=cifar10_lrn-0,cifar10_no_lrn-0
	$(RUN) -m alexnet_repro.compare 'runs=[cifar10_lrn-0,cifar10_no_lrn-0]'
	$(RUN) -m alexnet_repro.claims

cifar10: data/cifar10/manifest.json  ## download CIFAR-10 and prepare it in data/cifar10

fashion-mnist: data/fashion_mnist/manifest.json  ## download Fashion-MNIST and prepare it in data/fashion_mnist

data/cifar10/manifest.json: | $(VENV)/installed
	$(RUN) -m data_prep.prepare src=data/downloads/cifar10 layout=cifar10 out=data/cifar10 image_size=32 encoding=raw

data/fashion_mnist/manifest.json: | $(VENV)/installed
	$(RUN) -m data_prep.prepare src=data/downloads/fashion-mnist layout=fashion_mnist out=data/fashion_mnist \
	  image_size=227 val_from_train=0.2

ablations: $(if $(DATA),$(VENV)/installed)  ## DATA=data/mine [SMALL=settings] [ABLATIONS=names] [BASELINE=name]: the ablations on any prepared data set
ifndef DATA
	@echo 'make ablations: give DATA=FOLDER, a prepared data set of images of 128 to 144 pixels (patches have 120), and' >&2
	@echo 'if you like ABLATIONS=paper,no_lrn; SMALL= for the whole network and schedule, on images of 256' >&2
	@exit 2
else
	$(RUN) -m alexnet_repro.train --multirun experiment=$(ABLATIONS) seed=0,1,2 data.path="$$DATA" runs_dir="$$RUNS/ablations" $(SMALL)
	$(RUN) -m alexnet_repro.evaluate --multirun run=$(subst $() ,$(comma),$(strip $(ABLATION_RUNS))) runs_dir="$$RUNS/ablations"
	$(RUN) -m alexnet_repro.ablations runs_dir="$$RUNS/ablations" baseline=$(BASELINE)
endif

prepare-imagenet: $(if $(SRC),$(VENV)/installed)  ## SRC=/path/to/archives [OUT=data/ilsvrc2012]: prepare ImageNet
ifndef SRC
	@echo 'make prepare-imagenet: give SRC=FOLDER, the folder that holds ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar' >&2
	@echo 'and ILSVRC2012_devkit_t12.tar.gz, or ImageNet in another layout, and if you like OUT=FOLDER; docs/preparing.md' >&2
	@echo 'says where to get ImageNet, which layouts are understood, and how long and how much disk preparing it takes' >&2
	@exit 2
else
	@$(RUN) -m data_prep.prepare src="$$SRC" out="$$OUT"
endif

# A process for each core and one more, as some tests wait; up to eight take one test file after the other. tests/gpu
# follows in one process.
test: $(VENV)/installed-dev  ## run all tests
	$(RUN) -m pytest -n $$($(RUN) -c 'import os; print(min(8, 1 + os.cpu_count()))') --dist loadfile --no-loadscope-reorder --ignore=tests/gpu
	$(RUN) -m pytest tests/gpu

# In four processes, as nearly every test compiles kernels first.
gpu-check: $(VENV)/installed-dev  ## run the tests that need a GPU, and measure its speed; a few minutes
	@$(RUN) -m pytest -rs -n 4 tests/gpu tests/alexnet_repro/test_prefetch.py tests/alexnet_repro/test_placement.py \
	  tests/alexnet_repro/test_resident.py tests/alexnet_repro/test_response_norm.py \
	  tests/alexnet_repro/test_background.py; \
	tested=$$?; $(RUN) tests/benchmarks/gpu.py gpu-check.json && exit $$tested

# A run is stopped when the time is up, and continued by the same command; finished runs are skipped.
gpu-claims: data/tiny_imagenet/manifest.json data/cifar10/manifest.json  ## [MINUTES=9] [TINY=FILE.zip] [GPU_RUNTIME=settings] [GPU_ABLATIONS=names]: long runs on one GPU, the most valuable first
	@end=$$(( $$(date +%s) + 60 * $(MINUTES) )); \
	for runs in experiment=tiny_imagenet_code2012,tiny_imagenet 'experiment=cifar10_lrn,cifar10_no_lrn,cifar10_13pct seed=0,1,2' \
	  'experiment=$(GPU_ABLATIONS) seed=0,1 schedule=net170 schedule.epochs=24 data.path=data/tiny_imagenet'; do \
	  left=$$(( end - $$(date +%s) )); \
	  [ $$left -gt 0 ] || { echo 'the time is up; the same command continues'; exit 0; }; \
	  case $$runs in *net170*) folder=$$RUNS/ablations;; *) folder=$$RUNS;; esac; \
	  timeout --foreground --signal=TERM $$left $(RUN) -m alexnet_repro.train --multirun $$runs runs_dir="$$folder" $(GPU_RUNTIME); \
	  case $$? in 0) ;; 124) echo 'the time is up; the same command continues'; exit 0;; *) exit 1;; esac; \
	done

data/tiny_imagenet/manifest.json: | $(VENV)/installed
	$(RUN) -m data_prep.prepare src="$$TINY" out=data/tiny_imagenet

lint: $(VENV)/installed-dev  ## check style and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

mutants: $(VENV)/installed-mutants  ## [FILES=alexnet_repro/data/views.py] [MUTANTS=--survivors]: do the tests notice single faults in the code? Takes hours
	$(RUN) tests/mutants.py $(MUTANTS) $(FILES)

columns: $(VENV)/installed  ## draw docs/images/columns.svg again, after a change of conf/model/paper.yaml
	$(RUN) -m alexnet_repro.report.columns > docs/images/columns.svg

tensorboard: $(if $(EVENTS),$(VENV)/installed)  ## [RUNS=runs] [PORT=6006]: serve the dashboards of all runs
ifeq ($(EVENTS),)
	@echo "make tensorboard: no run in $$RUNS/ has dashboards yet; make demo trains one (RUNS=FOLDER if yours are elsewhere)" >&2
	@exit 2
else
	$(VENV)/bin/tensorboard --logdir "$$RUNS" --port $(PORT)
endif

clean:  ## remove the environment and all caches; data/ and runs/ stay
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
