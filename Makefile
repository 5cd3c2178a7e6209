# make demo       the whole experiment on the shipped sample: five runs and their comparison, about 5 minutes on 2 cores
# make test       all tests but those of hours (make test-fast: those without training)
# make check      style
# make bench      benchmarks; they print our figures beside a peer's
# make setup      installation alone; make clean removes it, and what make demo made
#
# Each target installs what it needs into .venv first. PYTHON=... chooses the interpreter, pip's own settings where
# packages come from.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SAMPLE := data/sample
SPLITS := unlabelled_train unlabelled_test train validation test
# A GPU machine takes the torch that pip chooses; elsewhere the pinned CPU set.
CONSTRAINTS := $(if $(shell command -v nvidia-smi),,-c constraints-cpu.txt)

.PHONY: demo test test-fast check bench setup clean

demo: $(SAMPLE)/manifest.json
	$(BIN)/python jobs/launch.py chain --name demo --cluster local --ranks-per-node 2 data.path=$(SAMPLE)

test: $(INSTALLED)
	@sh .ci/need-slurm
	$(BIN)/python -m pytest -n 2 -m "not soak"

test-fast: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 -m "not slow and not soak"

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(INSTALLED)
	$(BIN)/python benchmarks/convert.py
	$(BIN)/python benchmarks/open_shards.py
	$(BIN)/python benchmarks/checkpoint.py

setup: $(INSTALLED)

$(SAMPLE)/manifest.json: $(INSTALLED) $(SPLITS:%=sample/%.h5)
	$(BIN)/python jobs/data.py convert $(foreach split,$(SPLITS),$(split)=sample/$(split).h5) --out $(SAMPLE) --overwrite

$(INSTALLED): pyproject.toml constraints-cpu.txt
	@sh .ci/need-venv $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) -e '.[sim,convert,test]'
	touch $@

clean:
	rm -rf $(VENV) $(SAMPLE) runs/demo
