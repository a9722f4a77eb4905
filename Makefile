# demo, test, lint, soak, docs, bench, clean: each makes its own virtual environment in .venv when it has to.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEFINITION := setup.cfg pyproject.toml

.PHONY: demo test lint soak docs pictures bench bench-full install-test clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed-demo
	$(BIN)/ray-anystorage demo

# Three processes, each with a Ray cluster and an S3 server of its own: tests mostly wait, for kills, limits and starts.
test: lint .azurite/.installed
	$(BIN)/python -m pytest -n 3 --dist worksteal

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

soak: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m soak

# The site, in site/; a broken link or reference fails it (not with --quiet). The variable quiets a notice of the builder's.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open site/index.html"

# The screenshots in docs/, taken anew; wants chromium.
pictures: $(VENV)/.installed-test
	TAKE_PICTURES=true $(BIN)/python -m pytest -q tests/docs/test_pictures.py

# Ten minutes, and the picture in README.md; `make bench-full` has every shape and takes hours.
bench: $(VENV)/.boto3
	$(BIN)/python -m benchmarks.transfer --quick --latest $(BENCH)

bench-full: $(VENV)/.boto3
	$(BIN)/python -m benchmarks.transfer $(BENCH)

# boto3 comes out with each botocore under the same number; pip's resolver, left to find that out, gives up.
$(VENV)/.boto3: $(VENV)/.installed-bench
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		"boto3==$$($(BIN)/python -c 'import botocore; print(botocore.__version__)')"
	touch $@

# The Azure emulator comes from npm; where there is no npm its tests skip and say so.
.azurite/.installed:
	mkdir -p .azurite
	if command -v npm >/dev/null; then npm install --silent --no-fund --no-audit --prefix .azurite azurite; fi
	touch $@

install-test: $(VENV)/.installed-test

clean:
	rm -rf $(VENV) .azurite build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-%: $(DEFINITION) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@
