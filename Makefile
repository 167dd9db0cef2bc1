# The book's commands. `make help` lists them. Nothing needs to be installed by hand: Python 3.10 or newer, pip and make are enough.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
TEXT   ?= Hello, I am a talking head made of formulas.
OUT    ?= out/demo.mp4
# Some containers forbid Python to keep compiled modules. Every process would then compile PyTorch's sources again, for 4 s and more.
unexport PYTHONDONTWRITEBYTECODE
# The sentence reaches the shell untouched: quotes, dollar signs and all.
export DEMO_TEXT = $(value TEXT)

# Golden vectors (see tests/golden/README.md): the variable may point to a fuller set.
export TALKER_T2AV_GOLDEN := $(or $(TALKER_T2AV_GOLDEN),$(CURDIR)/tests/golden)

.DEFAULT_GOAL := help
.PHONY: help setup demo test browser lab docs export format course refresh weights bench clean

help:  ## list these commands
	@echo "make demo TEXT=\"...\"   say a sentence: writes $(OUT), sound and face"
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | grep -v '^demo' | sed -E 's/^([a-z]+):.*## */make \1\t/' | expand -t 23

setup: $(STAMP)  ## create .venv and install everything (the other commands do this when needed)

$(STAMP): settings.ini setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 10) else f"Python 3.10 or newer is needed, this is {v[0]}.{v[1]}; try: make PYTHON=python3.12 ...")'
	@echo "== Setting up $(VENV) with what the book needs (about 2 GB; a few minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "No venv module: on Debian or Ubuntu, apt-get install python3-venv"; rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile --quiet "pip>=26"  # older ones take three times as long to choose releases
	$(BIN)/python -m pip install --disable-pip-version-check --prefer-binary --no-compile -e ".[dev]"
	@touch $(STAMP)

demo: $(STAMP)
	@echo "== Making $(OUT)"
	@$(BIN)/talker-t2av demo -o "$(OUT)" -- "$$DEMO_TEXT"

# Chromium for tests/test_browser.py: the system's, or else Playwright's own (a download, once). Without it these tests are skipped, with the reason.
browser: $(STAMP)
	@$(BIN)/python tests/chromium.py

# What was freed stays with the process, in large pages, instead of going back to the system again and again: a few percent less time. For glibc; other systems do not know these names.
test weights: export MALLOC_TRIM_THRESHOLD_ := 4000000000
test weights: export MALLOC_MMAP_THRESHOLD_ := 4000000000
test weights: export GLIBC_TUNABLES := glibc.malloc.hugetlb=1
test: browser  ## all checks: package equals notebooks, site builds, notebooks run, tests pass
	@echo "== 1/4 The house: package and notebooks agree, are clean and laid out"
	@$(BIN)/python -m pytest -n 2 tests/test_house.py tests/test_words.py
	@echo "== 2/4 The site builds without warnings"
	@$(BIN)/python docs/build.py
	@echo "== 3/4 Every notebook runs from top to bottom (cells flagged slow or cuda excepted)"
	@$(BIN)/python docs/run.py
	@echo "== 4/4 Tests"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -r s -n 2 --dist loadfile --no-loadscope-reorder --ignore tests/test_house.py --ignore tests/test_words.py tests

lab: $(STAMP)  ## open the book in JupyterLab
	@$(BIN)/jupyter lab nbs/index.ipynb

docs: $(STAMP)  ## build the site: docs/_build/html/index.html
	@$(BIN)/python docs/build.py

export: $(STAMP)  ## write talker_t2av/ from the notebooks and clean their metadata
	@$(BIN)/nbdev_export && $(BIN)/nbdev_clean && echo "talker_t2av/ is up to date"

format: $(STAMP)  ## lay out code in notebooks, tests and docs alike (ruff), and mend what can be mended
	@$(BIN)/ruff format nbs tests docs benchmarks setup.py && $(BIN)/ruff check --fix nbs tests docs benchmarks setup.py

course: $(STAMP)  ## renew what is computed: links, reading times and contents in nbs/, tables in README.md
	@$(BIN)/python docs/course.py && $(BIN)/python docs/readme.py

refresh: $(STAMP)  ## run every notebook in place, store fresh outputs and running times
	@OMP_NUM_THREADS=1 $(BIN)/python docs/refresh.py

weights: $(STAMP)  ## train every network again, from nothing (hours; an interrupted run goes on): runs/small/model
	@$(BIN)/talker-t2av train all --preset small --out runs/small
	@test -e runs/small/model || $(BIN)/talker-t2av assemble runs/small --out runs/small/model

bench: $(STAMP)  ## measure speeds: prints a table and writes data/results/benchmarks.json
	@$(BIN)/python benchmarks/run.py

clean:  ## remove what the commands made, except .venv
	@rm -rf out docs/_build docs/_pages _proc
