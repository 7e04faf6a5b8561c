# Everything a newcomer needs; `make` alone says what there is. Needs Python 3.11 or later, no root.
# On Debian without python3-venv, root gets it installed, and anybody else is told how to.

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
PY := $(VENV)/bin/python
# Five processes, because tests wait more than they work; a file of tests in each, in the order
# of tests/conftest.py.
SIDE_BY_SIDE := -n 5 --dist loadfile --no-loadscope-reorder
export PYTHON

.PHONY: help run deb test check bench soak demo-models page-pictures lock clean

help:
	@echo 'make run          run the daemon on 127.0.0.1:8000 with demo models; Ctrl-C ends it'
	@echo 'make deb          the Debian package, into dist/'
	@echo 'make test         everything: linters, types, all tests'
	@echo 'make check        linters, types and the quick tests, in a few minutes'
	@echo 'make bench        measurements, as ratios'
	@echo 'make soak         attacks, power cuts and long runs, for hours; SCALE=0.01 for minutes'
	@echo 'make demo-models  tiny real models in .run/models'
	@echo 'make page-pictures  new pictures for docs/page.md'
	@echo 'make lock         new versions of all packages into the lock files'
	@echo 'make clean        remove what was made here, the state of `make run` too'

run: $(READY)
	@exec packaging/run

deb: $(READY)
	@packaging/test-tools deb
	@packaging/deb

test: $(READY)
	@packaging/test-tools
	@packaging/client-tools
	$(PY) -I -m pytest $(SIDE_BY_SIDE)

check: $(READY)
	@packaging/test-tools check
	$(PY) -I -m pytest $(SIDE_BY_SIDE) -m 'not slow'

bench: $(READY)
	@packaging/test-tools
	$(PY) -m tests.bench

SCALE ?= 1
SEED ?= $(shell date +%s)
soak: $(READY)
	@packaging/test-tools
	@$(PY) -I -m pip --disable-pip-version-check -q install --require-hashes -r packaging/soak.lock \
		|| echo 'soak: no atheris for this Python'
	$(PY) -m tests.soak --scale $(SCALE) --seed $(SEED) $(TOPICS)

demo-models: $(READY)
	@$(PY) -I packaging/demo_models.py .run/models

page-pictures: $(READY)
	@packaging/test-tools
	$(PY) -m tests.page.pictures

lock: $(READY)
	$(PY) -I -m pip --disable-pip-version-check --quiet install uv
	UV=$(VENV)/bin/uv packaging/lock

clean:
	rm -rf $(VENV) .run .cache build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last: an install that was interrupted is done again.
$(READY): packaging/requirements.lock packaging/build.lock packaging/install pyproject.toml
	@packaging/install $(VENV)
	@touch $@
