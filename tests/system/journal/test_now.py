"""``runs diff RUN now``: a run against a real machine, which is only read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from badger_k2eg.control import Control, connect
from badger_k2eg.core.model import Outcome
from badger_k2eg.core.records import Record
from badger_k2eg.journal import Journal

from .recorded import K, answer, command

if TYPE_CHECKING:
    from badger_k2eg.testing.soft_ioc import SoftIoc


def test_what_the_machine_has_now_beside_what_a_run_left(
    soft_ioc: SoftIoc, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved, same, gone = soft_ioc.pv("SP:000"), soft_ioc.pv("SP:001"), soft_ioc.pv("NOBODY")
    control = Control(connect("pva"))
    control.set({moved: 1.0, same: 1.0})
    before = control.read([moved, same])
    journal = Journal(folder)
    begin = journal.write(Record(kind=K.RUN_BEGIN, run="r", data={"way": "pva"})).start
    for pv in (moved, same, gone):
        journal.write(Record(kind=K.BASELINE, run="r", pv=pv, value=0.0, unit="A"))
        journal.write(Record(kind=K.PUT, run="r", pv=pv, asked=1.0, outcome=Outcome.APPLIED))
    journal.write(Record(kind=K.RUN_END, run="r", begin=begin, name="success"))
    journal.close()
    control.set({moved: 1.5})
    monkeypatch.setenv("BADGER_K2EG_TIMEOUT", "1")
    found = answer("runs", "diff", "r", "now")
    assert [found["left"], found["right"]] == ["r (end)", "now"]
    rows = {row["pv"]: row for row in found["setpoints"]}
    assert set(rows) == {moved, gone}
    assert rows[moved] == {"pv": moved, "unit": "A", "left": 1.0, "right": 1.5, "difference": 0.5}
    assert rows[gone]["difference"] is None and "nobody serves it" in rows[gone]["right"]
    assert "+0.5" in command("runs", "diff", "r", "now").stdout
    assert [reading.value for reading in control.read([same]).values()] == [before[same].value]
    control.close()
    control.backend.close()
