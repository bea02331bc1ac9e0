"""What a start costs: importing the plugin in a new process, and making an interface."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from .board import ROOT, Board, Figure
from .rounds import take_turns

CONSTRUCTION_TARGET_MS = 50.0
"""Row P1."""

_MEASURE = "import time; began = time.perf_counter(); {}; print(time.perf_counter() - began)"


def has(module: str) -> bool:
    """Whether a module can be found; imports only the packages above it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def python(code: str) -> Callable[[], str]:
    """Give a function that runs code in a new interpreter, at the top of the clone."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("EPICS_", "BADGER_"))}
    # Coverage and the like would start with the interpreter, and be measured too.
    environment = {name: text for name, text in environment.items() if not name.startswith("COV_")}

    def run() -> str:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_import(board: Board) -> None:
    """Whole processes, from start to end: what a user waits for."""
    codes = {
        "empty": "pass",
        "control": "import badger_k2eg.control",
        "p4p": "import p4p.client.thread",
        "pva": "import badger_k2eg.control, badger_k2eg.backends.pva",
        "badger": "import badger.interface",
        "numpy": "import badger.interface, numpy",
        "plugin": "import interfaces.epics_pva",
    }
    if not (has("badger") and (ROOT / "interfaces" / "epics_pva").is_dir()):
        for name in ("badger", "numpy", "plugin"):
            del codes[name]
    taken = take_turns(
        {name: python(code) for name, code in codes.items()}, rounds=2 if board.short else 21, warm_up=not board.short
    )
    pairs = [
        ("control", "empty", "import badger_k2eg.control", "an empty interpreter"),
        ("pva", "p4p", "import badger_k2eg.control, ….backends.pva", "import p4p.client.thread"),
        ("plugin", "empty", "import interfaces.epics_pva", "an empty interpreter"),
        ("plugin", "badger", "import interfaces.epics_pva", "import badger.interface"),
        ("plugin", "numpy", "import interfaces.epics_pva", "import badger.interface, numpy"),
    ]
    for name, other, what, against in pairs:
        if name not in taken:
            continue
        board.add(
            Figure(
                group="cold process",
                what=what,
                ours=taken[name].median * 1e3,
                unit="ms",
                against=against,
                theirs=taken[other].median * 1e3,
                ratio=taken[name].over(taken[other]),
                samples=len(taken[name].seconds),
                more={"least": taken[name].least * 1e3, "least_other": taken[other].least * 1e3},
            )
        )


def test_construction(board: Board) -> None:
    """``Interface()`` in a new process each: the first one, which finds nothing prepared."""
    if not (has("badger") and (ROOT / "interfaces" / "epics_pva").is_dir()):
        pytest.skip("needs interfaces/epics_pva and the extra badger")
    measure = python("from interfaces.epics_pva import Interface; " + _MEASURE.format("Interface()"))
    milliseconds = sorted(float(measure()) * 1e3 for _ in range(3 if board.short else 15))
    board.add(
        Figure(
            group="cold process",
            what="Interface(), the first one",
            ours=milliseconds[len(milliseconds) // 2],
            unit="ms",
            target=CONSTRUCTION_TARGET_MS,
            samples=len(milliseconds),
            more={"least": milliseconds[0], "most": milliseconds[-1]},
        )
    )
