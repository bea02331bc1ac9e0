"""Tests that are not made, because what they ask for cannot be had here: the end of the session says how many.

With workers it is they who know.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

_OWN = pytest.StashKey[Counter[str]]()
_TOLD = pytest.StashKey[dict[str, int]]()


def leave_out(config: pytest.Config, what: str) -> None:
    """Count a test that is not made."""
    config.stash.setdefault(_OWN, Counter())[what] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (told := getattr(session.config, "workeroutput", None)) is not None:
        told["left out"] = dict(session.config.stash.get(_OWN, Counter()))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    if (told := getattr(node, "workeroutput", {}).get("left out")) is not None:
        node.config.stash[_TOLD] = told


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    counts = config.stash.get(_TOLD, None) or config.stash.get(_OWN, Counter())
    if counts:
        terminalreporter.section("tests that are not made")
    for what, count in sorted(counts.items()):
        terminalreporter.line(f"{count}: {what}")
