"""X1, X2: nothing counts as applied, or as refused, before the PV was seen to hold it; undo knows all that was sent.

Each way in which a record may hold another value than it was asked for, with drive limits and without, with a validator
that is satisfied, one that is not, and none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from badger_k2eg import run
from badger_k2eg.control import Control
from badger_k2eg.control.validators import within
from badger_k2eg.core.model import Outcome, PutResult, PvAddress, Reading
from badger_k2eg.core.settings import Settings
from badger_k2eg.errors import PutMismatch, PutUnknown, SetError, ValidationFailed
from badger_k2eg.journal import Journal
from badger_k2eg.run.restore import Restore
from badger_k2eg.run.restore_plan import Fate
from tests.rig.waiting import eventually

from .machine import PATIENCE, Machine, Recorder

ASKED = 7.0


@dataclass(frozen=True)
class Way:
    """One way to hold another value.

    :ivar pv: the record; ``{}`` stands for L (with drive limits) or F (without).
    :ivar meddle: what somebody else does when the put was answered.
    :ivar sneak: what somebody else does between the guard and the put.
    """

    name: str
    pv: str
    held: float = 4.0
    asked: float = ASKED
    meddle: Callable[[Machine, str], None] | None = None
    sneak: Callable[[Machine, str], None] | None = None
    kinds: str = "LF"


WAYS = [
    Way("closed loop", "CLOSED:{}"),
    Way("written back by a link", "LINKED:{}"),
    Way("cut by a calcout", "CALC:{}"),
    Way("an input with its own source", "INPUT:{}"),
    Way("quantised", "QUANT:{}", held=7.3, asked=7.33),
    Way("another client", "SHARED:{}", held=3.0, meddle=lambda machine, name: machine.move(name, 3.0)),
    Way("limit lowered", "LOWERED:{}", 5.0, sneak=lambda machine, name: machine.lower(name, 5.0), kinds="L"),
]
CASES = {f"{w.name}, {'limits' if k == 'L' else 'no limits'}": (w, w.pv.format(k)) for w in WAYS for k in w.kinds}
VALIDATED = ["none", "satisfied", "function", "failing"]


class Meddler(Recorder):
    """Somebody else, who moves between two steps of a call."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine

    def set_began(self, before: Mapping[PvAddress, Reading], asked: Any, validators: Any) -> str | None:
        for way, name in CASES.values():
            if way.sneak is not None:
                way.sneak(self._machine, name)
        return None

    def puts_attempted(self, results: Mapping[PvAddress, PutResult]) -> None:
        super().puts_attempted(results)
        for way, name in CASES.values():
            if way.meddle is not None:
                way.meddle(self._machine, name)


def validator_of(machine: Machine, kind: str) -> Any:
    if kind == "none":
        return None
    # One that is satisfied at once, and one that never is.
    readback, band = machine.pv("STATIC"), 0.5 if kind in ("satisfied", "function") else 0.1
    ours = within(readback, tolerance=band, offset=0.0 if band == 0.5 else 1.0, timeout=0.3)
    return ours if kind != "function" else lambda **call: ours(**call)


@pytest.fixture(scope="module")
def ended(module_machine: Machine) -> Iterator[dict[str, dict[str, tuple[PutResult, Any]]]]:
    """Put to all of them in one call, once for each kind of validator; and look at each past all of our code."""
    machine, found = module_machine, {}
    asked = {machine.pv(name): way.asked for way, name in CASES.values()}
    machine.pv("STATIC")
    for kind in VALIDATED:
        control = machine.control(sink=Meddler(machine), parallel=True)
        validators = {pv: validator_of(machine, kind) for pv in asked if kind != "none"}
        with pytest.raises(SetError) as caught:
            control.set(asked, validators)
        report = caught.value.report
        found[kind] = {case: (report[machine.pv(name)], machine.look(name)) for case, (_, name) in CASES.items()}
        for way, name in CASES.values():
            if way.sneak is not None:
                machine.lower(name, 10.0)
    yield found


def put(control: Control, pv: str, value: Any, validator: Any = None) -> tuple[PutResult, SetError | None]:
    try:
        control.set({pv: value}, {} if validator is None else {pv: validator})
    except SetError as error:
        return error.report[pv], error
    assert control.last_report is not None
    return control.last_report[pv], None


@pytest.mark.parametrize("validated", VALIDATED)
@pytest.mark.parametrize("case", CASES)
def test_what_holds_another_value_was_not_applied(ended: Any, case: str, validated: str) -> None:
    way, _ = CASES[case]
    result, held = ended[validated][case]
    if result.outcome is Outcome.REFUSED and way.sneak is not None:
        # The gateway has a guard of its own, which knows the new limit.
        assert "outside its drive limits" in result.message and held != ASKED
        return
    assert held == pytest.approx(way.held), "the record is what the test needs"
    assert result.outcome is Outcome.UNKNOWN, str(result)
    assert type(result.error) is PutMismatch
    assert "it reads " in str(result.error)
    assert result.readback is not None and result.readback.value == pytest.approx(way.held)
    assert ("not arrived" in result.message) is (validated == "failing")


@pytest.mark.parametrize("kind", "LF")
def test_a_loop_that_is_scanned_takes_the_value_back(machine: Machine, kind: str) -> None:
    name = f"SCANNED:{kind}"
    pv = machine.pv(name)
    slow = within(machine.pv("STATIC"), tolerance=0.5, settle=0.3, timeout=PATIENCE)
    result, error = put(machine.control(), pv, ASKED, slow)
    assert (result.outcome, type(error)) == (Outcome.UNKNOWN, PutMismatch)
    # Without a validator the call ends before the loop's turn: then it says what it held at that moment.
    result, error = put(machine.control(), pv, ASKED)
    assert result.readback is not None
    assert (result.outcome is Outcome.APPLIED) is (result.readback.value == ASKED) is (error is None)


def test_the_value_that_is_there_was_applied(machine: Machine) -> None:
    for kind in "LF":
        for name, asked in (("PLAIN", 3.0), ("CALC", 2.0), ("CLOSED", 4.0), ("QUANT", 2.5)):
            result, error = put(machine.control(), machine.pv(f"{name}:{kind}"), asked)
            assert (result.outcome, error) == (Outcome.APPLIED, None), str(result)
            assert result.readback is not None and result.readback.value == asked, "with its proof"


def test_a_record_that_quantises_is_declared(machine: Machine) -> None:
    pv = machine.pv("QUANT:F")
    for tolerance, outcome in ((0.05, Outcome.APPLIED), (0.02, Outcome.UNKNOWN)):
        result, _ = put(machine.control(put_tolerance={pv: tolerance}), pv, 7.33)
        assert result.outcome is outcome, str(result)
    control = machine.control()
    control.tolerances[pv] = 0.05
    assert put(control, pv, 6.66)[0].outcome is Outcome.APPLIED


@pytest.mark.needs("sizes")
def test_integer_limits_compare_as_integers(machine: Machine) -> None:
    pv = machine.pv("LONG")
    if machine.name == "ca":
        pytest.skip("Channel Access has no 64 bit integers")
    result, _ = put(machine.control(), pv, 2**53 + 2)
    assert (result.outcome, machine.look("LONG")) == (Outcome.APPLIED, 2**53 + 2)
    result, _ = put(machine.control(), pv, 2**53 + 3)
    assert result.outcome is Outcome.BLOCKED, str(result)


@pytest.mark.parametrize("parallel", [True, False], ids=["parallel", "serial"])
def test_one_of_a_call_writes_over_another(machine: Machine, parallel: bool) -> None:
    """The second put moves the first one's PV, which was read back by then."""
    first, second = machine.pvs("PLAIN:L", "PLAIN:F")

    def couple(result: PutResult) -> None:
        if result.pv == second:
            machine.move("PLAIN:L", 1.0)

    control = machine.control(sink=Recorder(couple), parallel=parallel)
    with pytest.raises(PutMismatch, match=r"it reads 1\.0") as caught:
        control.set({first: 2.0, second: 2.0})
    outcomes = [caught.value.report[pv].outcome for pv in (first, second)]
    assert outcomes == [Outcome.UNKNOWN, Outcome.APPLIED]


def test_one_is_written_over_while_another_is_waited_for(machine: Machine) -> None:
    first, second = machine.pvs("PLAIN:L", "PLAIN:F")

    def meddle(**call: Any) -> None:
        machine.move("PLAIN:L", 1.0)

    control = machine.control(parallel=True)
    with pytest.raises(PutMismatch, match=r"it reads 1\.0") as caught:
        control.set({first: 2.0, second: 2.0}, {second: meddle})
    outcomes = [caught.value.report[pv].outcome for pv in (first, second)]
    assert outcomes == [Outcome.UNKNOWN, Outcome.APPLIED]


def test_a_server_that_restarts_after_the_put(own_machine: Machine) -> None:
    pv = own_machine.pv("PLAIN:L")

    def restart(result: PutResult) -> None:
        own_machine.vanish()
        own_machine.come_back()

    control = own_machine.control(sink=Recorder(restart), timeout=PATIENCE)
    result, error = put(control, pv, 7.0)
    if own_machine.name == "memory":
        return  # memory keeps its values
    assert (result.outcome, type(error)) == (Outcome.UNKNOWN, PutMismatch), str(result)
    assert "it reads 4.0" in result.message


def test_a_command_is_applied_as_answered(machine: Machine) -> None:
    pv = machine.pv("CLOSED:L")
    result, error = put(machine.control(relative=(pv,)), pv, ASKED)
    assert (result.outcome, error, result.readback) == (Outcome.APPLIED, None, None)
    assert "as answered" in result.message


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", "LF")
def test_a_refusal_that_was_written_is_unknown(machine: Machine, kind: str) -> None:
    pv = machine.pv(f"FAILING:{kind}")
    machine.break_output(f"FAILING:{kind}")
    asked = machine.look(f"FAILING:{kind}") - 1.0
    result, error = put(machine.control(), pv, asked)
    assert machine.look(f"FAILING:{kind}") == asked
    assert (result.outcome, type(error)) == (Outcome.UNKNOWN, PutUnknown), str(result)
    assert f"and yet it holds {asked!r}" in str(error) and "refused" in str(error)


def test_a_refusal_that_was_none_stays_one(machine: Machine) -> None:
    result, _ = put(machine.control(), machine.pv("DISP"), 3.0)
    assert result.outcome is Outcome.REFUSED
    assert result.readback is not None and result.readback.value == 1.0


# -- and back ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setenv("BADGER_K2EG_JOURNAL_DIR", str(tmp_path / "journal"))
    monkeypatch.setenv("BADGER_K2EG_LOCK_DIR", str(tmp_path / "locks"))
    return Journal.open()


def test_every_undo_considers_what_was_sent(
    machine: Machine, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BADGER_K2EG_RUN_ON_EXCEPTION", "leave")
    names = ["FAILING:L", "CLOSED:F", "PLAIN:F", "DISP", "QUANT:L"]
    asked = dict(zip(machine.pvs(*names), [3.0, ASKED, 3.0, 3.0, 8.88], strict=True))
    machine.break_output("FAILING:L")
    before = [machine.look(name) for name in names]
    run.declare()
    control = run.Attachment().attach(machine.control(parallel=True))
    with pytest.raises(SetError) as caught:
        control.set(asked)
    outcomes = [str(result.outcome) for result in caught.value.report.values()]
    assert outcomes == ["unknown", "unknown", "applied", "refused", "unknown"]
    ours = run.current()
    assert ours is not None
    assert all(ours.moved[PvAddress.parse(pv).own_name].held.values for pv in asked), "those of the run itself"
    run.end()
    fates = {step.pv: step.fate for step in Restore(machine.control(), journal, "last").steps}
    there, to_do = Fate.THERE, Fate.TO_DO
    assert list(map(fates.get, asked)) == [to_do, there, to_do, there, to_do]
    steps = Restore(machine.control(), journal, "last").run()
    # Its output still fails, and it holds what it held before.
    assert {step.pv for step in steps if step.fate is Fate.RESTORED} == {*machine.pvs("PLAIN:F", "QUANT:L")}
    assert [machine.look(name) for name in names] == before


def test_an_interrupted_look_leaves_no_claim(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    control = machine.control()
    pv = machine.pv("PLAIN:L")
    read, answered = control.backend.get_many, []

    def interrupted(*arguments: Any) -> Any:
        if answered:
            raise KeyboardInterrupt
        return read(*arguments)

    monkeypatch.setattr(control.backend, "get_many", interrupted)
    monkeypatch.setattr(control, "sink", Recorder(answered.append))
    with pytest.raises(KeyboardInterrupt):
        control.set({pv: 3.0})
    assert control.last_report is not None
    result = control.last_report[pv]
    assert result.outcome is Outcome.UNKNOWN and "not read back yet" in result.message


def test_an_interrupt_before_the_look_leaves_no_claim(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    pv = machine.pv("PLAIN:L")

    def interrupt(result: PutResult) -> None:
        raise KeyboardInterrupt

    control = machine.control(sink=Recorder(interrupt))
    with pytest.raises(KeyboardInterrupt):
        control.set({pv: 3.0})
    assert control.last_report is not None
    assert control.last_report[pv].outcome is Outcome.UNKNOWN


def test_the_default_tolerance_is_none() -> None:
    assert Settings().tolerance_of("ANY:PV") == 0.0
    assert partial(Settings, put_tolerance=(("A:*", 0.5), ("A:1", 0.1)))().tolerance_of("A:1") == 0.1


def test_a_failed_validation_of_what_was_applied_says_both(machine: Machine) -> None:
    pv = machine.pv("PLAIN:L")
    result, error = put(machine.control(), pv, 3.0, within(machine.pv("STATIC"), tolerance=0.1, timeout=0.2))
    assert (result.outcome, type(error)) == (Outcome.APPLIED, ValidationFailed)
    eventually(lambda: machine.look("PLAIN:L"), 3.0)
