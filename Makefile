# One command sets up and runs the main job (make fig5), one passes the tests (make test).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
TORCH ?= 2.13.0
TORCHVISION ?= 0.28.0

.PHONY: help setup fig5 figures ship gallery docs test slow lint clean
help:  ## show these targets
	@grep -E '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

setup: $(VENV)/.installed  ## create the environment (no CUDA packages on a machine without a GPU)

$(VENV)/.installed: pyproject.toml install.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python install.py --torch $(TORCH) --torchvision $(TORCHVISION)
	touch $@

fig5: setup  ## Figure 5 into runs/figures: denoising MSE against degree and noise (ARGS="-p n_train 20000" sets parameters)
	$(BIN)/papermill notebooks/fig5.ipynb out.ipynb $(ARGS)

figures: setup  ## run every notebook that is out of date and build runs/figures/index.html (ARGS="--only fig1,fig5 --full")
	$(BIN)/python -m numeric figures $(ARGS)

ship: setup  ## the same into paper_figures, whose figures are tracked and shipped (from the full MNIST)
	$(BIN)/python -m numeric figures --ship $(ARGS)

gallery: setup  ## build paper_figures/index.html from what is there
	$(BIN)/python -m numeric figures --ship --page-only

docs: setup  ## the documentation site, from docstrings, pages and shipped figures, into runs/site
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

test: setup  ## the test suite, one process a core (ARGS are passed to pytest)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

slow: setup  ## the long tests too
	$(BIN)/python -m pytest -m "slow or not slow" $(ARGS)

lint: setup  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:  ## remove the environment and the tools' caches; what took long stays in runs/
	rm -rf $(VENV) runs/gallery out.ipynb .pytest_cache .ruff_cache .mypy_cache
