"""Tests that need what may not be here (Qt's libraries, Xvfb, Java) are skipped, with one line saying what to install.

With --require-parts, which CI gives, such a skip is a failure. A skip is one of these if its reason says what to
install: `apt install ...` or `pip install ...`.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

_TESTS = Path(__file__).parents[1]
#: Their modules import Badger, or start what does.
_BADGERS = (_TESTS / "badger", _TESTS / "gui")
_SAYS_WHAT_TO_INSTALL = re.compile(r"\b(apt|pip) install\b")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-parts",
        action="store_true",
        help="a test that is skipped because something is not installed here fails",
    )


@functools.cache
def badger_problem() -> str | None:
    """Say in one line why Badger cannot be imported here; None where it can."""
    if importlib.util.find_spec("badger") is None:
        return "there is no Badger: pip install 'badger-k2eg[badger]'"
    from badger_k2eg.badger_app.qt_check import QT_LIBRARIES, qt_problem

    if (problem := qt_problem()) is None or _SAYS_WHAT_TO_INSTALL.search(problem):
        return problem
    return f"{problem}; on Debian: apt install {' '.join(QT_LIBRARIES.values())}"


class _NotImported(pytest.Module):
    """A file of tests whose imports would fail."""

    def collect(self) -> Any:
        pytest.skip(str(badger_problem()), allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> Any:
    if any(module_path.is_relative_to(folder) for folder in _BADGERS) and badger_problem():
        return _NotImported.from_parent(parent, path=module_path)
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("badger") and (problem := badger_problem()):
        pytest.skip(problem)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    return _judged(collector.config, (yield))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    return _judged(item.config, (yield))


def _judged(config: pytest.Config, report: Any) -> Any:
    """Let a report of a test that lacks something say `failed`, if nothing may be lacking."""
    if config.getoption("--require-parts") and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if _SAYS_WHAT_TO_INSTALL.search(reason):
            report.outcome = "failed"
            report.longrepr = f"--require-parts: {reason}"
    return report
