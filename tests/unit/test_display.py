"""The lists of the system's libraries, and what is said where one is missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from badger_k2eg.badger_app import qt_check

CLONE = Path(__file__).parents[2]


def test_the_makefile_names_the_same_libraries() -> None:
    makefile = (CLONE / "Makefile").read_text().replace("\\\n", " ")
    for name, libraries in (("SYSTEM_LIBS", qt_check.QT_LIBRARIES), ("WINDOW_LIBS", qt_check.WINDOW_LIBRARIES)):
        (line,) = re.findall(rf"^{name} := (.*)$", makefile, re.MULTILINE)
        assert dict(pair.split("=") for pair in line.split()) == libraries


def test_a_missing_library_is_told_by_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qt_check, "_ASK", {"libraries": "raise ImportError('libGL.so.1: cannot open')"})
    monkeypatch.setattr(qt_check, "QT_LIBRARIES", {"libno-such-thing.so.9": "libno-such-thing9", "libc.so.6": "libc6"})
    assert qt_check.qt_problem() == (
        "Badger's window toolkit Qt needs system libraries that are missing; on Debian: apt install libno-such-thing9"
    )


def test_another_reason_is_told_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qt_check, "_ASK", {"libraries": "import no_such_qt"})
    monkeypatch.setattr(qt_check, "QT_LIBRARIES", {})
    problem = qt_check.qt_problem()
    assert problem is not None and problem.endswith("ModuleNotFoundError: No module named 'no_such_qt'")


def test_without_a_display_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(qt_check, "_ASK", {})
    problem = qt_check.display_problem()
    assert problem is not None and "DISPLAY is not set" in problem
