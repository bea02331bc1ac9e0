"""``badger-k2eg log``: what a user types, and what comes; and how wrong words end, of ``runs`` too."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from badger_k2eg.core.model import Outcome
from badger_k2eg.core.records import Record
from badger_k2eg.journal import Journal, JournalSettings, Query
from badger_k2eg.journal.segments import listed

from .recorded import FIRST, SECOND, K, answer, command, lines, record_run

# -- log -------------------------------------------------------------------------------------------------------------


def test_show_prints_a_run_and_one_evaluations_whole_story(journal: Journal) -> None:
    shown = command("log", "show", FIRST).output
    assert shown.startswith(f"run {FIRST}\nsuccess, lines 2 to ")
    assert len(re.findall(r" put +#\d  Q:[12] = -?\d", shown)) == 6
    assert "Q:2 = -3  REFUSED  10.0 ms" in shown
    story = lines("log", "show", FIRST, "--eval", "2")
    assert [line["kind"] for line in story] == [
        "evaluation.begin", "set.begin", "put", "put", "set.end", "read", "evaluation.end",
    ]  # fmt: skip
    assert {line["evaluation"] for line in story} == {2}
    assert [line["kind"] for line in lines("log", "show", FIRST, "--eval", "2", "--operator")].count("read") == 0
    said = command("log", "show", FIRST, "--eval", "9", code=2).output
    assert said == f"badger-k2eg: run {FIRST} has no evaluation 9; it has 1 to 3\n"


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (("--pv", "Q:1"), 9),
        (("--pv", "Q:*", "--run", "last"), 10),
        (("--run", FIRST, "--eval", "2", "--type", "put"), 2),
        (("--outcome", "refused"), 2),
        (("--outcome", "refused", "--outcome", "applied"), 14),
        (("--level", "warning"), 2),
        (("--type", "evaluation", "--run", "last"), 8),
        (("--type", "read"), 7),
        (("--type", "read", "--operator"), 0),
        (("--lines", "3:5"), 2),
        (("--lines", "3"), 1),
        (("--lines", ":4"), 3),
        (("--since", "1h", "--until", "now", "--type", "run.begin"), 2),
        (("--until", "yesterday"), 0),
        pytest.param(("--process", str(os.getpid()), "--type", "run.end"), 2, id="--process of this one"),
        (("--limit", "4"), 4),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_query_by_everything_that_is_known_of_a_line(journal: Journal, words: tuple[str, ...], count: int) -> None:
    assert len(lines("log", "query", *words)) == count
    text = command("log", "query", *words)
    assert len(text.stdout.splitlines()) == count
    assert (text.stderr == "no line\n") is (count == 0)


def test_excluded_types_and_the_newest_first(journal: Journal) -> None:
    found = lines("log", "query", "--exclude", "put", "--exclude", "set", "--exclude", "read", "--newest")
    assert {line["kind"] for line in found}.isdisjoint({"put", "set.begin", "set.end", "read"})
    numbers = [line["line"] for line in found]
    assert numbers == sorted(numbers, reverse=True) and found[0]["kind"] == "run.end"
    assert {"v", "crc"}.isdisjoint(found[0])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("log", "query", "--outcome", "aplied"), "there is no outcome 'aplied'; did you mean 'applied'?"),
        (("log", "query", "--type", "puts"), "there is no kind of line 'puts'; did you mean 'put'?"),
        (("log", "query", "--exclude", "smaple"), "there is no kind of line 'smaple'; did you mean 'sample'?"),
        (("log", "query", "--level", "warn"), "there is no level 'warn'; did you mean 'warning'?"),
        (("log", "query", "--pv", "Q:7"), "no line of the journal has the PV 'Q:7'; did you mean 'Q:"),
        (("log", "query", "--host", "mars"), "no line of the journal has the host 'mars'"),
        (("log", "query", "--since", "soon"), "'soon' is not a time; write 2026-11-21 12:00,"),
        (("log", "query", "--lines", "a:b"), "--lines a:b: write A:B, A: or :B, with numbers of lines"),
        (("log", "query", "--run", "2026"), f"'2026' matches 2 runs: {FIRST}, {SECOND}"),
        (("log", "show", "2027"), f"there is no run '2027'; the newest is {SECOND}"),
        (("log", "mark", "end", "shot"), "no mark 'shot' is open; open ones are none"),
        (("runs", "list", "--state", "succes"), "there is no state 'succes'; did you mean 'success'?"),
        (("runs", "list", "--tag", "charge>lots"), "'charge>lots': the range of a tag needs numbers"),
        (("runs", "tag", "last", "charge"), "'charge' is not NAME=VALUE"),
        (("runs", "note", "last", " "), "a note without words"),
        (("runs", "rename", "last", "2026"), "'2026' would be taken for the id of a run"),
        (("runs", "plot", "last", "--of", "colour"), f"run {SECOND} has no reading 'colour'; it has size"),
        (("runs", "diff", "last", FIRST, "--at", "noon"), "--at noon: write start, best, end, or the number"),
        (("runs", "show", "last", "--journal", "/nowhere"), "/nowhere: there is no such directory"),
        (("log", "browse"), "there is no terminal to take keys from; log query prints lines"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_a_wrong_word_is_one_line_and_exit_code_2(journal: Journal, words: tuple[str, ...], said: str) -> None:
    done = command(*words, code=2)
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert said in done.stderr


def test_an_empty_journal_is_said_in_a_line(folder: Path) -> None:
    assert answer("runs", "list") == []
    assert command("runs", "list").stderr == f"no run in {folder}\n"
    assert command("log", "query").stderr == "no line\n"
    assert "there is no run 'last': the journal has no run yet" in command("log", "show", code=2).stderr


def test_marks_reindex_archive(journal: Journal, folder: Path, tmp_path: Path) -> None:
    start = answer("log", "mark", "begin", "fault")["start"]
    ended = answer("log", "mark", "end", "fault")
    assert ended == {"name": "fault", "start": start, "end": start + 2}
    count = answer("log", "reindex")["lines"]
    assert count == start + 1 and (folder / "index.sqlite3").is_file()
    moved = answer("log", "archive", "--to", str(tmp_path / "2026"))
    assert moved["archive"] == str(tmp_path / "2026") and len(moved["segments"]) == 1
    assert answer("runs", "list") == []
    assert [run["run"] for run in answer("runs", "list", "--journal", str(tmp_path / "2026"))] == [FIRST, SECOND]
    assert lines("log", "query")[-1]["line"] == count + 2


def test_while_a_run_goes_on_it_is_not_torn_apart(journal: Journal) -> None:
    record_run(journal, "20260103-now", 1, end=None)
    done = command("log", "archive", code=1)
    assert "run 20260103-now is still going: archive after its end" in done.stderr
    assert "segments moved" in command("log", "archive", "--force").stdout


@pytest.mark.slow
def test_follow_begins_before_the_first_run_and_survives_rotation(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "badger_k2eg.cli", "log", "follow", "--type", "note", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    journal = Journal(folder, JournalSettings(segment_size=400))
    try:
        time.sleep(2.0)
        for number in range(6):
            journal.write(Record(kind=K.NOTE, message=f"note {number} {'x' * 200}"))
        assert process.stdout is not None
        found = [json.loads(process.stdout.readline())["message"][:6] for _ in range(6)]
        assert found == [f"note {number}" for number in range(6)]
        assert len(listed(folder)) > 3
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
        assert (process.returncode, error) == (0, "")
    finally:
        process.kill()
        process.communicate()
        journal.close()


@pytest.mark.slow
def test_browse_in_a_terminal(journal: Journal) -> None:
    """The keys, in a real terminal: next event twice, search, a line, the end."""
    code = "from badger_k2eg.cli import main; main()"
    keys = [b"]", b"]", b"/", b"refused\n", b":", b"3\n", b"G", b"?", b"q"]
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(Path(__file__).parents[3])
        os.execve(sys.executable, [sys.executable, "-c", code, "log", "browse"], {**os.environ, "COLUMNS": "150"})
    said = b""
    try:
        for key in [*keys, b""]:
            said += _until_quiet(terminal)
            os.write(terminal, key)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(terminal)
    pages = re.findall(rb"-- lines (\d+) to (\d+) --", said)
    events = [event.start for event in journal.events(("run", "evaluation"))]
    refused = next(journal.records(Query(outcomes=(Outcome.REFUSED,)))).line
    last = max(record.line for record in journal.records())
    firsts = [int(first) for first, _ in pages]
    assert firsts[:5] == [1, events[0], events[1], refused, 3], said.decode()
    assert int(pages[5][1]) == last
    assert b"space next" in said.split(b"\n")[-2]


def _until_quiet(terminal: int) -> bytes:
    said, patience = b"", 10.0
    while select.select([terminal], [], [], patience)[0]:
        try:
            block = os.read(terminal, 65536)
        except OSError:  # closed
            break
        if not block:
            break
        said, patience = said + block, 0.3
    return said


def test_tui_shows_filters_and_jumps(journal: Journal) -> None:
    pytest.importorskip("textual", reason="pip install badger-k2eg[tui]")
    import asyncio

    from textual.widgets import DataTable, Input, Static

    from badger_k2eg.cli.log_tui import LogWindow

    window = LogWindow(journal, Query())

    def numbers() -> list[int]:
        table = window.query_one(DataTable)
        return [int(table.get_row_at(row)[1]) for row in range(table.row_count)]

    async def go() -> None:
        async with window.run_test() as pilot:
            every = [record.line for record in journal.records()]
            assert numbers() == every
            await pilot.press("right_square_bracket")
            assert numbers()[0] == journal.events(("run",))[0].start
            await pilot.press("g", "o")
            assert len(numbers()) == len(every) - 7, "seven single readings are hidden"
            await pilot.press("slash", *"Q:2", "enter")
            await pilot.pause()
            assert window.query_one(Input).value == "Q:2"
            assert numbers() == [r.line for r in journal.records(Query(pvs=("Q:2",)))]
            table = window.query_one(DataTable)
            assert all(str(table.get_row_at(row)[4]).startswith("Q:2 ") for row in range(table.row_count))
            await pilot.press("down")
            await pilot.pause()
            assert '"pv": "Q:2"' in str(window.query_one("#details", Static).render())
            await pilot.press("q")

    asyncio.run(go())
