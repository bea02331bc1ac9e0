"""One PV of a call to set, and the table of its life: what it may come to, and what is true of it meanwhile.

The table is data (STATES, EVENTS, TRANSITIONS, TRUTH); nothing here reads a clock or a PV. The rest of the room drives
a setpoint by events, and what is told of it follows from its state alone. So an interrupt, at whatever instant, finds
the truth already there: no outcome is written down beforehand in case one should come.

- An answer is a claim. ``done`` and ``denied`` mean that the server has answered, and they are UNKNOWN until the PV was
  read back; only commands, and PVs of which nothing says what type they are, are ``vouched`` for by the answer.
- A validator watches the machine, not the setpoint, which may be waited for while it is still ``done`` and reads
  something else. Whether the machine has arrived is therefore not a state: it is ``arrival_error`` and ``arrived``.
- Once an attempt was sent, not answered, and not seen in a read-back, ``doubt`` stays: it may still be carried out, and
  whatever is true of a later attempt is then not all that is true of the setpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum, auto
from typing import Any

from ..core.conversion import in_units_of
from ..core.errors import SetError
from ..core.model import Outcome, PutResult, PvAddress, Reading, plain
from .put_rules import same
from .validators import AllOf, Validator, Watch


class State(StrEnum):
    """How far a setpoint has come."""

    #: Nothing was found out about it yet.
    ASKED = auto()
    #: The guard has let it pass.
    GUARDED = auto()
    #: A value is on its way to the server.
    SENT = auto()
    #: The server has done a step on the way (a ramp).
    STEPPED = auto()
    #: The server says that it is done; not read back.
    DONE = auto()
    #: The server says no; not read back.
    DENIED = auto()
    #: It never left this process, and may be sent again.
    UNSENT = auto()
    #: It was sent, and no answer came; not read back.
    SILENT = auto()
    #: It was sent, no answer came, and it holds what it held before: it may be sent once more, with ``doubt``.
    DOUBTED = auto()
    #: It was seen to hold the value, or the answer vouches for it.
    APPLIED = auto()
    #: The server said no, and it was seen to hold what it held before.
    REFUSED = auto()
    #: It was answered as done, and was seen to hold another value.
    MISMATCH = auto()
    #: It was sent, and no read-back tells what became of it.
    UNKNOWN = auto()
    #: The guard, or the gate, has refused it, or another setpoint of the call.
    BLOCKED = auto()
    #: Read-only mode: it would have been sent.
    SKIPPED = auto()


class Event(StrEnum):
    """What may happen to a setpoint."""

    PASS = auto()
    DENY = auto()
    READ_ONLY = auto()
    #: It holds the value already, since the call before, which was the same.
    FOUND = auto()
    SEND = auto()
    #: Answers to what was sent.
    STEP_DONE = auto()
    DONE = auto()
    NO = auto()
    NEVER_LEFT = auto()
    NOTHING = auto()
    #: A read-back cannot tell, so the answer is all that there is to know.
    VOUCHED = auto()
    #: What a read-back shows: the value asked, the step on the way, what it held before, something else.
    READS_ASKED = auto()
    READS_STEP = auto()
    READS_OLD = auto()
    READS_OTHER = auto()
    #: It cannot be read, or what it reads decides nothing.
    UNCLEAR = auto()


STATES = tuple(State)
EVENTS = tuple(Event)

TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.ASKED: {Event.PASS: State.GUARDED, Event.DENY: State.BLOCKED},
    State.GUARDED: {
        Event.SEND: State.SENT,
        Event.DENY: State.BLOCKED,
        Event.READ_ONLY: State.SKIPPED,
        Event.FOUND: State.APPLIED,
    },
    State.SENT: {
        Event.STEP_DONE: State.STEPPED,
        Event.DONE: State.DONE,
        Event.NO: State.DENIED,
        Event.NEVER_LEFT: State.UNSENT,
        Event.NOTHING: State.SILENT,
    },
    State.STEPPED: {Event.SEND: State.SENT, Event.DENY: State.BLOCKED},
    State.UNSENT: {Event.SEND: State.SENT, Event.DENY: State.BLOCKED},
    State.SILENT: {
        Event.READS_ASKED: State.APPLIED,
        Event.READS_STEP: State.STEPPED,
        Event.READS_OLD: State.DOUBTED,
        Event.READS_OTHER: State.UNKNOWN,
        Event.UNCLEAR: State.UNKNOWN,
    },
    State.DOUBTED: {Event.SEND: State.SENT, Event.DENY: State.BLOCKED},
    State.DONE: {
        Event.VOUCHED: State.APPLIED,
        Event.READS_ASKED: State.APPLIED,
        Event.READS_OTHER: State.MISMATCH,
        Event.UNCLEAR: State.UNKNOWN,
    },
    State.DENIED: {
        Event.VOUCHED: State.REFUSED,
        Event.READS_OLD: State.REFUSED,
        Event.READS_OTHER: State.UNKNOWN,
        Event.UNCLEAR: State.UNKNOWN,
    },
    # Looked at again at the end: another setpoint of the call, or somebody else, may have written over it.
    State.APPLIED: {
        Event.READS_ASKED: State.APPLIED,
        Event.READS_OTHER: State.MISMATCH,
        Event.UNCLEAR: State.UNKNOWN,
    },
    State.REFUSED: {},
    State.MISMATCH: {},
    State.UNKNOWN: {},
    State.BLOCKED: {},
    State.SKIPPED: {},
}

TRUTH: Mapping[State, Outcome] = {
    State.ASKED: Outcome.NOT_SENT,
    State.GUARDED: Outcome.NOT_SENT,
    State.SENT: Outcome.UNKNOWN,
    State.STEPPED: Outcome.UNKNOWN,
    State.DONE: Outcome.UNKNOWN,
    State.DENIED: Outcome.UNKNOWN,
    State.UNSENT: Outcome.NOT_SENT,
    State.SILENT: Outcome.UNKNOWN,
    State.DOUBTED: Outcome.UNKNOWN,
    State.APPLIED: Outcome.APPLIED,
    State.REFUSED: Outcome.REFUSED,
    State.MISMATCH: Outcome.UNKNOWN,
    State.UNKNOWN: Outcome.UNKNOWN,
    State.BLOCKED: Outcome.BLOCKED,
    State.SKIPPED: Outcome.SKIPPED,
}

#: What the server claims, until a read-back tells more.
_CLAIMS = {State.STEPPED: Outcome.APPLIED, State.DONE: Outcome.APPLIED, State.DENIED: Outcome.REFUSED}


class Unforeseen(RuntimeError):
    """An event that cannot happen in this state: a fault of this program."""


def after(state: State, event: Event) -> State:
    """Return the state that an event leads to.

    :raises Unforeseen: when it cannot happen in this state.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise Unforeseen(f"a setpoint that is {state} cannot take {event}") from None


def truth(state: State, doubt: bool) -> Outcome:
    """Return what is true of a setpoint in this state.

    :param doubt: whether an earlier attempt may still be carried out.
    """
    return _unless(doubt, TRUTH[state])


def _unless(doubt: bool, told: Outcome) -> Outcome:
    """Return an outcome; in doubt it is known only where the value itself was done."""
    return told if told is Outcome.APPLIED or not doubt else Outcome.UNKNOWN


def diagram() -> str:
    """Write the table as a Mermaid state diagram, with each state's outcome."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.ASKED}"]
    for state, leads in TRANSITIONS.items():
        lines.append(f"    {state}: {state} ({TRUTH[state]})")
        together: dict[State, list[Event]] = {}
        for event, to in leads.items():
            together.setdefault(to, []).append(event)
        lines += [f"    {state} --> {to}: {', '.join(words)}" for to, words in together.items()]
        if not leads:
            lines.append(f"    {state} --> [*]")
    return "\n".join(lines) + "\n"


@dataclass(slots=True, eq=False)
class Setpoint:
    """One PV of a call, and how far it has come."""

    key: str
    asked: Any
    address: PvAddress
    validator: AllOf | Validator | None = None
    value: Any = None
    #: How far from the value it may rest, in its unit.
    tolerance: float = 0.0
    before: Reading | None = None
    #: The values still to be put, the next one first: of a ramp the steps on the way, too.
    path: list[Any] = field(default_factory=list)
    watches: list[Watch] = field(default_factory=list)
    state: State = State.ASKED
    #: Whether an attempt that was not answered may still be carried out.
    doubt: bool = False
    #: The words that came with the last event, or with the failure to arrive.
    message: str = ""
    attempts: int = 0
    #: The last value that was done, as answered or as read: a step on the way, or the whole way.
    stood: Any = None
    began: float = 0.0
    ended: float = 0.0
    readback: Reading | None = None
    arrived: Any = None
    #: Why it was not put as asked, as far as is known; it counts more than that the machine has not arrived.
    put_error: SetError | None = None
    arrival_error: SetError | None = None

    @property
    def outcome(self) -> Outcome:
        """What is true of it now."""
        return truth(self.state, self.doubt)

    @property
    def error(self) -> SetError | None:
        """Why it did not end as asked."""
        return self.put_error or self.arrival_error

    @property
    def ok(self) -> bool:
        """Whether it has ended as asked."""
        return self.error is None and self.outcome in (Outcome.APPLIED, Outcome.SKIPPED)

    def on(self, event: Event, message: str | None = None, error: type[SetError] | None = None) -> None:
        """Take an event.

        :param message: told of it from now on, together with ``error``, in the place of what was told before; with None
            that stays.
        :raises Unforeseen: when the event cannot happen in this state.
        """
        to = after(self.state, event)
        self.doubt |= to is State.DOUBTED
        self.state = to
        if message is not None:
            self.blame(message, error)

    def blame(self, message: str, error: type[SetError] | None) -> None:
        """Tell why it was not put as asked, in the place of what was told before."""
        self.message = message
        self.put_error = error(f"{self.key} = {self.asked!r}: {message}") if error is not None else None

    def not_arrived(self, why: object, kind: type[SetError], cause: BaseException) -> None:
        """Tell that the machine has not arrived."""
        self.message = f"not arrived: {why}"
        if self.arrival_error is None:
            self.arrival_error = kind(f"{self.key} = {self.asked!r}: {self.message}")
            self.arrival_error.__cause__ = cause

    def send(self) -> None:
        """Take it that the next value of the path leaves this process now; tell the watches."""
        self.attempts += 1
        self.readback = None
        for watch in self.watches:
            watch.sent()
        self.on(Event.SEND)

    def stand(self, step: Event, whole: Event, message: str) -> None:
        """Take it that the next value of the path was done: by one event for a step, by the other for the whole way."""
        self.stood = self.path.pop(0)
        self.on(step if self.path else whole, message)

    def holds(self, reading: Reading | None) -> bool:
        """Return whether a reading of it shows the value that was asked for."""
        return same(reading, self.value, self.tolerance)

    def settle_unit(self, before: Reading) -> None:
        """Convert a quantity into the PV's unit, now that it is known.

        :raises Refusal: when it does not fit.
        """
        value = in_units_of(self.value, before.units)
        if value is not self.value:
            self.value, self.asked = value, plain(value)
            for watch in self.watches:
                watch.aim_at(value)

    def result(self, now: float) -> PutResult:
        """Return what is true of it now, as the record of it.

        :param now: by the clock that ``began`` and ``ended`` were read from.
        """
        return PutResult(
            pv=self.key,
            asked=self.asked,
            outcome=self.outcome,
            message=self._words(),
            attempts=self.attempts,
            seconds=(self.ended or now) - self.began if self.began else 0.0,
            before=self.before,
            readback=self.readback,
            tolerance=self.tolerance,
            arrived=self.arrived,
            error=self.error,
        )

    def attempted(self, now: float) -> PutResult:
        """Return what the last attempt has come to, as the server answers: a claim, before any read-back."""
        claim = _unless(self.doubt, _CLAIMS.get(self.state, TRUTH[self.state]))
        return replace(self.result(now), outcome=claim, message=self.message)

    def _words(self) -> str:
        """Return the message; where the state is not one to end in, what an interrupt leaves behind."""
        match self.state:
            case State.ASKED | State.GUARDED:
                return self.message or "not tried"
            case State.SENT:
                return "interrupted while it was being sent"
            case State.STEPPED:
                return f"ended on the way, {len(self.path)} steps before it"
            case State.DONE if self.readback is not None:
                return f"answered as done, and it reads {plain(self.readback.value)!r} so far"
            case State.DONE:
                return "answered as done, and not read back yet"
            case State.DENIED if not self.doubt:
                return f"{self.message}, and not read back yet"
        return self.message


def twice(setpoints: Iterable[Setpoint]) -> dict[Setpoint, str]:
    """Return the PVs that are to have two values in one call, by whatever names, and the reason against it."""
    first: dict[str, Setpoint] = {}
    return {
        setpoint: f"the same PV as {first[setpoint.address.own_name].key}, with two values in one call"
        for setpoint in setpoints
        if first.setdefault(setpoint.address.own_name, setpoint) is not setpoint
    }
