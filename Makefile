# Everything that a reader or a developer does here. Needs Python >= 3.11, make and, to set up, a
# package index; nothing else.

VENV ?= .venv
JOBS ?= 2
PYTHON ?=

BIN := $(VENV)/bin
RUN := $(BIN)/python
UV := $(shell command -v uv 2>/dev/null)
INSTALL := $(if $(UV),$(UV) pip install --quiet --python $(RUN),$(RUN) -m pip install --quiet)
NOTEBOOKS = $(wildcard notebooks/*.ipynb colab/*.ipynb)
PYTEST = $(RUN) -m pytest -n $(JOBS) --dist loadfile

export PIP_ROOT_USER_ACTION := ignore
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help lab test subset parity oldest mutants fuzz notebooks format lint clean as-asked

help: ## say what there is
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

lab: $(VENV)/.installed-course ## set up, ask the pocket model a question, open the course
	$(RUN) -m gptoss_edu ask "How many r's are in strawberry?"
	$(RUN) -m jupyter lab $(LAB_FLAGS) --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb

# Tests and committed outputs are of the CPU.
test subset parity fuzz notebooks: export JAX_PLATFORMS := $(or $(JAX_PLATFORMS),cpu)

# Times and memory, as just measured, go into the notebooks and the README.
test: $(VENV)/.tpu ## set up, check style and types, run every test and every notebook
	$(LINT)
	$(PYTEST) --nbval --nbval-current-env tests $(NOTEBOOKS); \
	  passed=$$?; $(RUN) tools/course.py write; exit $$passed

subset: $(VENV)/.installed-test ## lessons, weights, kernels and commands alone, for one more Python
	$(PYTEST) @tests/subset.txt

parity: $(VENV)/.installed-parity ## compare with the live references (installs torch)
	$(PYTEST) -m parity tests

oldest: $(VENV)/.installed-test ## one click as on Colab, where JAX is as old as it may be
	$(RUN) tools/oldest.py

mutants: $(VENV)/.installed-mutants ## change the code in 300 places: do the tests notice? (ALL=1: in all)
	$(RUN) tools/mutants.py $(if $(ALL),--all)

fuzz: $(VENV)/.installed-test ## bad input, new each time (MINUTES=10); what fails comes first next time
	PYTHONPATH=tests $(RUN) -m fuzz $(or $(MINUTES),10)

notebooks: $(VENV)/.installed-test ## execute the notebooks again and write their outputs
	$(RUN) tools/notebooks.py run $(NOTEBOOKS)
	$(RUN) tools/course.py write

format: $(VENV)/.installed-test ## put code and notebooks into the house style
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

lint: $(VENV)/.installed-test ## check style and types without running anything
	$(LINT)

clean: ## remove the environment and all that was built
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

define LINT
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
endef

# JupyterLab refuses root unless told, and cannot open a browser without a display: it prints its
# address instead. macOS has a display that no variable names.
LAB_FLAGS = $$([ "$$(id -u)" -ne 0 ] || echo --allow-root) \
  $$([ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] || [ "$$(uname)" = Darwin ] || echo --no-browser)

# One stamp for each extra; a larger one covers the smaller. A changed pyproject.toml installs again.
covers_course := course
covers_test := course test
covers_parity := course test parity
covers_mutants := course test mutants
STAMPS := $(addprefix $(VENV)/.installed-,course test parity mutants)

$(STAMPS): $(VENV)/.installed-%: pyproject.toml | $(RUN) as-asked
	@echo "Installing gptoss-edu[$*] into $(VENV): a few minutes the first time"
	$(INSTALL) --editable ".[$*]"
	$(after_$*)
	@touch $(covers_$*:%=$(VENV)/.installed-%)

# The TPU compiler (213 MB) compiles for chips that are not there; tests of it skip without it. It
# lies beside the environment's packages, where conftest.py finds it: among them, JAX would look for
# a TPU whenever the course is opened, and complain that there is none.
LIBTPU = from importlib.metadata import requires; \
  print(next(r.split(";")[0] for r in requires("jax") if r.startswith("libtpu")))
$(VENV)/.tpu: $(VENV)/.installed-test
	@[ "$$(uname -sm)" != "Linux x86_64" ] || \
	  $(INSTALL) --no-deps --upgrade --target $(VENV)/tpu "$$($(RUN) -c '$(LIBTPU)')"
	@touch $@

# OpenAI's package asks for Python >= 3.12 and for a server's dependencies; the torch model that we
# compare with needs neither.
after_parity = $(RUN) -m pip install --quiet --no-deps --ignore-requires-python gpt-oss==0.0.9

# An environment is not made again for another Python: say so, rather than test the wrong one.
VERSION := import sys; print("%d.%d" % sys.version_info[:2])
as-asked: | $(RUN)
	@[ -z "$(PYTHON)" ] || has="$$($(RUN) -c '$(VERSION)')" asked="$$("$(PYTHON)" -c '$(VERSION)')" && \
	  [ "$$has" = "$$asked" ] || { \
	  echo "$(VENV) is of Python $$has, and $(PYTHON) is $${asked:-not there}: make clean, or name" >&2; \
	  echo "another folder: make VENV=.venv-$$asked PYTHON=$(PYTHON)" >&2; exit 1; }

# A name on the PATH may be a shim that fails or an old version: only running it tells. Debian's
# python3 comes without its venv module: then the next one is tried.
CANDIDATES := $(PYTHON) $(if $(PYTHON),,python3 python3.13 python3.12 python3.11 python)
$(RUN):
	@for python in $(CANDIDATES); do \
	  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
	  echo "Creating $(VENV) with $$("$$python" --version)"; \
	  "$$python" -m venv $(VENV) && exit 0; \
	  rm -rf $(VENV); \
	done; \
	echo "No Python >= 3.11 with a working venv module (tried: $(CANDIDATES))." >&2; \
	echo "Install one (on Debian: apt-get install python3-venv), or name it:" >&2; \
	echo "  make PYTHON=/usr/local/bin/python3.12" >&2; \
	exit 1
