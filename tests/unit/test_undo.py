"""What the end of a run puts back, and what it leaves."""

from __future__ import annotations

import pytest

from badger_k2eg import run
from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control import Control
from badger_k2eg.core.model import Severity
from badger_k2eg.core.settings import parse, resolve
from badger_k2eg.run.restore_plan import Fate


@pytest.mark.usefixtures("journal")
def test_the_end_of_a_run_leaves_alone_what_never_was_a_value() -> None:
    memory = MemoryBackend({"A": 1.0})
    memory.add("NEW", 0.0, severity=Severity.INVALID, message="UDF")
    tied = run.Attachment().attach(Control(memory, resolve([parse({"timeout": 0.3}, str)])))
    tied.set({"A": 5.0, "NEW": 7.0})
    ours = run.current()
    assert ours is not None
    assert {step.pv: step.fate for step in ours.restore()} == {"A": Fate.RESTORED, "NEW": Fate.UNREADABLE}
    assert (memory.value("A"), memory.value("NEW")) == (1.0, 7.0)
    run.end()
    memory.close()
