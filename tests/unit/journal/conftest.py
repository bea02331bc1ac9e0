"""A journal in a temporary folder, and a run in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from badger_k2eg.core.model import Outcome
from badger_k2eg.core.records import Record, RecordKind
from badger_k2eg.journal import Journal, JournalSettings

K = RecordKind


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def open_journal(folder: Path) -> Iterator[Callable[..., Journal]]:
    made: list[Journal] = []

    def make(**settings: Any) -> Journal:
        made.append(Journal(folder, JournalSettings(**settings)))
        return made[-1]

    yield make
    for journal in made:
        journal.close()


@pytest.fixture
def journal(open_journal: Callable[..., Journal]) -> Journal:
    return open_journal()


def put(run: str, evaluation: int, pv: str, asked: Any, outcome: Outcome = Outcome.APPLIED, **more: Any) -> Record:
    return Record(kind=K.PUT, run=run, evaluation=evaluation, pv=pv, asked=asked, outcome=outcome, attempt=1, **more)


@pytest.fixture
def record_run(journal: Journal) -> Callable[..., str]:
    """Write a small run: two PVs, so many evaluations; the second PV fails in the last one."""

    def write(
        run: str, evaluations: int = 3, *, end: str | None = "success", pvs: tuple[str, str] = ("Q:1", "Q:2")
    ) -> str:
        begin = journal.write(
            Record(kind=K.RUN_BEGIN, run=run, name="morning", data={"environment": "demo"}), required=True
        ).start
        journal.write(*(Record(kind=K.BASELINE, run=run, pv=pv, value=0.5, unit="kG") for pv in pvs))
        for number in range(1, evaluations + 1):
            start = journal.write(Record(kind=K.EVALUATION_BEGIN, run=run, evaluation=number)).start
            last = number == evaluations
            asked = dict.fromkeys(pvs, number + 0.25)
            call = journal.write(Record(kind=K.SET_BEGIN, run=run, evaluation=number, data={"setpoints": asked})).start
            journal.write(
                put(run, number, pvs[0], asked[pvs[0]], duration=0.1 * number),
                put(run, number, pvs[1], asked[pvs[1]], Outcome.REFUSED if last else Outcome.APPLIED, duration=0.01),
                Record(kind=K.SET_END, run=run, evaluation=number, begin=call),
                Record(kind=K.READ, run=run, evaluation=number, pv="BEAM", value=10.0 / number, unit="um"),
            )
            journal.write(Record(kind=K.EVALUATION_END, run=run, evaluation=number, begin=start), sync=True)
        if end is not None:
            journal.write(Record(kind=K.RUN_END, run=run, begin=begin, name=end), sync=True)
        return run

    return write
