# Every target makes its own .venv on first use, and again after pyproject.toml changed.
#
#   make demo INTERFACE=epics_pva        make test ARGS='-k guard'        make test PYTHON=python3.12

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

# Empty: the first of python3, python3.13, python3.12, python3.11 that Badger can run on.
PYTHON   ?=
PYTHONS  := $(if $(PYTHON),$(PYTHON),python3 python3.13 python3.12 python3.11)
IS_RIGHT := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))

# Torch comes with Badger and is by far the largest part. Pinned, so that all machines compute with the same one. One
# already in .venv (a smaller build for CPUs, say) is kept; where this one cannot be had, pip chooses.
TORCH     ?= torch==2.13.0
HAS_TORCH := import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)

# `import badger` loads Qt, and Qt loads these from the system: file name = Debian package.
SYSTEM_LIBS := libGL.so.1=libgl1 libEGL.so.1=libegl1 libgthread-2.0.so.0=libglib2.0-0 \
               libfontconfig.so.1=libfontconfig1 libxkbcommon.so.0=libxkbcommon0 libdbus-1.so.3=libdbus-1-3
# Its window needs these besides. badger_k2eg/badger_app/qt_check.py has both lists; a test compares them.
WINDOW_LIBS := libX11-xcb.so.1=libx11-xcb1 libxkbcommon-x11.so.0=libxkbcommon-x11-0 libxcb-icccm.so.4=libxcb-icccm4 \
               libxcb-image.so.0=libxcb-image0 libxcb-keysyms.so.1=libxcb-keysyms1 libxcb-randr.so.0=libxcb-randr0 \
               libxcb-render-util.so.0=libxcb-render-util0 libxcb-shape.so.0=libxcb-shape0 \
               libxcb-xinerama.so.0=libxcb-xinerama0 libxcb-xkb.so.1=libxcb-xkb1

# More arguments for pytest, for all targets that test or measure.
ARGS ?=
# How many tests run beside each other; auto: twice as many as there are processors and one, for they wait most of the time.
WORKERS ?= auto
# Measures coverage in `make test-all`: COV=--cov=badger_k2eg
COV ?=
# 1: `make bench` measures for longer: ten million lines of journal, five minutes of updates through a gateway.
FULL ?=
# Which interface the demo goes through; empty: the demo's own choice.
INTERFACE ?=

# Hundreds of processes start in a session: each would compile the package, and each worker rewrite all tests.
unexport PYTHONDONTWRITEBYTECODE

PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --durations=10 --durations-min=1
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: demo test test-all test-cluster gui-soak lint bench clean help check-qt missing-packages

demo: check-qt ## tune a real IOC with Badger, without a window
	$(BIN)/python -m badger_k2eg.cli demo $(if $(INTERFACE),--interface $(INTERFACE))

test: $(STAMP) ## each behaviour once; what needs something that is not installed is skipped, and says what
	$(PYTEST) $(ARGS)

test-all: $(STAMP) ## every test, and those of Kafka once more on Apache Kafka (Java 17 and Maven): what CI runs
	$(PYTEST) -m 'not bench and not cluster' $(COV) $(ARGS); embedded=$$?; \
	$(PYTEST) --maxprocesses=3 -m 'kafka and not cluster' --broker=kafka $(ARGS) && exit $$embedded

test-cluster: $(STAMP) ## three Kafka brokers, one killed under load; a password; TLS (Java 17 and Maven)
	$(BIN)/python -m pytest tests/system -m cluster $(ARGS)

gui-soak: check-qt ## Badger's window, started twenty times; none may hang (Xvfb)
	GUI_STARTS=20 $(BIN)/python -m pytest tests/gui -k every_start $(ARGS)

lint: $(STAMP) ## style, format, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: check-qt ## measure, side by side with the plain libraries; FULL=1 for longer
	FULL=$(FULL) $(BIN)/python -m pytest tests/benchmarks -m bench -s --timeout=1800 $(ARGS)

clean: ## remove what the targets left behind; .venv stays
	rm -rf build dist demo-output htmlcov coverage.xml .coverage .coverage.* .bench
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1 \2/p' $(firstword $(MAKEFILE_LIST)) \
	  | while read -r target what; do printf '  make %-12s %s\n' "$$target" "$$what"; done

$(STAMP): pyproject.toml
	@$(BIN)/python -c '$(IS_RIGHT)' 2>/dev/null || { \
	  for python in $(PYTHONS); do \
	    if $$python -c '$(IS_RIGHT)' 2>/dev/null; then \
	      echo "making $(VENV) with $$python: several gigabytes, some minutes"; \
	      exec $$python -m venv --clear $(VENV); \
	    fi; \
	  done; \
	  echo "Python 3.11, 3.12 or 3.13 is needed; none of these is one: $(PYTHONS). Name one: make PYTHON=..." >&2; \
	  exit 1; }
	@$(BIN)/python -c '$(HAS_TORCH)' || test -z '$(TORCH)' || $(PIP) install '$(TORCH)' >/dev/null 2>&1 || true
	$(PIP) install -e '.[all]'
	@touch $@

check-qt: $(STAMP)
	@reason=$$($(BIN)/python -c 'import PyQt5.QtWidgets' 2>&1) || { \
	  packages=$$($(MAKE) --no-print-directory -s missing-packages | tr '\n' ' '); \
	  echo "Badger's Qt does not load ($${reason##*Error: })$${packages:+; on Debian: apt install $$packages}" >&2; \
	  exit 1; }

# One Debian package per line, for each library that is not here. On a system without ldconfig there is nothing to say;
# on Debian it is not on every user's path.
missing-packages:
	@PATH="$$PATH:/usr/sbin:/sbin"; command -v ldconfig >/dev/null || exit 0; known=$$(ldconfig -p); \
	for pair in $(SYSTEM_LIBS) $(WINDOW_LIBS); do \
	  case "$$known" in *"$${pair%%=*} "*) ;; *) echo "$${pair#*=}";; esac; \
	done
