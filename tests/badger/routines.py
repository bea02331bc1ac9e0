"""Routines, and the machines that they are run on: the demo's as FIRST, real or in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from badger_k2eg.backends.memory import MemoryBackend

CLONE = Path(__file__).resolve().parents[2]
SETPOINTS = ["FIRST:COR:1:SP", "FIRST:COR:2:SP"]
START = dict(zip(SETPOINTS, (-0.5, 0.75), strict=True))
POINTS = [{"x0": -0.6, "x1": 0.8}, {"x0": 0.0, "x1": 0.8}, {"x0": -0.6, "x1": 0.2}]

#: pv_template, but every step takes a while, and one of them fails on demand.
SLOW_STEPS = """
import time

from environments.pv_template import Environment as PvTemplate


class Environment(PvTemplate):
    name = "slow_steps"
    variables = dict(PvTemplate.variables)
    observables = ["f"]

    pause: float = 0.0
    fails_above: float = 9.0

    def set_variables(self, variable_inputs):
        time.sleep(self.pause)
        if variable_inputs["x0"] > self.fails_above:
            raise RuntimeError("the cooling water is off")
        super().set_variables(variable_inputs)
"""


def content(**changes: Any) -> dict[str, Any]:
    """A routine as somebody writes it; None takes a key out."""
    routine = {
        "name": "by hand",
        "environment": {"name": "pv_template"},
        "generator": {"name": "neldermead"},
        "vocs": {"variables": {"x0": [-2, 2], "x1": [-2, 2]}, "objectives": {"f": "MINIMIZE"}},
        "initial_points": POINTS,
        **changes,
    }
    return {key: value for key, value in routine.items() if value is not None}


def written(folder: Path, **changes: Any) -> Path:
    file = folder / "routine.yaml"
    file.write_text(yaml.safe_dump(content(**changes)))
    return file


#: For a program that a test starts: on a busy machine a PV may need more than the usual three seconds to answer.
PATIENT = {"BADGER_K2EG_TIMEOUT": "20"}


def command(*words: str | Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "badger_k2eg.cli", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **PATIENT, **environment},
        stdin=subprocess.DEVNULL,
        timeout=150,
    )


def archives(output: Path) -> list[Path]:
    return sorted((output / "archive").rglob("*.yaml"))


def rows(archive: Path) -> int:
    return len(yaml.safe_load(archive.read_text())["data"]["f"])


def vocs(**changes: Any) -> dict[str, Any]:
    return {**content()["vocs"], **changes}


def headless(memory: MemoryBackend, folder: Path, routine: dict[str, Any] | None = None, **options: Any) -> Any:
    from badger_k2eg.badger_app.headless import HeadlessRun, load_routine

    return HeadlessRun(load_routine(written(folder, **(routine or {})), context=memory), **options)
