# make demo            the whole experiment on the shipped sample: six runs and their comparison, 8 minutes on 2 cores
# make test            all tests but those of hours (make test-fast: those without training)
# make test-gpu        what needs a GPU, on this machine's; benchmarks/gpu_all.sh does more, and needs no installation
# make check           all that can be said without running the code; its parts are targets too:
#                      lint types spelling shell imports docs links
# make bench           benchmarks; they print our figures beside a peer's
# make release-check   can this commit be released? It builds the distributions and prints how to make the tag
# make setup           installation alone; make clean removes it, and what make demo made
#
# Each target installs what it needs into .venv first. PYTHON=... chooses the interpreter, pip's own settings where
# packages come from. SETTINGS="KEY=VALUE ..." changes the demo's.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SAMPLE := data/sample
SPLITS := unlabelled_train unlabelled_test train validation test
# A GPU machine takes the torch that pip chooses; elsewhere the pinned CPU set.
CONSTRAINTS := $(if $(shell command -v nvidia-smi),,-c constraints-cpu.txt)

.PHONY: demo test test-fast test-gpu check lint types spelling shell imports docs links bench release-check setup clean

demo: $(SAMPLE)/manifest.json
	$(BIN)/python jobs/launch.py chain --name demo --cluster local --ranks-per-node 2 data.path=$(SAMPLE) $(SETTINGS)

test: $(INSTALLED)
	@sh .ci/need-slurm
	@sh .ci/need-chromium
	$(BIN)/python -m pytest -n 2 -m "not soak"

test-fast: $(INSTALLED)
	@sh .ci/need-chromium
	$(BIN)/python -m pytest -n 2 -m "not slow and not soak"

test-gpu: $(INSTALLED)
	$(BIN)/python -m pytest -m gpu tests/gpu

check: lint types spelling shell imports docs links

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

spelling: $(INSTALLED)
	$(BIN)/codespell

shell: $(INSTALLED)
	$(BIN)/shellcheck slurm/* $(filter-out %.py,$(wildcard .ci/*))

imports: $(INSTALLED)
	$(BIN)/python -m pytest -q tests/unit/test_imports.py

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir build/site

links: $(INSTALLED)
	$(BIN)/python -m pytest -q -m "not slow" tests/docs

bench: $(INSTALLED)
	$(BIN)/python benchmarks/convert.py
	$(BIN)/python benchmarks/open_shards.py
	$(BIN)/python benchmarks/checkpoint.py
	$(BIN)/python benchmarks/loader.py

release-check: $(INSTALLED)
	$(BIN)/python .ci/release_check.py

setup: $(INSTALLED)

$(SAMPLE)/manifest.json: $(INSTALLED) $(SPLITS:%=sample/%.h5)
	$(BIN)/python jobs/data.py convert $(foreach split,$(SPLITS),$(split)=sample/$(split).h5) --out $(SAMPLE) --overwrite

$(INSTALLED): pyproject.toml constraints-cpu.txt
	@sh .ci/need-venv $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) -e '.[sim,convert,test,dev,docs]'
	touch $@

clean:
	rm -rf $(VENV) $(SAMPLE) runs/demo build
