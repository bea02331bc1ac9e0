"""Names and values that a terminal might eat go through every command on a journal, and nothing ends by one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from badger_k2eg.core.model import Outcome
from badger_k2eg.core.printable import printable, printable_lines
from badger_k2eg.core.records import Record
from badger_k2eg.journal import Journal, Query, annotate

from .recorded import K, answer, command

RUN = "20260101-120000-aaaa"
EATEN = [
    *("[/b]", "[red]x[/red]", "[/data/x]", ":smile:", "T38PG:FREE", "X:FREE:Y", "\x1b[31mred", "a\nb", "a\rb", "\x07"),
    *("\u202e", "{x}", "%s", "$x_1^2$", "<b>", "&amp;", r"a\b\[c", "#", "中文字", "\x9b31m", "a\u2028b"),
]
LONG = "x" * 5000


@pytest.fixture
def eaten(folder: Path) -> Path:
    """A run in which every name and every value is one of them."""
    journal = Journal(folder)
    begin = journal.write(Record(kind=K.RUN_BEGIN, run=RUN, name=EATEN[0], data={"environment": EATEN[1]})).start
    journal.write(*(Record(kind=K.BASELINE, run=RUN, pv=text, value=text, unit=text) for text in [*EATEN, LONG]))
    about = {"run": RUN, "evaluation": 1}
    start = journal.write(Record(kind=K.EVALUATION_BEGIN, **about)).start
    call = journal.write(Record(kind=K.SET_BEGIN, data={"setpoints": {t: t for t in EATEN}}, **about)).start
    puts = (
        Record(kind=K.PUT, pv=text, asked=text + "!", outcome=outcome, duration=0.1, message=text, **about)
        for number, text in enumerate(EATEN)
        for outcome in [Outcome.REFUSED if number % 2 else Outcome.APPLIED]
    )
    journal.write(*puts, Record(kind=K.SET_END, begin=call, message="; ".join(EATEN), **about))
    journal.write(*(Record(kind=K.READ, name=text, value=text, unit=text, **about) for text in [*EATEN, LONG]))
    journal.write(*(Record(kind=K.READ, name=f"n{text}", value=1.0, **about) for text in EATEN[:14]))
    journal.write(Record(kind=K.EVALUATION_END, begin=start, **about), Record(kind=K.BEST, **about))
    journal.write(*(Record(kind=K.EVENT, run=RUN, name=text, message=text) for text in EATEN))
    journal.write(Record(kind=K.RUN_END, run=RUN, begin=begin, name="success", message=EATEN[6]))
    run = journal.run(RUN)
    for text in EATEN:
        annotate.note(journal, run, text)
        annotate.tag(journal, run, text, text)
    journal.close()
    return folder


def shown(*words: str, code: int = 0) -> str:
    done = command(*words, code=code)
    assert printable_lines(done.output) == done.output
    return done.stdout


@pytest.mark.usefixtures("eaten")
def test_every_command_for_people_shows_every_name_and_value() -> None:
    seen = [printable(text) for text in EATEN]
    for words in (["runs", "show"], ["log", "show"], ["log", "query"], ["runs", "tag", RUN]):
        told = shown(*words)
        assert [text for text in seen if text not in told] == [], words
    # Tags have a column of their own in it, and are folded.
    told = "".join(re.sub("[│ ]", "", line)[-60:] for line in shown("runs", "list").splitlines())
    assert "T38PG:FREE=T38PG:FREE" in told.replace("\n", "")


@pytest.mark.usefixtures("eaten")
def test_a_line_is_one_line_whatever_is_in_it() -> None:
    count = len(command("log", "query", "--json").stdout.splitlines())
    assert len(shown("log", "query").splitlines()) == count


@pytest.mark.usefixtures("eaten")
def test_json_has_every_name_and_value_exactly() -> None:
    told = answer("runs", "show", RUN)
    # A key of one's own that begins with a $ has a second one in the JSON of a journal.
    keys = ["$" + text if text[0] == "$" else text for text in EATEN]
    assert list(told["baseline"]) == [*keys, LONG]
    assert [line["value"] for line in told["baseline"].values()] == [*EATEN, LONG]
    assert told["evaluations"][0]["asked"] == {key: text + "!" for key, text in zip(keys, EATEN, strict=True)}
    assert told["tags"] == dict(zip(keys, EATEN, strict=True))
    found = [json.loads(line) for line in command("log", "query", "--type", "read", "--json").stdout.splitlines()]
    assert [line["name"] for line in found][: len(EATEN)] == EATEN


@pytest.mark.usefixtures("eaten")
def test_the_others_go_through_as_well(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    begin = journal.write(Record(kind=K.RUN_BEGIN, run="second", data={"environment": "\x1b[2J"})).start
    journal.write(*(Record(kind=K.BASELINE, run="second", pv=text, value=0.5) for text in EATEN))
    journal.write(Record(kind=K.RUN_END, run="second", begin=begin, name="stopped"))
    journal.close()
    told = shown("runs", "diff", RUN, "second")
    assert [text for text in map(printable, EATEN) if text not in told] == []
    assert r"environment: [red]x[/red] -> \x1b[2J" in told
    shown("runs", "export", RUN)
    shown("runs", "verify", RUN)
    shown("runs", "verify", f"{RUN}.zip")
    pytest.importorskip("matplotlib")
    shown("runs", "plot", RUN, "--of", "n$x_1^2$", "--of", "n[/b]")
    for text in EATEN:
        shown("runs", "show", text or "x", code=0 if text == EATEN[0] else 2)
        shown("log", "query", "--pv", text)
        shown("runs", "list", "--tag", f"{text}", code=2 if set(text) & set("<>") else 0)
        shown("runs", "rename", RUN, text)
        assert printable(text) in shown("runs", "list")


def test_the_window_of_the_terminal_shows_them(eaten: Path) -> None:
    pytest.importorskip("textual", reason="pip install badger-k2eg[tui]")
    import asyncio

    from textual.widgets import DataTable, Static

    from badger_k2eg.cli.log_tui import LogWindow

    window = LogWindow(Journal(eaten), Query(kinds=(K.EVENT,)))

    async def go() -> None:
        async with window.run_test() as pilot:
            table = window.query_one(DataTable)
            for row, text in enumerate(EATEN):
                table.move_cursor(row=row)
                await pilot.pause()
                assert str(table.get_row_at(row)[4]) == f"{printable(text)}  {printable(text)}"
                assert json.loads(str(window.query_one("#details", Static).render()))["name"] == text
            await pilot.press("slash", *"[/b]", "enter")
            await pilot.pause()

    asyncio.run(go())
