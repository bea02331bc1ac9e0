"""A journal and locks of the test's own, and a clock of its own: no delay or timeout of ours takes any time."""

from __future__ import annotations

from pathlib import Path

import pytest

from badger_k2eg.journal import Journal


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real_time(why): goes by the machine's clock (tests/unit)")


@pytest.fixture(autouse=True)
def _by_a_virtual_clock(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("real_time") is None:
        request.getfixturevalue("virtual_clock")


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """Give the journal to which every run in this test writes."""
    monkeypatch.setenv("BADGER_K2EG_JOURNAL_DIR", str(tmp_path / "journal"))
    monkeypatch.setenv("BADGER_K2EG_LOCK_DIR", str(tmp_path / "locks"))
    return Journal.open()
