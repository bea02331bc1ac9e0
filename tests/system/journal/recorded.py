"""A run as an interface records it, and the commands that look into a journal."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from badger_k2eg.cli import main
from badger_k2eg.core.model import Outcome
from badger_k2eg.core.records import Record, RecordKind
from badger_k2eg.journal import Journal

K = RecordKind
FIRST, SECOND = "20260101-120000-aaaa", "20260102-120000-bbbb"


def record_run(
    journal: Journal, run: str, evaluations: int, *, offset: float = 0.0, end: str | None = "success"
) -> None:
    begin = journal.write(Record(kind=K.RUN_BEGIN, run=run, data={"environment": "demo", "way": "pva"})).start
    journal.write(*(Record(kind=K.BASELINE, run=run, pv=pv, value=0.5, unit="kG") for pv in ("Q:1", "Q:2")))
    for number in range(1, evaluations + 1):
        about: dict[str, Any] = {"run": run, "evaluation": number}
        asked = {"Q:1": number + offset, "Q:2": -number + offset}
        start = journal.write(Record(kind=K.EVALUATION_BEGIN, **about)).start
        call = journal.write(Record(kind=K.SET_BEGIN, data={"setpoints": asked}, **about)).start
        for pv, value in asked.items():
            refused = pv == "Q:2" and number == evaluations
            outcome = Outcome.REFUSED if refused else Outcome.APPLIED
            seconds = 0.1 * number if pv == "Q:1" else 0.01
            journal.write(Record(kind=K.PUT, pv=pv, asked=value, outcome=outcome, duration=seconds, **about))
        journal.write(
            Record(kind=K.SET_END, begin=call, **about),
            Record(kind=K.READ, name="size", value=10.0 / number, unit="um", **about),
            Record(kind=K.EVALUATION_END, begin=start, **about),
        )
    if evaluations:
        journal.write(Record(kind=K.BEST, run=run, evaluation=evaluations))
    if end is not None:
        journal.write(Record(kind=K.RUN_END, run=run, begin=begin, name=end))


def command(*words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(main, words, prog_name="badger-k2eg")
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return done


def answer(*words: str) -> Any:
    return json.loads(command(*words, "--json").stdout)


def lines(*words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in command(*words, "--json").stdout.splitlines()]
