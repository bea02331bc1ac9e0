"""The suite where something is not installed: what needs it is skipped with the line that says what to install."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("badger", reason="pip install 'badger-k2eg[badger]'")

ROOT = Path(__file__).parents[2]
Suite = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """Gives a function that runs pytest without Xvfb, Java and Maven; and, with no ``qt``, without Qt's libraries."""
    nothing, no_qt = tmp_path / "bin", tmp_path / "no-qt"
    nothing.mkdir()
    (no_qt / "PyQt5").mkdir(parents=True)
    said = "libGL.so.1: cannot open shared object file: No such file or directory"
    (no_qt / "PyQt5" / "__init__.py").write_text(f"raise ImportError({said!r})\n")

    def run(*words: str, qt: bool = False) -> subprocess.CompletedProcess[str]:
        path = [str(ROOT)] if qt else [str(no_qt), str(ROOT)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'own'}", *words],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**environment, "PATH": str(nothing), "PYTHONPATH": os.pathsep.join(path), "COLUMNS": "1000"},
            timeout=150,
        )

    return run


def skipped(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]


@pytest.mark.timeout(300)
def test_everything_is_collected(suite: Suite) -> None:
    done = suite("--collect-only")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "tests/unit/test_lock.py::" in done.stdout and "tests/badger/" not in done.stdout.split("SKIPPED")[0]
    (line,) = skipped(done)
    assert "libGL.so.1: cannot open" in line and "apt install libgl1 " in line


@pytest.mark.timeout(300)
def test_badgers_tests_are_skipped_in_one_line(suite: Suite) -> None:
    done = suite("tests/badger/test_headless.py", "tests/gui", "tests/system/test_readme.py::test_python_blocks_run")
    assert done.returncode in (0, 5), done.stdout[-3000:]
    assert all("apt install libgl1 " in line for line in skipped(done)) and skipped(done)
    assert not {"passed", "failed", "error"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        pytest.param(["tests/gui/test_window.py"], "apt install xvfb", marks=pytest.mark.badger),
        (["tests/system/test_kafka_group.py", "--k2eg-broker=kafka"], "apt install maven"),
    ],
    ids=["no Xvfb", "no Java"],
)
def test_a_program_that_is_not_here(suite: Suite, words: list[str], says: str) -> None:
    done = suite(*words, qt=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert all(says in line for line in skipped(done)) and skipped(done)
    assert not {"passed", "failed", "error"} & set(done.stdout.split())
    required = suite(*words, "--require-parts", qt=True)
    assert required.returncode == 1 and "skipped" not in required.stdout.splitlines()[-1]
    assert says in required.stdout and "--require-parts: " in required.stdout
