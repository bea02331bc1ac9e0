"""Does Badger's window toolkit load, and is there a display for its window?"""

from __future__ import annotations

from collections.abc import Iterator

from ...badger_app.qt_check import display_problem, qt_problem
from . import Finding, Subject, bad, good, note


def check(subject: Subject) -> Iterator[Finding]:
    """Let Qt try."""
    if problem := qt_problem():
        # Badger itself loads Qt, also where it opens no window.
        yield bad("Qt", problem)
        return
    yield good("Qt", "loads")
    problem = display_problem()
    yield note("display", problem) if problem else good("display", "a window can be opened")
