PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test test-lowest test-slow test-browser test-kill test-faults fuzz check lint types clean picture

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[app,zoo,cluster,export,dev]'
	touch $@

demo: setup
	$(BIN)/python -m harness run --method ikl

test: setup
	$(BIN)/python -m pytest -n 2

test-slow: setup
	$(BIN)/python -m pytest -n 2 -m slow --timeout 3600

# Test with the lowest supported version of every direct dependency.
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	$(PYTHON) tests/lowest_constraints.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint .venv-lowest/constraints.txt --editable '.[app,zoo,cluster,export,dev]'
	.venv-lowest/bin/python -m pytest -n 2

test-browser: setup
	$(BIN)/python -m pytest -m browser tests/app

# Redraw the README's picture from the reference runs. CHROMIUM names the browser if it is not playwright's.
picture: setup
	$(BIN)/python docs/picture.py

# Kill AutoAttack evaluations 50 times, and whole runs 1,000 (or KILLS) times, at random moments.
test-kill: setup
	$(BIN)/python -m pytest tests/faults/test_kill.py -s -m slow -k autoattack

test-faults: setup
	$(BIN)/python -m pytest tests/faults/test_kill.py -s -m slow -k undisturbed

# Damage files and settings, and try command lines and URLs, at random; FUZZ=10 tries ten times as many inputs.
fuzz: setup
	$(BIN)/python -m pytest tests/fuzz -m fuzz --timeout 3600

check: setup
	$(BIN)/python -m harness check

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

clean:
	rm -rf $(VENV) *.egg-info
