"""The tables of a run: what each event does to its state, and what a put may leave behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest

from badger_k2eg import run
from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control import Control
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import Outcome, PutResult, PvAddress, Reading, SetReport
from badger_k2eg.core.records import RecordKind
from badger_k2eg.journal import Journal
from badger_k2eg.journal.reading_fields import told
from badger_k2eg.journal.recorded_run import KEPT, MayHold
from badger_k2eg.run.moves import Moved
from badger_k2eg.run.recorder import Recorder
from badger_k2eg.run.run import TRANSITIONS, Event, Reason, Run, State

# -- the end ----------------------------------------------------------------------------------------------------------

#: What each event makes of each state.
TABLE = {
    (State.OPEN, Event.STOP): State.STOPPING,
    (State.OPEN, Event.END): State.ENDING,
    (State.OPEN, Event.DONE): State.OPEN,
    (State.STOPPING, Event.STOP): State.STOPPING,
    (State.STOPPING, Event.END): State.ENDING,
    (State.STOPPING, Event.DONE): State.STOPPING,
    (State.ENDING, Event.STOP): State.ENDING,
    (State.ENDING, Event.END): State.ENDING,
    (State.ENDING, Event.DONE): State.ENDED,
    (State.ENDED, Event.STOP): State.ENDED,
    (State.ENDED, Event.END): State.ENDED,
    (State.ENDED, Event.DONE): State.ENDED,
}


def test_the_table_is_whole() -> None:
    assert TABLE.keys() == set(product(State, Event))
    assert {pair: state for pair, state in TABLE.items() if state is not pair[0]} == TRANSITIONS


@pytest.fixture
def ours() -> Iterator[Run]:
    made = Run(None, {}, run.RunSettings(), Deadline.alone())
    yield made
    made.end(Reason.SUCCESS)


def in_state(ours: Run, state: State, look: Callable[[], None]) -> None:
    """Look at a run in a state, which it reaches as in life: while it ends, from its end's own thread."""
    if state is State.STOPPING:
        ours.stop("first", Reason.FAILED)
    elif state is State.ENDING:
        ours.before_end.append(look)
        ours.end(Reason.FAILED, "first")
        return
    elif state is State.ENDED:
        ours.end(Reason.FAILED, "first")
    look()


@pytest.mark.parametrize(("state", "event"), [pair for pair in TABLE if pair[1] is not Event.DONE], ids="-".join)
def test_each_event_in_each_state(state: State, event: Event, ours: Run) -> None:
    seen: list[State] = []
    ended: list[bool] = []

    def act() -> None:
        seen.append(ours.state)
        if event is Event.STOP:
            ours.stop("second")
        else:
            ours.before_end.append(lambda: seen.append(ours.state))
            ended.append(ours.end(Reason.SUCCESS, "second"))
        seen.append(ours.state)

    in_state(ours, state, act)
    assert seen[0] is state
    assert TABLE[state, event] in seen[1:]
    # The first reason is kept; only one call ends the run, whoever asks, and it ends but once.
    first = state is State.OPEN
    assert (ours.message, ours.reason is Reason.FAILED) == (("second", False) if first else ("first", True))
    if event is Event.END:
        assert ended == [state in (State.OPEN, State.STOPPING)]
    ours.end(Reason.SUCCESS)
    assert ours.state is State.ENDED and ours.ended.is_set()


def test_who_may_set_in_each_state(ours: Run) -> None:
    seen: list[tuple[State, bool, bool]] = []

    def look() -> None:
        others: list[str | None] = []
        thread = threading.Thread(target=lambda: others.append(ours.why_not()))
        thread.start()
        thread.join()
        seen.append((ours.state, ours.why_not() is None, others == [None]))

    look()
    ours.stop("no beam")
    look()
    ours.on_cancelled.append(lambda _: look())
    ours.end(Reason.STOPPED)
    look()
    assert seen == [
        (State.OPEN, True, True),
        (State.STOPPING, False, False),
        (State.ENDING, True, False),
        (State.ENDED, False, False),
    ]


# -- what a put may leave behind --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("outcome", Outcome)
def test_what_each_outcome_may_leave(outcome: Outcome, ended: bool) -> None:
    """Of a PV that held 1, may hold 2 or 3 since, and was asked for 4, which it reads as 5."""
    before = MayHold((2.0, 3.0), (1.0,))
    after = before.after(outcome, 4.0, 5.0, ended=ended)
    expected = {
        (Outcome.APPLIED, True): MayHold((4.0, 5.0), (4.0, 5.0)),
        (Outcome.APPLIED, False): MayHold((4.0, 5.0, 1.0), (1.0,)),
    }
    for each in (True, False):
        expected[Outcome.UNKNOWN, each] = expected[Outcome.REFUSED, each] = MayHold((4.0, 5.0, 2.0, 3.0), (1.0,))
    assert after == expected.get((outcome, ended), before)
    assert (outcome in KEPT) == ((outcome, ended) in expected)


SENT = (Outcome.APPLIED, Outcome.UNKNOWN, Outcome.REFUSED)


@pytest.mark.parametrize("outcomes", list(product((*SENT, Outcome.BLOCKED), repeat=2)), ids="-".join)
@pytest.mark.parametrize("last", [*SENT, None])
def test_a_run_and_its_record_agree(outcomes: tuple[Outcome, ...], last: Outcome | None, tmp_path: Path) -> None:
    """Two calls, each an attempt and its end; and the attempt of a third that has not ended."""
    memory = MemoryBackend({"A": 1.0})
    control = Control(memory)
    address = PvAddress.parse("A")
    before = control.read(["A"])["A"]
    moved = Moved("A", control, before)
    journal = Journal(tmp_path)
    recorder = Recorder(journal, "r")
    recorder.write(recorder.line(RecordKind.RUN_BEGIN), recorder.line(RecordKind.BASELINE, pv="A", **told(before)))

    def reads(value: float) -> Reading:
        memory.post("A", value)
        return control.read(["A"])["A"]

    calls = [*((outcome, True) for outcome in outcomes), *([(last, False)] if last else [])]
    for number, (outcome, ends) in enumerate(calls, 2):
        sent = outcome is not Outcome.BLOCKED
        readback = reads(number + 0.5) if sent else None
        recorder.set_began({"A": float(number)})
        result = PutResult("A", float(number), outcome, attempts=int(sent), readback=readback)
        if sent:
            moved.wrote(result, ended=False)
            recorder.puts_attempted({address: result})
        if ends:
            moved.wrote(result, ended=True)
            recorder.set_finished(SetReport((result,)))
    written = journal.run("r").history().written
    assert set(written["A"].held.values if written else ()) == set(moved.held.values)
    journal.close()
