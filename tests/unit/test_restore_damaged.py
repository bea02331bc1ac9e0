"""What goes back is intact: a line whose checksum does not fit is not put to the machine, but by force, on record."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from badger_k2eg import cli, run
from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control import Control
from badger_k2eg.control.validators import within
from badger_k2eg.core.records import Record, RecordKind, from_line, to_line
from badger_k2eg.core.settings import parse, resolve
from badger_k2eg.errors import JournalError
from badger_k2eg.journal import Journal
from badger_k2eg.journal.segments import listed
from badger_k2eg.run.restore import Restore
from badger_k2eg.run.restore_plan import Fate

K = RecordKind


@pytest.fixture
def memory() -> Iterator[MemoryBackend]:
    machine = MemoryBackend({"A": 1.0, "B": 2.0, "C": 3.0})
    yield machine
    machine.close()


def control(memory: MemoryBackend) -> Control:
    return Control(memory, resolve([parse({"timeout": 0.3, "retry_delay": 0.05}, str)]))


@pytest.fixture
def made(memory: MemoryBackend, journal: Journal) -> str:
    """A run of three evaluations, of which the second was the best; gives its id."""
    tied = run.Attachment().attach(control(memory))
    for number in (1, 2, 3):
        tied.set({"A": 10.0 * number, "B": 11.0 * number}, {"B": within("B", tolerance=0.5, timeout=1.0)})
        tied.set({"C": 12.0 * number})
        tied.get(["A"])
        if number == 2 and (ours := run.current()) is not None:
            ours.is_best({"f": 0.5})
    run.end()
    return journal.run("last").id


def edit(journal: Journal, which: Callable[[Record], bool], change: Callable[[str], str]) -> int:
    """Edit the last line that is meant, by hand: its checksum stays what it was. Gives its number."""
    path = listed(journal.directory)[-1].path
    rows = path.read_text().splitlines()
    records = [from_line(text.encode()) for text in rows]
    row, found = [(row, record) for row, record in enumerate(records) if which(record)][-1]
    assert (edited := change(rows[row])) != rows[row]
    rows[row] = edited
    path.write_text("\n".join(rows) + "\n")
    return found.line


def steps(restore: Restore) -> dict[str, tuple[Fate, str]]:
    return {step.pv: (step.fate, step.message) for step in restore.steps}


def is_of(kind: RecordKind, pv: str | None = None, evaluation: int | None = None) -> Callable[[Record], bool]:
    return lambda r: r.kind is kind and r.pv == pv and (evaluation is None or r.evaluation == evaluation)


def test_a_baseline_that_was_edited_does_not_go_back(made: str, memory: MemoryBackend, journal: Journal) -> None:
    line = edit(journal, is_of(K.BASELINE, "A"), lambda text: text.replace('"value":1.0', '"value":49.0'))
    restore = Restore(control(memory), journal, made)
    words = f"line {line} of the journal is damaged or was edited: its checksum does not fit"
    assert steps(restore) == {
        "C": (Fate.TO_DO, ""),
        "B": (Fate.TO_DO, ""),
        "A": (Fate.UNREADABLE, f"{words}; --force restores it all the same"),
    }
    restore.run()
    assert {pv: memory.value(pv) for pv in "ABC"} == {"A": 30.0, "B": 2.0, "C": 3.0}
    forced = Restore(control(memory), journal, made, force=True)
    forced.run()
    assert memory.value("A") == 49.0
    told = [r for r in journal.run(made).records() if r.kind is K.RESTORE_END][-1]
    assert told.data is not None
    assert told.data["pvs"]["A"] == {"fate": "restored", "message": f"by force: {words}"}


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        (K.SETPOINT, '"asked":22.0', '"asked":49.0'),
        (K.SETPOINT, '"evaluation":2', '"evaluation":9'),
        (K.SETPOINT, '"outcome":"applied"', '"outcome":"refused"'),
        (K.PUT, '"asked":22.0', '"asked":23.0'),
    ],
)
def test_a_put_that_was_edited_does_not_go_back(
    kind: RecordKind, old: str, new: str, made: str, memory: MemoryBackend, journal: Journal
) -> None:
    line = edit(journal, is_of(kind, "B", 2), lambda text: text.replace(old, new))
    restore = Restore(control(memory), journal, made, to="best")
    fate, message = steps(restore)["B"]
    assert fate is Fate.UNREADABLE and f"line {line} of the journal is damaged" in message
    restore.run()
    assert {pv: memory.value(pv) for pv in "ABC"} == {"A": 20.0, "B": 33.0, "C": 24.0}
    # What was before it needs nothing of it.
    assert set(steps(Restore(control(memory), journal, made))["C"]) == {Fate.TO_DO, ""}


def test_a_put_that_can_be_read_no_more_may_have_been_of_any_pv(
    made: str, memory: MemoryBackend, journal: Journal
) -> None:
    line = edit(journal, is_of(K.SETPOINT, "B", 2), lambda text: "x" * len(text))
    told = steps(Restore(control(memory), journal, made, to=2))
    assert {fate for fate, _ in told.values()} == {Fate.UNREADABLE}
    assert f"line {line} of the run cannot be read" in told["A"][1]
    # Neither what was before it, nor the state before.
    for to in (1, "start"):
        assert {fate for fate, _ in steps(Restore(control(memory), journal, made, to=to)).values()} == {Fate.TO_DO}


def test_what_the_run_last_wrote_is_not_believed_of_a_line_that_was_edited(
    made: str, memory: MemoryBackend, journal: Journal
) -> None:
    # As if it had written what somebody else has set since.
    memory.post("C", 40.0)
    edit(journal, is_of(K.SETPOINT, "C", 3), lambda text: text.replace("36.0", "40.0"))
    restore = Restore(control(memory), journal, made)
    assert steps(restore)["C"][0] is Fate.UNREADABLE
    restore.run()
    assert memory.value("C") == 40.0


def test_how_the_pvs_are_reached_and_which_was_the_best_are_not_believed_either(
    made: str, memory: MemoryBackend, journal: Journal
) -> None:
    edit(journal, is_of(K.BEST), lambda text: text.replace('"evaluation":2', '"evaluation":3'))
    with pytest.raises(JournalError, match="its checksum does not fit; nothing was set"):
        Restore(control(memory), journal, made, to="best")
    assert Restore(control(memory), journal, made, to="best", force=True).to_do == []
    assert len(Restore(control(memory), journal, made, to=2).to_do) == 3
    edit(journal, is_of(K.RUN_BEGIN), lambda text: text.replace('"host":"', '"host":"x'))
    with pytest.raises(JournalError, match="its checksum does not fit"):
        Restore(control(memory), journal, made)


def test_a_validator_that_was_edited(made: str, memory: MemoryBackend, journal: Journal) -> None:
    def change(text: str) -> str:
        return text.replace('"tolerance":0.5', '"tolerance":"wide"')

    has = '"tolerance":0.5'
    edit(journal, lambda r: r.kind is K.SET_BEGIN and has in to_line(r).decode(), change)
    told = steps(Restore(control(memory), journal, made))
    assert told["B"][0] is Fate.UNREADABLE and told["A"][0] is Fate.TO_DO


def test_the_command_says_so_and_fails(
    made: str, memory: MemoryBackend, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = edit(journal, is_of(K.BASELINE, "A"), lambda text: text.replace('"value":1.0', '"value":49.0'))
    monkeypatch.setattr("badger_k2eg.control.connect", lambda way: memory)
    monkeypatch.setattr(memory, "close", lambda: None)

    def restore(*words: str, code: int) -> str:
        done = CliRunner().invoke(cli.main, ["runs", "restore", made, *words], prog_name="badger-k2eg")
        assert done.exit_code == code, done.output
        return done.stdout

    assert f"cannot be read, line {line} of the journal is damaged" in restore("--dry-run", code=0)
    assert restore("--yes", code=1).endswith("NOT where it shall be: A\n")
    assert memory.value("A") == 30.0
    outcome = json.loads(restore("--yes", "--force", "--json", code=0))
    (told,) = [each for each in outcome["pvs"] if each["pv"] == "A"]
    assert told["fate"] == "restored" and told["message"].startswith(f"by force: line {line}")
    assert memory.value("A") == 49.0


def test_show_and_diff_mark_it(made: str, journal: Journal, tmp_path: Path) -> None:
    baseline = edit(journal, is_of(K.BASELINE, "A"), lambda text: text.replace('"value":1.0', '"value":49.0'))
    put = edit(journal, is_of(K.SETPOINT, "B", 3), lambda text: text.replace('"asked":33.0', '"asked":34.0'))

    def said(*words: str) -> Any:
        done = CliRunner().invoke(cli.main, words, prog_name="badger-k2eg")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout) if "--json" in words else done.stdout

    shown = said("runs", "show", made)
    assert re.search(rf"│ A +│ +49 +│ +30 +│ applied, damaged: line {baseline} ", shown)
    assert re.search(rf"│ B +│ +2 +│ +34 +│ applied, damaged: line {put} ", shown)
    told = said("runs", "show", made, "--json")
    assert told["baseline"]["A"]["intact"] is False and told["last_written"]["B"]["intact"] is False
    assert [each["damaged"] for each in told["evaluations"]] == [[], [], [put]]
    compared = said("runs", "diff", made, made, "--at", "start")
    assert f"damaged: line {baseline}" in compared
    rows = said("runs", "diff", made, made, "--json")["setpoints"]
    assert [(row["pv"], row["damaged"]) for row in rows] == [("B", [put])]
