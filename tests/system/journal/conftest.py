"""A journal with two runs in it, which is the one of the commands too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from badger_k2eg.journal import Journal

from .recorded import FIRST, SECOND, record_run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BADGER_K2EG_JOURNAL_DIR", str(tmp_path / "journal"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "journal"


@pytest.fixture
def journal(folder: Path) -> Iterator[Journal]:
    journal = Journal(folder)
    record_run(journal, FIRST, 3)
    record_run(journal, SECOND, 4, offset=0.25, end="stopped")
    yield journal
    journal.close()
