"""The pytest plugin in a user's session: it does nothing unless a test asks, and leaves everything as it was."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from badger_k2eg.testing.processes import clean_environment

Session = Callable[..., str]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """Gives a function that runs a file of tests as a user does, and gives what pytest said."""

    def run(code: str, **environment: str) -> str:
        (tmp_path / "test_it.py").write_text(code)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", str(tmp_path)],
            env=clean_environment(environment),
            capture_output=True,
            text=True,
            timeout=150,
            cwd=tmp_path,
        )
        return done.stdout + done.stderr

    return run


def test_a_session_that_asks_for_nothing_is_as_without_the_plugin(session: Session) -> None:
    said = session(
        "import os, sys\n"
        "def own(): return {k: v for k, v in os.environ.items() if not k.startswith('PYTEST')}\n"
        "before = own()\n"
        "def test_environment(): assert own() == before\n"
        "def test_fixtures(request): assert request.fixturenames == ['request']\n"
        "def test_modules():\n"
        "    ours = {name for name in sys.modules if name.startswith('badger_k2eg.')}\n"
        "    assert ours == {'badger_k2eg.testing', 'badger_k2eg.testing.plugin'}\n",
        BADGER_K2EG_JOURNAL_DIR="mine",
    )
    assert "3 passed" in said, said


@pytest.mark.parametrize("fixture", ["memory_context", "own_journal"])
def test_a_test_has_places_of_its_own_for_itself_alone(session: Session, fixture: str) -> None:
    said = session(
        "import os, pytest\n"
        "NAMES = ('BADGER_K2EG_JOURNAL_DIR', 'BADGER_K2EG_LOCK_DIR')\n"
        "def places(): return [os.environ.get(name) for name in NAMES]\n"
        f"def test_places({fixture}): assert all('badger-k2eg' in place for place in places())\n"
        "def test_after(): assert places() == ['mine', 'mine too']\n"
        "@pytest.fixture\n"
        "def chosen(monkeypatch): monkeypatch.setenv(NAMES[0], 'chosen')\n"
        f"def test_chosen(chosen, {fixture}): assert places()[0] == 'chosen' and 'badger-k2eg' in places()[1]\n",
        BADGER_K2EG_JOURNAL_DIR="mine",
        BADGER_K2EG_LOCK_DIR="mine too",
    )
    assert "3 passed" in said, said


@pytest.mark.parametrize("fixture", ["own_journal", "memory_context", "epics_environment"])
def test_each_test_on_a_control_system_has_a_run_of_its_own(session: Session, fixture: str) -> None:
    said = session(
        "import pytest\n"
        "from badger_k2eg import run\n"
        "@pytest.mark.parametrize('number', [1, 2])\n"
        f"def test_run(number, {fixture}):\n"
        "    assert run.current() is None\n"
        "    run.begin({'what': 'test'})\n"
    )
    assert "2 passed" in said, said


def test_it_skips_where_softioc_is_missing_and_restores_the_environment(session: Session, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "import os\n"
        "def pytest_unconfigure(): print('LEFT', os.environ.get('EPICS_PVA_AUTO_ADDR_LIST'),"
        " os.environ.get('EPICS_CA_ADDR_LIST'))\n"
    )
    said = session(
        "import importlib.util, os, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'softioc' else find(name, *a)\n"
        "def test_ioc(soft_ioc): raise AssertionError\n"
        "def test_factory(soft_ioc_factory): soft_ioc_factory()\n"
        "def test_environment(epics_environment): assert os.environ['EPICS_PVA_AUTO_ADDR_LIST'] == 'NO'\n",
        EPICS_CA_ADDR_LIST="mine",
    )
    assert "1 passed, 2 skipped" in said, said
    assert "pip install badger-k2eg[test]" in said and "LEFT None mine" in said


def test_a_wrong_broker_ends_the_session_with_the_right_words(session: Session) -> None:
    said = session("def test_it(broker): pass\n", PYTEST_ADDOPTS="--k2eg-broker=kafak")
    assert "--k2eg-broker=kafak: choose embedded, or HOST:PORT of a broker that runs" in said
