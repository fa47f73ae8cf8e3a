# The commands that a person types. Each does all the set-up it needs.
#
#   make up [DEMO=1] [ARGS='--config FILE']   start everything on this machine
#   make test                                 the whole gate: linters, types, unit to end-to-end
#   make servers                              fetch real mail and DNS servers for the tests (apt)
#   make bench                                measure, side by side with others
#   make bench-accuracy                       servers of known truth, judged by us and by nmap
#   make soak                                 everything breaks while servers are tested; then counts
#   make fuzz                                 look for inputs that break a rule, for a minute
#   make audit                                known weaknesses of what we depend on (asks PyPI)
#   make lint                                 linters and types only
#   make clean                                remove what the above made (not the data of `up`)

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?=
ARGS   ?=

.PHONY: up test servers bench bench-accuracy soak fuzz audit lint clean

up: $(VENV)/up.stamp
	@exec $(BIN)/relaytest up $(if $(DEMO),--demo) $(ARGS)

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

servers: $(VENV)/dev.stamp
	$(BIN)/python -m tests.mta.packages

bench: $(VENV)/dev.stamp
	$(BIN)/python -m tests.bench $(ARGS)

fuzz: $(VENV)/dev.stamp
	@$(BIN)/python -c 'import atheris' 2>/dev/null || \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: atheris 2>/dev/null || \
	    echo "atheris is not to be had for this Python"
	$(BIN)/python -m tests.fuzz $(ARGS)

soak: servers
	$(BIN)/python -m tests.soak $(ARGS)

# Asks the advisories of PyPI. Not part of `make test`, which needs no network; it fails where it
# cannot ask, for silence would look like an answer.
audit: $(VENV)/dev.stamp
	@$(BIN)/python -c 'import pip_audit' 2>/dev/null || \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/python -m pip_audit --local --skip-editable --strict --progress-spinner off $(ARGS)

bench-accuracy: servers
	$(BIN)/python -m tests.bench accuracy $(ARGS)

lint: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -q tests/test_sourcecode.py tests/test_layout.py

clean:
	rm -rf $(VENV) .servers build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf .import_linter_cache .schemathesis relaytest.egg-info .coverage
	find relaytest tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/up.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[embedded,speed]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,embedded,speed]'
	@touch $@ $(VENV)/up.stamp

# Debian and Ubuntu keep venv's own installer in a package of its own.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "relaytest needs Python 3.11 or later; name one with: make PYTHON=/path/to/python3.11"; \
	    exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	    test "$$(id -u)" = 0 && command -v apt-get >/dev/null && { \
	        echo "installing python3-venv"; \
	        apt-get install -y -q python3-venv >/dev/null 2>&1 || \
	        { apt-get update -q >/dev/null && apt-get install -y -q python3-venv >/dev/null; }; }; } || { \
	    echo "Python's venv is not whole here; install it with: sudo apt install python3-venv"; \
	    exit 1; }
	$(PYTHON) -m venv $(VENV)
