"""The life of a setpoint, as its table tells it: every state with every event, and every path of eight events.

A path is judged by what happened, not by the state: what was sent, what was answered, what was seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from badger_k2eg.control.setpoint import (
    EVENTS,
    STATES,
    TRANSITIONS,
    TRUTH,
    Event,
    Setpoint,
    State,
    Unforeseen,
    after,
    diagram,
    truth,
)
from badger_k2eg.core.errors import PutRefused, PutUnknown, ValidationFailed
from badger_k2eg.core.model import Outcome, PvAddress, Reading

DEPTH = 8
PROOFS = {Event.FOUND, Event.VOUCHED, Event.READS_ASKED}
SEEN = {Event.READS_ASKED, Event.READS_STEP, Event.READS_OLD, Event.READS_OTHER, Event.UNCLEAR}
ANSWERS = {Event.STEP_DONE, Event.DONE, Event.NO, Event.NEVER_LEFT, Event.NOTHING}
OVER = {State.REFUSED, State.MISMATCH, State.UNKNOWN, State.BLOCKED, State.SKIPPED}

Path = tuple[Event, ...]


def setpoint() -> Setpoint:
    return Setpoint("A", 5.0, PvAddress.parse("A"), value=5.0)


def drive(path: Sequence[Event]) -> Setpoint:
    driven = setpoint()
    for event in path:
        driven.on(event, str(event))
    return driven


def paths(state: State = State.ASKED, depth: int = DEPTH, path: Path = ()) -> Iterator[tuple[Path, State]]:
    """Every path of so many events or fewer, with the state that it ends in."""
    yield path, state
    if depth:
        for event, to in TRANSITIONS[state].items():
            yield from paths(to, depth - 1, (*path, event))


ALL = [(path, state, truth(state, drive(path).doubt)) for path, state in paths()]


# -- the table itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
def test_each_state_takes_its_events_and_no_other(state: State) -> None:
    for event in EVENTS:
        driven = setpoint()
        driven.state = state
        if (to := TRANSITIONS[state].get(event)) is None:
            with pytest.raises(Unforeseen, match=f"{state} cannot take {event}"):
                driven.on(event)
            assert driven.state is state
        else:
            driven.on(event)
            assert driven.state is after(state, event) is to


def test_the_table_is_whole() -> None:
    assert set(TRANSITIONS) == set(TRUTH) == set(STATES)
    assert {event for leads in TRANSITIONS.values() for event in leads} == set(EVENTS), "each is of use"
    assert {state for _, state, _ in ALL} == set(STATES), "each can be reached"
    assert {state for state in STATES if not TRANSITIONS[state]} == OVER


def test_only_what_may_be_in_the_machine_is_unknown() -> None:
    for state in STATES:
        # What was found was sent by the call before.
        sent = {bool({Event.SEND, Event.FOUND} & {*path}) for path, to, _ in ALL if to is state}
        if TRUTH[state] is Outcome.UNKNOWN:
            assert sent == {True}, state
        if TRUTH[state] is Outcome.SKIPPED:
            assert sent == {False}, state


@pytest.mark.parametrize("state", STATES)
def test_doubt_leaves_nothing_known_but_what_was_done(state: State) -> None:
    expected = TRUTH[state] if TRUTH[state] is Outcome.APPLIED else Outcome.UNKNOWN
    assert truth(state, doubt=True) is expected
    assert truth(state, doubt=False) is TRUTH[state]


# -- every path --------------------------------------------------------------------------------------------------------


def test_there_are_many_paths() -> None:
    assert len(ALL) > 300
    assert max(len(path) for path, _, _ in ALL) == DEPTH


def test_applied_only_with_a_proof_that_still_holds() -> None:
    for path, _, told in ALL:
        looks = [event for event in path if event in PROOFS | SEEN]
        proven = bool(looks) and looks[-1] in PROOFS and Event.SEND not in path[_last(path, looks[-1]) :]
        # A refusal that the answer vouches for is a proof, too, and of the other thing.
        proven &= not (looks and looks[-1] is Event.VOUCHED and Event.NO in path[-2:])
        assert (told is Outcome.APPLIED) is proven, path


def _last(path: Path, event: Event) -> int:
    return len(path) - 1 - path[::-1].index(event)


def test_what_has_ended_is_never_sent_again() -> None:
    for path, _, _ in ALL:
        driven = setpoint()
        for event in path:
            assert event is not Event.SEND or driven.state not in OVER | {State.SILENT, State.DONE, State.APPLIED}, path
            driven.on(event)


def test_only_silence_that_reads_as_before_is_sent_once_more() -> None:
    for path, _, _ in ALL:
        for at, event in enumerate(path):
            if event is Event.SEND and Event.SEND in path[:at]:
                assert path[at - 1] in {Event.STEP_DONE, Event.READS_STEP, Event.NEVER_LEFT, Event.READS_OLD}, path


def test_nothing_is_sent_after_blocked() -> None:
    for path, _, _ in ALL:
        if Event.DENY in path:
            assert Event.SEND not in path[path.index(Event.DENY) :], path


def test_an_interrupt_at_any_instant_tells_the_truth() -> None:
    """Of the value that was last on its way: who says that it is not in the machine knows it from an answer."""
    for path, state, told in ALL:
        on_the_way = bool(path) and path[-1] is Event.SEND
        lost = any(
            event is Event.NOTHING and path[at + 1 : at + 2] not in [(Event.READS_ASKED,), (Event.READS_STEP,)]
            for at, event in enumerate(path)
        )
        answered = next((event for event in reversed(path) if event in ANSWERS), None)
        if told in (Outcome.NOT_SENT, Outcome.BLOCKED, Outcome.SKIPPED):
            assert not on_the_way and not lost and answered in (None, Event.NEVER_LEFT, Event.STEP_DONE, Event.NOTHING)
            assert answered is not Event.NOTHING or Event.READS_STEP in path, path
        if told is Outcome.REFUSED:
            assert answered is Event.NO and not lost and path[-1] in (Event.READS_OLD, Event.VOUCHED), path
        if on_the_way or state in (State.SILENT, State.DONE, State.DENIED):
            assert told is Outcome.UNKNOWN, path


def test_doubt_stays() -> None:
    for path, _, _ in ALL:
        driven, doubt = setpoint(), False
        for event in path:
            driven.on(event)
            doubt |= driven.state is State.DOUBTED
            assert driven.doubt is doubt, path


# -- what is told ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ((), "not tried"),
        ((Event.PASS,), "not tried"),
        ((Event.PASS, Event.SEND), "interrupted while it was being sent"),
        ((Event.PASS, Event.SEND, Event.DONE), "answered as done, and not read back yet"),
        ((Event.PASS, Event.SEND, Event.NO), "refused, and not read back yet"),
        ((Event.PASS, Event.SEND, Event.STEP_DONE), "ended on the way, 2 steps before it"),
    ],
)
def test_an_interrupt_needs_no_words_of_its_own(path: Path, words: str) -> None:
    driven = setpoint()
    driven.path = [4.0, 5.0]
    for event in path:
        driven.on(event, "refused" if event is Event.NO else None)
    assert driven.result(0.0).message == words


def test_what_reads_something_else_so_far() -> None:
    driven = drive((Event.PASS, Event.SEND, Event.DONE))
    driven.readback = Reading(1.5)
    assert driven.result(0.0).message == "answered as done, and it reads 1.5 so far"


def test_an_attempt_is_told_as_it_was_answered() -> None:
    lost = (Event.PASS, Event.SEND, Event.NOTHING)
    for answer, claim in ((Event.DONE, Outcome.APPLIED), (Event.NO, Outcome.REFUSED), (Event.NEVER_LEFT, "not sent")):
        driven = drive((Event.PASS, Event.SEND, answer))
        assert driven.attempted(0.0).outcome == claim
        again = drive((*lost, Event.READS_OLD, Event.SEND, answer))
        assert again.attempted(0.0).outcome == (claim if answer is Event.DONE else Outcome.UNKNOWN)
        assert again.outcome is Outcome.UNKNOWN


def test_a_ramp_stands_where_it_was_put_last() -> None:
    driven = setpoint()
    driven.path = [3.0, 5.0]
    driven.on(Event.PASS)
    for stood, state in ((3.0, State.STEPPED), (5.0, State.DONE)):
        driven.send()
        driven.stand(Event.STEP_DONE, Event.DONE, "")
        assert (driven.stood, driven.state, driven.outcome) == (stood, state, Outcome.UNKNOWN)


def test_why_it_was_not_put_counts_more_than_that_it_has_not_arrived() -> None:
    driven = drive((Event.PASS, Event.SEND, Event.DONE))
    driven.not_arrived("late", ValidationFailed, TimeoutError())
    assert type(driven.error) is ValidationFailed and not driven.ok
    driven.on(Event.READS_ASKED)
    assert (driven.outcome, driven.message, driven.ok) == (Outcome.APPLIED, "not arrived: late", False)
    driven.on(Event.UNCLEAR, "gone", PutUnknown)
    assert type(driven.error) is PutUnknown


def test_words_stay_until_others_come_and_take_the_error_with_them() -> None:
    driven = drive((Event.PASS, Event.SEND))
    driven.on(Event.NO, "refused", PutRefused)
    driven.on(Event.READS_OLD)
    assert (driven.message, type(driven.error), driven.outcome) == ("refused", PutRefused, Outcome.REFUSED)


def test_the_diagram_is_drawn_from_the_table() -> None:
    drawn = diagram()
    lines = drawn.splitlines()
    assert lines[:2] == ["stateDiagram-v2", "    [*] --> asked"]
    arrows = {
        (start, end, event)
        for start, _, rest in (line.strip().partition(" --> ") for line in lines)
        for end, _, events in [rest.partition(": ")]
        for event in events.split(", ")
        if events
    }
    assert arrows == {(str(s), str(to), str(event)) for s, leads in TRANSITIONS.items() for event, to in leads.items()}
    for state in STATES:
        assert f"    {state}: {state} ({TRUTH[state]})" in lines
        assert (f"    {state} --> [*]" in lines) is (state in OVER)
    assert "    silent --> unknown: reads_other, unclear" in lines
