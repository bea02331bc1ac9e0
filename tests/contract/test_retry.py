"""P3, N2: what becomes of a put that is not answered, and that it is never sent again where it may have happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from badger_k2eg.control import Control
from badger_k2eg.core import futures
from badger_k2eg.core.model import Outcome, PutResult
from badger_k2eg.errors import PutMismatch, PutRefused, PutTimeout, PutUnknown, SetError
from tests.rig.fault_server import CLAMP_LIMIT
from tests.rig.pace import pace
from tests.rig.waiting import eventually

from .machine import Machine, MemoryMachine, Recorder, Running
from .memory_machine import SimulatedMachine

TIMEOUT = 0.5
DELAY = 0.2


@dataclass(frozen=True)
class Case:
    """What one fault must lead to, for a put of ``asked`` with two attempts of half a second."""

    name: str
    outcome: Outcome
    error: type[SetError] | None
    attempts: int
    arrived: int
    """Puts that reached the server."""
    after: float
    """What the PV holds in the end."""
    asked: float = 2.0


FAULTS = [
    Case("NOANSWER", Outcome.APPLIED, None, 1, 1, 2.0),
    Case("APPLIEDONCE", Outcome.APPLIED, None, 1, 1, 2.0),
    Case("LOSTONCE", Outcome.APPLIED, None, 2, 2, 2.0),
    Case("LOST", Outcome.UNKNOWN, PutUnknown, 2, 2, 0.0),
    # The first put shows its effect only after 2 s: by then it was asked for again, as the setpoint is absolute.
    Case("LATE", Outcome.UNKNOWN, PutUnknown, 2, 2, 2.0),
    Case("HALF", Outcome.UNKNOWN, PutUnknown, 1, 1, 1.0),
    Case("REFUSE", Outcome.REFUSED, PutRefused, 1, 1, 0.0),
    Case("READONLY", Outcome.REFUSED, PutRefused, 1, 1, 9.5),
    Case("DELAYED", Outcome.APPLIED, None, 1, 1, 2.0),
    Case("CLAMP", Outcome.UNKNOWN, PutMismatch, 1, 1, CLAMP_LIMIT, asked=99.0),
]
SILENT = [case for case in FAULTS if case.name in ("NOANSWER", "APPLIEDONCE", "LOSTONCE", "LOST", "LATE", "HALF")]


@dataclass
class Ended:
    """How the put of one case ended."""

    error: SetError | None
    result: PutResult
    recorder: Recorder
    arrived: int
    arrived_later: int


@pytest.fixture(scope="module")
def ended(module_machine: Machine) -> dict[str, Ended]:
    """Put to every fault at the same time; the tests look at one each."""
    return run_all(module_machine, FAULTS)


def run_all(machine: Machine, cases: Sequence[Case], **options: Any) -> dict[str, Ended]:
    pvs = machine.pvs(*[case.name for case in cases])
    recorders = [Recorder() for _ in cases]
    controls = [machine.control(timeout=TIMEOUT, retry_delay=DELAY, sink=each, **options) for each in recorders]
    calls = [
        Running(partial(attempt, control, pv, case.asked))
        for control, pv, case in zip(controls, pvs, cases, strict=True)
    ]
    errors = [call.result() for call in calls]
    arrived = [count(machine, case) for case in cases]
    for case in cases:
        eventually(partial(machine.look, case.name), case.after)
    return {
        case.name: Ended(error, control.last_report[pv], recorder, number, count(machine, case))
        for case, control, pv, recorder, error, number in zip(
            cases, controls, pvs, recorders, errors, arrived, strict=True
        )
    }


def attempt(control: Control, pv: str, value: Any) -> SetError | None:
    """Set one PV; give what it raised."""
    try:
        control.set({pv: value})
    except SetError as error:
        assert str(error.report) == str(control.last_report)
        return error
    return None


def count(machine: Machine, case: Case) -> int:
    # The server counts neither of these.
    return 1 if case.name in ("DELAYED", "READONLY") else machine.arrived(case.name)


@pytest.mark.needs("faults")
@pytest.mark.parametrize("case", FAULTS, ids=[case.name for case in FAULTS])
def test_every_fault_has_its_outcome(ended: dict[str, Ended], case: Case) -> None:
    end = ended[case.name]
    assert (end.result.outcome, end.result.attempts) == (case.outcome, case.attempts), str(end.result)
    assert type(end.error) is (case.error or type(None))
    assert end.result.error is None or type(end.result.error) is case.error
    assert (end.arrived, end.arrived_later) == (case.arrived, case.arrived), "sent again, or after the call"


@pytest.mark.needs("faults")
def test_a_relative_pv_is_never_sent_again(machine: Machine) -> None:
    once = [Case(case.name, Outcome.UNKNOWN, PutUnknown, 1, 1, AFTER_ONE.get(case.name, 2.0)) for case in SILENT]
    for name, end in run_all(machine, once, relative=machine.pvs(*[case.name for case in once])).items():
        # Not even a read-back that shows the value proves anything: the step may have led there, or been made before.
        assert (end.result.outcome, end.result.attempts) == (Outcome.UNKNOWN, 1), str(end.result)
        assert type(end.error) is PutUnknown, name
        assert (end.arrived, end.arrived_later) == (1, 1), name


AFTER_ONE = {"LOST": 0.0, "LOSTONCE": 0.0, "HALF": 1.0}
"""What a fault leaves behind when it was put to only once, and not the 2.0 asked for."""


@pytest.mark.needs("faults")
@pytest.mark.parametrize("attempts", [1, 3])
def test_put_attempts_bounds_how_often_it_is_sent(machine: Machine, attempts: int) -> None:
    pv = machine.pv("LOST")
    control = machine.control(timeout=0.3, retry_delay=0.0, put_attempts=attempts)
    assert type(attempt(control, pv, 2.0)) is PutUnknown
    assert machine.arrived("LOST") == attempts == control.last_report[pv].attempts


@pytest.mark.needs("faults")
def test_a_single_attempt_is_read_back_too(machine: Machine) -> None:
    pv = machine.pv("NOANSWER")
    control = machine.control(timeout=TIMEOUT, put_attempts=1)
    report = control.set({pv: 2.0})
    assert (report[pv].outcome, report[pv].attempts) == (Outcome.APPLIED, 1)
    assert report[pv].readback.value == 2.0
    assert "read-back" in report[pv].message


@pytest.mark.needs("faults")
def test_the_message_names_pv_seconds_and_attempts(ended: dict[str, Ended]) -> None:
    error, result = ended["LOST"].error, ended["LOST"].result
    assert isinstance(error, TimeoutError)
    for word in (result.pv, "0.5 s", "2 times", "may have happened"):
        assert word in str(error)


@pytest.mark.needs("faults")
def test_a_half_done_put_says_what_it_reads_and_read_before(ended: dict[str, Ended]) -> None:
    assert "it reads 1.0" in str(ended["HALF"].error)
    assert ended["HALF"].result.before.value == 0.0


@pytest.mark.needs("faults")
def test_a_clipped_put_says_what_it_reads(ended: dict[str, Ended]) -> None:
    assert isinstance(ended["CLAMP"].error, ValueError)
    assert "it reads 5.0" in str(ended["CLAMP"].error)
    assert not ended["CLAMP"].result.ok


@pytest.mark.needs("faults")
@pytest.mark.parametrize("name", ["REFUSE", "READONLY"])
def test_a_refusal_has_the_servers_words(ended: dict[str, Ended], module_machine: Machine, name: str) -> None:
    error = ended[name].error
    assert isinstance(error, PermissionError)
    words = {"REFUSE": "rejected by the server: out of range", "READONLY": "not supported"}[name]
    assert (words if module_machine.name != "memory" else "write access denied") in str(error).lower()
    assert ended[name].result.pv in str(error)


@pytest.mark.needs("faults")
def test_every_attempt_is_recorded_and_the_delay_lies_between(ended: dict[str, Ended]) -> None:
    recorder = ended["LOST"].recorder
    assert [result.attempts for result in recorder.attempts] == [1, 2]
    assert [result.outcome for result in recorder.attempts] == [Outcome.UNKNOWN, Outcome.UNKNOWN]
    first, second = recorder.times
    assert DELAY + TIMEOUT <= second - first < DELAY + TIMEOUT + 3.0 * pace()
    assert [str(report) for report in recorder.reports] == [str(ended["LOST"].error.report)]


@pytest.mark.needs("faults", "process")
def test_the_defaults_are_three_seconds_and_one_second_later(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    pv, recorder = machine.pv("LOSTONCE"), Recorder()
    pauses: list[float] = []
    really_sleep = futures.sleep
    monkeypatch.setattr(futures, "sleep", lambda delay, deadline: (pauses.append(delay), really_sleep(delay))[1])
    control = machine.control(sink=recorder, retry_delay=None, timeout=None)
    report = control.set({pv: 2.0})
    assert (report[pv].outcome, report[pv].attempts) == (Outcome.APPLIED, 2)
    assert pauses[0] == 1.0 and all(pause < 1.0 for pause in pauses[1:]), pauses
    assert 4.0 <= report[pv].seconds < 8.0 * pace()
    assert "3 s" in recorder.attempts[0].message


@pytest.mark.needs("faults")
def test_only_the_unanswered_of_a_parallel_call_is_sent_again(machine: Machine) -> None:
    lost, fine, refused = machine.pvs("LOSTONCE", "CLAMP", "REFUSE")
    control = machine.control(timeout=TIMEOUT, retry_delay=DELAY, parallel=True)
    with pytest.raises(PutRefused) as caught:
        control.set({lost: 1.0, fine: 1.0, refused: 1.0})
    assert [r.outcome for r in caught.value.report.results] == [Outcome.APPLIED, Outcome.APPLIED, Outcome.REFUSED]
    assert [r.attempts for r in caught.value.report.results] == [2, 1, 1]
    assert [machine.arrived(name) for name in ("LOSTONCE", "CLAMP", "REFUSE")] == [2, 1, 1]


@pytest.mark.needs("faults")
def test_silence_costs_the_same_for_many_as_for_one(machine: Machine) -> None:
    pvs = machine.pvs("LOST", "HALF", "LATE")
    control = machine.control(timeout=TIMEOUT, retry_delay=DELAY, parallel=True)
    with pytest.raises(PutUnknown) as caught:
        control.set(dict.fromkeys(pvs, 2.0))
    assert all(result.outcome is Outcome.UNKNOWN for result in caught.value.report.results)
    # Two attempts, the wait between them, and two read-backs that answer at once.
    assert max(r.seconds for r in caught.value.report.results) < 2 * TIMEOUT + DELAY + 2.0


@pytest.mark.needs("unsent")
def test_what_never_left_may_be_sent_again_and_says_so(own_machine: Machine) -> None:
    """The server dies between the first put of a call and the second."""
    first, second = own_machine.pvs("SP:000", "DBL")
    recorder = Recorder(lambda result: own_machine.vanish() if result.pv == first else None)
    # As a command the first one is not read back, so that nothing is read between the two puts.
    control = own_machine.control(timeout=TIMEOUT, retry_delay=DELAY, sink=recorder, relative=(first,))
    with pytest.raises(PutTimeout) as caught:
        control.set({first: 1.5, second: 2.5})
    assert not isinstance(caught.value, PutUnknown)
    result = caught.value.report[second]
    assert (result.outcome, result.attempts) == (Outcome.NOT_SENT, 2)
    assert "tried 2 times" in str(caught.value) and "0.5 s" in str(caught.value)
    own_machine.come_back()
    assert own_machine.look("DBL") == 1.5


@pytest.mark.needs("unsent")
def test_a_put_that_never_left_is_sent_when_the_server_is_back(own_machine: Machine) -> None:
    first, second = own_machine.pvs("SP:000", "DBL")
    gone: list[str] = []

    def on_attempt(result: PutResult) -> None:
        if result.pv == first and not gone:
            gone.append(first)
            own_machine.vanish()
        elif result.pv == second and result.outcome is Outcome.NOT_SENT and len(gone) == 1:
            gone.append(second)
            own_machine.come_back()

    control = own_machine.control(
        timeout=1.5, retry_delay=DELAY, put_attempts=5, sink=Recorder(on_attempt), relative=(first,)
    )
    report = control.set({first: 1.5, second: 2.5})
    assert report[second].outcome is Outcome.APPLIED and report[second].attempts > 1
    assert own_machine.look("DBL") == 2.5


@pytest.mark.parametrize("then", ["missing", "refused"])
def test_what_was_sent_once_is_not_called_unsent_by_a_second_attempt(then: str) -> None:
    """The first attempt is lost on the way, the second one never leaves, or is refused: the first may still happen."""
    machine = MemoryMachine(SimulatedMachine())
    pv = machine.pv("LOSTONCE")
    control = machine.control(timeout=0.2, retry_delay=0.0, put_interval=0.8)
    call = Running(partial(attempt, control, pv, 2.0))
    eventually(lambda: machine.arrived("LOSTONCE"), 1)
    # Between the read-back, which shows the old value, and the second attempt lies the interval of puts.
    machine.memory.later(0.5, lambda: machine.memory.fault(pv, then))
    assert type(call.result()) is PutUnknown
    result = control.last_report[pv]
    assert (result.outcome, result.attempts) == (Outcome.UNKNOWN, 2)
    assert "an attempt before was sent and not answered" in result.message
    machine.close()


def test_an_answered_put_to_a_command_counts_once(machine: Machine) -> None:
    pv = machine.pv("CMD")
    control = machine.control(relative=[pv])
    for _ in range(3):
        control.set({pv: 1})
    eventually(lambda: machine.arrived("CMD"), 3)
