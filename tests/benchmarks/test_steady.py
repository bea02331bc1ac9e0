"""Ten thousand sets leave a process as it was: memory, threads, open files."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from .board import ROOT, Board, Figure

if TYPE_CHECKING:
    from badger_k2eg.testing.soft_ioc import SoftIoc

TARGET_KB = 2048
LOOKS = 10


def test_many_sets(board: Board, soft_ioc: SoftIoc) -> None:
    pytest.importorskip("psutil")
    sets = 300 if board.short else 10_000
    numbers = ["--warm-up", str(100 if board.short else 1000), "--sets", str(sets), "--looks", str(LOOKS)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.many_sets", soft_ioc.prefix, *numbers],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    for key, what, unit, target in (
        ("resident_kB", "resident memory, growth", "kB", TARGET_KB),
        ("threads", "threads, growth", "", 0),
        ("files", "open files, growth", "", 0),
    ):
        series = [each[key] for each in seen]
        # Three looks each, because memory comes from the system in lumps.
        begin, end = statistics.median(series[:3]), statistics.median(series[-3:])
        board.add(
            Figure(
                group=f"{sets} parallel sets of 4 PVs, 2 of them validated",
                what=what,
                ours=end - begin,
                unit=unit,
                against="after the warm-up",
                theirs=begin,
                target=target,
                samples=len(series),
                more={"series": series},
            )
        )
