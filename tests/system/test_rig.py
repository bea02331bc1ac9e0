"""The rig of the suite: tests that measure time run alone at the end, and count in the one summary."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig.pace import pace
from tests.rig.waiting import eventually

ROOT = Path(__file__).parents[2]
SUITE = """
import os, pathlib, pytest, time
PLACE = pathlib.Path(__file__).parent
def worker(): return os.environ.get("PYTEST_XDIST_WORKER")

@pytest.mark.timing
def test_alone():
    assert worker() is None
    assert len(list(PLACE.glob("done-*"))) == 4, "all others have ended"

@pytest.mark.timing
@pytest.mark.parametrize("name", ["a::b", "c[d]"])
def test_alone_and_failing(name): assert name == "a::b"

@pytest.mark.parametrize("kind", ["memory", "pva"])
@pytest.mark.parametrize("number", [1, 2])
def test_other(number, kind):
    (PLACE / f"done-{kind}-{number}").write_text(worker())
"""


def session(folder: Path, suite: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text('pytest_plugins = ["tests.rig.sharing"]\n')
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = timing\n")
    (folder / "test_it.py").write_text(suite)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        timeout=150,
    )


def test_those_that_measure_time_run_alone_and_last(tmp_path: Path) -> None:
    done = session(tmp_path, SUITE)
    assert done.returncode == 1 and "1 failed, 6 passed in" in done.stdout.splitlines()[-1], done.stdout + done.stderr
    assert "3 tests that measure time, one after the other" in done.stdout
    # One worker for a kind of machine.
    for kind in ("memory", "pva"):
        assert len({file.read_text() for file in tmp_path.glob(f"done-{kind}-*")}) == 1


def test_a_worker_that_dies_costs_the_test_in_which_it_died(tmp_path: Path) -> None:
    done = session(
        tmp_path,
        "import os, pytest\n"
        "@pytest.mark.parametrize('number', range(5))\n"
        "def test(number):\n"
        "    if number == 2: os._exit(1)\n",
    )
    assert done.returncode == 1 and "1 failed, 4 passed in" in done.stdout.splitlines()[-1], done.stdout + done.stderr
    assert "crashed while running 'test_it.py::test[2]'" in done.stdout


def test_waiting_gives_the_answer_or_says_what_was_waited_for() -> None:
    answers = iter([0, 1, 2, 3])
    assert eventually(lambda: next(answers)) == 1
    assert eventually(lambda: next(answers), good=lambda answer: answer > 2) == 3
    with pytest.raises(AssertionError, match=r"the beam: still 'off', not 'on', after 0\.0 s"):
        eventually(lambda: "off", "on", 0.0, what="the beam")


def test_the_pace_is_never_faster_than_at_rest() -> None:
    assert 1.0 <= pace() < 1000.0
