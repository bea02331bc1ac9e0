"""A set that does not come to its end: stopped, cancelled, forbidden half way, not answered. No report claims too much.

Things happen at a given point of the call, not after a given time: as the write path begins to wait
(``futures.sleep`` is there to be patched), or as a value reaches the machine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import pytest

from badger_k2eg import run
from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control import Control
from badger_k2eg.control.validators import all_of, within
from badger_k2eg.core import clock, futures
from badger_k2eg.core.backend import Update
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import Outcome, PutAnswer, PvAddress
from badger_k2eg.core.records import RecordKind
from badger_k2eg.core.settings import parse, resolve
from badger_k2eg.errors import CallCancelled, PutUnknown, PvNotConnected, SetError, SetpointBlocked
from badger_k2eg.journal import Journal
from badger_k2eg.run.restore import Restore
from badger_k2eg.run.restore_plan import Fate, Step, carry_out
from badger_k2eg.tuning import Condition

LIMITS = (-50.0, 50.0)
KNOBS = ("A", "B", "Q", "R")


@pytest.fixture
def memory() -> Iterator[MemoryBackend]:
    """PVs with limits, which a set need not read back; UNBOUND has none."""
    machine = MemoryBackend({"UNBOUND": 0.0})
    for name in KNOBS:
        machine.add(name, 0.0, limits=LIMITS)
    machine.add("PERMIT", 1, choices=("no", "OK"))
    yield machine
    machine.close()


def control(memory: MemoryBackend, **options: Any) -> Control:
    return Control(memory, resolve([parse({"timeout": 20.0, "retry_delay": 0.05} | options, str)]))


def ramp(**options: Any) -> dict[str, Any]:
    return {"max_step": {"Q": 1.0}, "ramp": True} | options


AtSleep = Callable[..., None]
Guarded = Callable[..., Control]


@pytest.fixture
def at_sleep(monkeypatch: pytest.MonkeyPatch) -> AtSleep:
    """Gives a function: let something happen, once, as the write path begins to wait for the n-th time."""
    real, here = futures.sleep, threading.current_thread()

    def arrange(happen: Callable[[], object], number: int = 1) -> None:
        left = number

        def sleep(delay: Any, deadline: Deadline | None = None) -> None:
            nonlocal left
            if threading.current_thread() is here:
                left -= 1
                if left == 0:
                    happen()
            real(delay, deadline)

        monkeypatch.setattr(futures, "sleep", sleep)

    return arrange


def outcomes(caught: Any) -> list[Outcome]:
    return [result.outcome for result in caught.value.report.results]


def of(caught: Any, pv: str) -> Any:
    """What the report of the exception tells of one PV."""
    return caught.value.report[pv]


# -- a ramp that ends between two steps -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parallel", "expected"),
    [
        (False, [Outcome.APPLIED, Outcome.UNKNOWN, Outcome.NOT_SENT]),
        # What was answered long before the others had come to their end was not read back.
        (True, [Outcome.UNKNOWN, Outcome.UNKNOWN, Outcome.UNKNOWN]),
    ],
    ids=["serial", "parallel"],
)
@pytest.mark.parametrize("target", [10.0, 2.0], ids=["early", "before its last step"])
def test_a_ramp_cancelled_on_its_way_has_not_arrived(
    memory: MemoryBackend, at_sleep: AtSleep, parallel: bool, expected: list[Outcome], target: float
) -> None:
    deadline = Deadline()
    # The first wait is the one between the first and the second step.
    at_sleep(deadline.cancel)
    ramped = control(memory, **ramp(put_interval=60.0, parallel=parallel))
    with pytest.raises(CallCancelled) as caught:
        ramped.set({"A": 5.0, "Q": target, "B": 5.0}, deadline=deadline)
    assert memory.value("Q") == 1.0
    assert outcomes(caught) == expected
    assert "on the way" in of(caught, "Q").message


@pytest.mark.parametrize("policy", ["restore", "leave"])
@pytest.mark.parametrize(
    ("pace", "number"), [({"put_interval": 0.2}, 3), ({"put_rate": 2.0}, 1)], ids=["interval", "rate"]
)
def test_a_ramp_that_is_stopped_on_its_way_is_put_back(
    memory: MemoryBackend,
    journal: Journal,
    at_sleep: AtSleep,
    monkeypatch: pytest.MonkeyPatch,
    policy: str,
    pace: dict[str, float],
    number: int,
) -> None:
    """At the end of the run, or later from its record: what the ramp has come to is the run's own doing.

    :param number: the wait, of those that hold the ramp back, in which it is stopped.
    """
    monkeypatch.setenv("BADGER_K2EG_RUN_ON_CANCELLED", policy)
    reached: list[float] = []

    def stop() -> None:
        reached.append(memory.value("Q"))
        run.stop("the operator")

    at_sleep(stop, number)
    run.declare()
    tied = run.Attachment().attach(control(memory, **ramp(**pace)))
    with pytest.raises(CallCancelled) as caught, run.inside():
        tied.set({"Q": 20.0})
    assert 0.0 < reached[0] < 20.0
    assert of(caught, "Q").outcome is Outcome.UNKNOWN
    records = list(journal.run("last").records())
    # Each step is on record as what it was, and the setpoint itself is not said to be where it was to go.
    steps = [r.asked for r in records if r.kind is RecordKind.PUT and r.outcome is Outcome.APPLIED]
    count = int(reached[0])
    assert steps[:count] == [float(step) for step in range(1, count + 1)] and 20.0 not in steps
    assert [r.outcome for r in records if r.kind is RecordKind.SETPOINT and r.asked == 20.0] == [Outcome.UNKNOWN]
    if policy == "restore":
        ends = [r.data for r in records if r.kind is RecordKind.RESTORE_END]
        assert [end and end["pvs"]["Q"]["fate"] for end in ends] == ["restored"]
    else:
        assert memory.value("Q") == reached[0]
        restore = Restore(control(memory), journal, "last")
        assert [step.fate for step in restore.steps] == [Fate.TO_DO]
        assert [step.fate for step in restore.run()] == [Fate.RESTORED]
    assert memory.value("Q") == 0.0


# -- a look that still reads something else ---------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [False, True], ids=["serial", "parallel"])
def test_a_cancel_while_the_look_reads_another_value(memory: MemoryBackend, at_sleep: AtSleep, parallel: bool) -> None:
    memory.add("PROMPT", 0.0)
    memory.fault("UNBOUND", "delayed", delay=3600.0)
    deadline = Deadline()
    at_sleep(deadline.cancel)
    with pytest.raises(CallCancelled) as caught:
        control(memory, parallel=parallel).set({"PROMPT": 5.0, "UNBOUND": 5.0}, deadline=deadline)
    assert outcomes(caught) == [Outcome.APPLIED, Outcome.UNKNOWN], "the one that was seen there is there"
    assert (of(caught, "UNBOUND").readback.value, of(caught, "PROMPT").message) == (0.0, "")


def test_a_cancel_before_the_look_has_read_anything(memory: MemoryBackend) -> None:
    deadline = Deadline()
    memory.on_put("UNBOUND", lambda value: memory.post("UNBOUND", value / 2))
    memory.on_put("UNBOUND", lambda value: deadline.cancel())
    with pytest.raises(CallCancelled) as caught:
        control(memory).set({"UNBOUND": 5.0}, deadline=deadline)
    assert memory.puts == [("UNBOUND", 5.0)]
    assert of(caught, "UNBOUND").outcome is Outcome.UNKNOWN


def test_a_restore_cancelled_in_its_look_has_not_restored(memory: MemoryBackend, at_sleep: AtSleep) -> None:
    memory.fault("UNBOUND", "delayed", delay=3600.0)
    deadline = Deadline()
    at_sleep(deadline.cancel)
    steps = carry_out(control(memory), [Step("UNBOUND", 5.0)], deadline=deadline)
    assert [step.fate for step in steps] == [Fate.FAILED]
    assert memory.value("UNBOUND") == 0.0


def test_a_value_that_shows_at_the_second_look_has_arrived(memory: MemoryBackend, at_sleep: AtSleep) -> None:
    memory.fault("UNBOUND", "delayed", delay=3600.0)
    at_sleep(lambda: memory.post("UNBOUND", 5.0))
    result = control(memory).set({"UNBOUND": 5.0})["UNBOUND"]
    assert (result.ok, result.outcome, result.message) == (True, Outcome.APPLIED, "")


# -- a guard that breaks in the middle of a call ----------------------------------------------------------------------


@pytest.fixture
def guarded(journal: Journal) -> Guarded:
    """Gives a control that may write only while there is a beam permit."""

    def make(memory: MemoryBackend, **options: Any) -> Control:
        attachment = run.Attachment()
        attachment.guard(keep_running=[Condition("PERMIT", equals="OK", reason="no beam permit")])
        return attachment.attach(control(memory, **options))

    return make


def lose_permit_at_put(memory: MemoryBackend, number: int) -> None:
    def lose(value: float) -> None:
        if len(memory.puts) == number:
            memory.post("PERMIT", 0)

    for name in KNOBS:
        memory.on_put(name, lose)


@pytest.mark.parametrize("pace", [{}, {"put_interval": 0.01}, {"put_rate": 1000.0}], ids=str)
def test_a_guard_that_breaks_ends_a_ramp_between_its_steps(
    memory: MemoryBackend, journal: Journal, guarded: Guarded, pace: dict[str, float]
) -> None:
    tied = guarded(memory, **ramp(**pace))
    lose_permit_at_put(memory, 2)
    with pytest.raises(SetpointBlocked, match="paused: no beam permit") as caught:
        tied.set({"Q": 10.0, "A": 5.0})
    assert memory.puts == [("Q", 1.0), ("Q", 2.0)]
    assert outcomes(caught) == [Outcome.BLOCKED, Outcome.NOT_SENT]
    puts = [r for r in journal.run("last").records() if r.kind is RecordKind.PUT]
    assert [r.asked for r in puts if r.outcome is Outcome.APPLIED] == [1.0, 2.0]
    # The two steps are the run's own doing.
    ours = run.current()
    assert ours is not None
    with ours.closing() as deadline:
        steps = ours.restore(deadline)
    assert {step.pv: step.fate for step in steps} == {"Q": Fate.RESTORED}
    assert memory.value("Q") == 0.0


def test_a_guard_that_breaks_ends_a_paced_group_between_its_puts(
    memory: MemoryBackend, journal: Journal, guarded: Guarded
) -> None:
    tied = guarded(memory, parallel=True, put_rate=1000.0)
    lose_permit_at_put(memory, 2)
    with pytest.raises(SetpointBlocked, match="paused: no beam permit") as caught:
        tied.set(dict.fromkeys(KNOBS, 1.0))
    assert memory.puts == [("A", 1.0), ("B", 1.0)]
    assert outcomes(caught) == [Outcome.APPLIED, Outcome.APPLIED, Outcome.BLOCKED, Outcome.BLOCKED]
    recorded = {r.pv: r.outcome for r in journal.run("last").records() if r.kind is RecordKind.SETPOINT}
    assert list(recorded.values()) == outcomes(caught)


@pytest.mark.parametrize("fault", ["lost", "missing"])
def test_a_guard_that_breaks_ends_the_second_attempt(
    memory: MemoryBackend, guarded: Guarded, at_sleep: AtSleep, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """A first one that was sent and not answered may still happen: it stays unknown. A missing PV was sent nothing."""
    put, sent = memory.put_many, fault == "lost"

    def put_many(*given: Any) -> dict[PvAddress, PutAnswer]:
        memory.fault("Q", fault)
        return put(*given)

    def lose() -> None:
        memory.fault("Q", None)
        memory.post("PERMIT", 0)

    monkeypatch.setattr(memory, "put_many", put_many)
    at_sleep(lose)
    with pytest.raises(PutUnknown if sent else SetpointBlocked, match="no beam permit") as caught:
        guarded(memory, timeout=1.0).set({"Q": 1.0})
    assert memory.puts == ([("Q", 1.0)] if sent else [])
    assert of(caught, "Q").outcome is (Outcome.UNKNOWN if sent else Outcome.BLOCKED)
    assert ("an attempt before was sent and not answered" in of(caught, "Q").message) is sent


# -- put completion that does not come in time ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["setting", "set_wait"])
def test_no_answer_in_time_of_a_put_with_completion_is_unknown(memory: MemoryBackend, how: str) -> None:
    """A record shows its new value at once, and is busy all the same: the value says nothing of the completion."""
    memory.fault("Q", "unanswered")
    waiting = control(memory, timeout=0.5, wait="Q" if how == "setting" else "")
    with pytest.raises(PutUnknown) as caught:
        waiting.set_wait("Q", 5.0) if how == "set_wait" else waiting.set({"Q": 5.0})
    assert (of(caught, "Q").outcome, of(caught, "Q").readback.value) == (Outcome.UNKNOWN, 5.0)
    assert memory.puts == [("Q", 5.0)], "and it is not sent again"


@pytest.mark.parametrize("wait", [True, False, None])
@pytest.mark.parametrize("timeout", [20.0, None])
def test_a_validators_put_waits_as_it_is_told(
    memory: MemoryBackend, monkeypatch: pytest.MonkeyPatch, wait: bool | None, timeout: float | None
) -> None:
    given: dict[str, tuple[bool, float]] = {}
    put = memory.put_many

    def put_many(values: Any, deadline: Deadline, wait: Collection[PvAddress]) -> dict[PvAddress, PutAnswer]:
        given.update({address.name: (address in wait, deadline.remaining()) for address in values})
        return put(values, deadline, wait)

    def validator(*, context: Any, **_: object) -> None:
        context.put("B", 1.0, wait=wait, timeout=timeout)
        context.put(["Q", "R"], [1.0, 1.0], wait=wait, timeout=timeout)

    monkeypatch.setattr(memory, "put_many", put_many)
    control(memory, timeout=40.0).set({"A": 1.0}, {"A": validator})
    most = timeout or 40.0
    for name in ("B", "Q", "R"):
        waited, seconds = given[name]
        # More than the next shorter time there is, so that it is this one that was passed on.
        assert waited is bool(wait) and most - 20.0 < seconds <= most


def test_a_validators_put_with_completion_fails_where_the_record_is_busy(memory: MemoryBackend) -> None:
    memory.fault("B", "unanswered")
    answers: list[Any] = []

    def validator(*, context: Any, **_: object) -> None:
        answers.append(context.put("B", 1.0, wait=True, throw=False))

    control(memory, timeout=0.5).set({"A": 1.0}, {"A": validator})
    assert [type(answer) for answer in answers] == [PutUnknown]


# -- a readback that nobody has heard ---------------------------------------------------------------------------------

SETTLE = 0.3


class SlowToRead(MemoryBackend):
    """Once something is put, to read A:RB takes longer than B:RB has to settle. Subscriptions hear of nothing."""

    loses_updates = False

    def __init__(self, *, answers: bool) -> None:
        super().__init__()
        for name in ("A", "B", "A:RB", "B:RB"):
            self.add(name, 0.0, limits=LIMITS)
        self._answers = answers
        #: How often B:RB was read since.
        self.reads = 0

    def get_many(self, addresses: Sequence[PvAddress], deadline: Deadline) -> dict[PvAddress, Update]:
        updates = super().get_many(addresses, deadline)
        if not self.puts:
            return updates
        for address in addresses:
            if address.name == "A:RB":
                clock.sleep(2 * SETTLE)
                if self.loses_updates:
                    # It is heard, by an update after which another one may be missing.
                    self.post("B:RB", 0.0)
            if address.name == "B:RB":
                self.reads += 1
                if not self._answers:
                    updates[address] = PvNotConnected(address.text, "no answer")
        return updates


@pytest.mark.parametrize("lossy", [False, True], ids=["never heard", "heard, and updates may be lost"])
@pytest.mark.parametrize("shape", ["two setpoints", "one setpoint"])
@pytest.mark.parametrize("answers", [True, False], ids=["answers", "frozen"])
def test_a_readback_that_settles_while_another_is_read_is_read_itself(shape: str, answers: bool, lossy: bool) -> None:
    """B:RB is within the band by what it held before the put; only a read tells whether anybody is still there."""
    memory = SlowToRead(answers=answers)
    memory.loses_updates = lossy
    first = within("A:RB", tolerance=0.5, timeout=40.0)
    second = within("B:RB", tolerance=0.5, settle=SETTLE, timeout=40.0 if answers else 1.0)
    judge = control(memory, parallel=True)
    report: Any
    try:
        if shape == "two setpoints":
            report = judge.set({"A": 0.2, "B": 0.2}, {"A": first, "B": second})
        else:
            report = judge.set({"A": 0.2}, {"A": all_of(first, second)})
    except SetError as error:
        report = error.report
    result = report.results[-1]
    assert (result.outcome, result.ok) == (Outcome.APPLIED, answers), "the put itself was answered"
    assert memory.reads if answers else "not arrived: B:RB" in result.message
