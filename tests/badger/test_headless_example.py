"""``examples/headless.py`` as a user runs it, on the machine for which it was written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from badger_k2eg.testing.soft_ioc import Part
from interfaces.epics_pva import Interface

CLONE = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
def test_the_example_tunes_the_demos_machine(first_ioc: Part, tmp_path: Path) -> None:
    machine = Interface()
    machine.set_values({"FIRST:COR:1:SP": -0.6, "FIRST:COR:2:SP": 0.8})
    done = subprocess.run(
        [sys.executable, CLONE / "examples" / "headless.py"], capture_output=True, text=True, cwd=tmp_path, timeout=150
    )
    assert done.returncode == 0, done.stderr
    *evaluations, last = done.stdout.splitlines()
    sizes = [float(re.findall(r"'f': ([\d.]+)", line)[0]) for line in evaluations]
    assert len(sizes) == 15 or sizes[-1] <= 0.12
    assert [int(line.split()[0]) for line in evaluations] == list(range(1, len(sizes) + 1))
    assert min(sizes) < sizes[0] / 2
    # It leaves the machine at the best point, and the archive where it says.
    assert machine.get_value("FIRST:BEAM:SIZE") == pytest.approx(min(sizes), abs=0.01)
    assert (tmp_path / last.rpartition("; ")[2]).is_file()


def test_it_is_as_short_as_it_says() -> None:
    text = (CLONE / "examples" / "headless.py").read_text(encoding="utf-8")
    body = text.partition("def main")[2].partition("if __name__")[0].splitlines()[2:]
    assert len([line for line in body if line.strip()]) == 5
