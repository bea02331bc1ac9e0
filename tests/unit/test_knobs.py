"""Knobs, conditions and bounds as declarations, on a machine in memory."""

from __future__ import annotations

from typing import Any

import pytest

from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control import Control
from badger_k2eg.core import clock
from badger_k2eg.core.model import Limits
from badger_k2eg.core.settings import Settings, load
from badger_k2eg.core.units import Quantity
from badger_k2eg.errors import ConditionNotMet, PutMismatch, ReadError, SetpointBlocked, ValidationFailed
from badger_k2eg.tuning import Bounds, Buffer, Condition, Expression, Knob, Mover, Observable, filled, wait_for
from tests.rig.pace import pace


@pytest.fixture
def machine(memory_context: MemoryBackend) -> MemoryBackend:
    memory_context.add("Q:SET", 1.0, limits=(-10.0, 10.0))
    memory_context.add("Q:READ", 1.0)
    memory_context.add("Q:STATUS", 0, choices=("Ready", "Ramping"))
    memory_context.add("FREE", 1.0)
    memory_context.add("PERMIT", 0, choices=("TRIP", "OK"))
    memory_context.add("CURRENT", 0.0)
    memory_context.follow("Q:SET", "Q:READ", after=0.1)
    return memory_context


def control(machine: MemoryBackend, **options: Any) -> Control:
    return Control(machine, load({"timeout": 0.4, **options}))


def sent(machine: MemoryBackend, pv: str) -> list[Any]:
    return [value for name, value in machine.puts if name == pv]


def test_a_move_waits_for_the_readback(machine: MemoryBackend) -> None:
    knobs = {"q": Knob("Q:SET", readback="Q:READ", tolerance=0.1)}
    report = Mover(control(machine)).move({"q": 3.0}, knobs)
    assert report["Q:SET"].arrived == 3.0


def test_a_move_that_does_not_arrive_says_so(machine: MemoryBackend) -> None:
    knobs = {"q": Knob("Q:SET", readback="FREE", tolerance=0.1)}
    with pytest.raises(ValidationFailed, match="FREE wanted 3"):
        Mover(control(machine)).move({"q": 3.0}, knobs)


def test_a_move_is_done_when_the_status_clears(machine: MemoryBackend) -> None:
    def ramp(value: float) -> None:
        machine.post("Q:STATUS", 1)
        machine.later(0.3, lambda: machine.post("Q:STATUS", 0))

    machine.on_put("Q:SET", ramp)
    knobs = {"q": Knob("Q:SET", readback="Q:READ", tolerance=0.1, done="Q:STATUS", done_value="Ready", timeout=2.0)}
    began = clock.monotonic()
    Mover(control(machine)).move({"q": 3.0}, knobs)
    assert clock.monotonic() - began >= 0.3
    assert machine.value("Q:STATUS") == 0


def test_settling_is_fixed_and_by_the_size_of_the_step(machine: MemoryBackend) -> None:
    mover = Mover(control(machine))
    began = clock.monotonic()
    mover.move({"q": 3.0}, {"q": Knob("Q:SET", settle=0.1, settle_per_unit=0.1)})
    assert 0.3 <= clock.monotonic() - began < 2.0
    began = clock.monotonic()
    mover.move({"q": 3.0}, {"q": Knob("Q:SET", settle_per_unit=10.0)})
    assert clock.monotonic() - began < 2.0


@pytest.mark.parametrize(
    ("approach", "target", "expected"),
    [
        ("below", 4.0, [4.0]),
        ("below", -4.0, [-5.0, -4.0]),
        ("above", 4.0, [5.0, 4.0]),
        ("above", -4.0, [-4.0]),
        ("below", -9.5, [-10.0, -9.5]),
    ],
)
def test_a_setpoint_is_reached_from_one_side(
    machine: MemoryBackend, approach: Any, target: float, expected: list[float]
) -> None:
    Mover(control(machine)).move({"q": target}, {"q": Knob("Q:SET", approach=approach, overshoot=0.05)})
    assert sent(machine, "Q:SET") == expected


def test_a_refused_move_does_not_even_begin(machine: MemoryBackend) -> None:
    knobs = {"q": Knob("Q:SET", approach="below"), "free": Knob("FREE", bounds=(0.0, 2.0))}
    with pytest.raises(SetpointBlocked, match="FREE"):
        Mover(control(machine, limits={"FREE": (0.0, 2.0)})).move({"q": -4.0, "free": 3.0}, knobs)
    assert machine.puts == []


def test_read_only_moves_nothing_and_does_not_wait(machine: MemoryBackend) -> None:
    knobs = {"q": Knob("Q:SET", approach="below", settle=30.0)}
    began = clock.monotonic()
    Mover(control(machine, read_only=True)).move({"q": -4.0}, knobs)
    assert machine.puts == []
    assert clock.monotonic() - began < 5.0


def test_bounds_are_the_records_or_ones_own(machine: MemoryBackend) -> None:
    own = Bounds(control(machine, limits={"Q:*": (-3.0, 20.0)}).reader)
    knobs = [Knob("Q:SET"), Knob("FREE", bounds=(0.0, 2.0))]
    assert own.find(knobs) == {"Q:SET": Limits(-3.0, 10.0), "FREE": Limits(0.0, 2.0)}
    # Read once: a look at the bounds is part of every step.
    machine.fault("Q:SET", "missing")
    began = clock.monotonic()
    assert own.find(knobs)["Q:SET"] == Limits(-3.0, 10.0)
    assert clock.monotonic() - began < 0.3


def test_a_record_that_does_not_answer_has_no_bounds(machine: MemoryBackend) -> None:
    bounds = Bounds(control(machine).reader)
    knobs = [Knob("Q:SET"), Knob("GONE"), Knob("AWAY", bounds=(0.0, 1.0))]
    with pytest.raises(
        ReadError, match="^GONE: .*nobody serves it; the bounds of its knob are to come from its record$"
    ):
        bounds.find(knobs)
    # Asked again as soon as somebody wants to know.
    machine.add("GONE", 0.0, limits=(-1.0, 1.0))
    assert bounds.find(knobs)["GONE"] == Limits(-1.0, 1.0)


def test_a_move_reads_all_that_it_must_know_of_its_setpoints_at_once(
    machine: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unit, present value and drive limits, of every knob."""
    reads: list[list[str]] = []
    get_many = machine.get_many

    def counted(addresses: Any, deadline: Any) -> Any:
        reads.append([address.text for address in addresses])
        return get_many(addresses, deadline)

    machine.add("KICK", 0.0, limits=(-10.0, 10.0), units="mm")
    ours = control(machine)
    knobs = {
        "q": Knob("Q:SET", approach="below", overshoot=0.05, dwell=0.0),
        "kick": Knob("KICK", unit="mm", settle_per_unit=0.01),
    }
    monkeypatch.setattr(machine, "get_many", counted)
    # As many reads as these calls make, one of which the move saves by its own.
    ours.check({"Q:SET": -4.0, "KICK": 2.0})
    ours.set({"Q:SET": -5.0})
    ours.set({"Q:SET": -4.0, "KICK": 2.0})
    alone = len(reads)
    ours.set({"Q:SET": 1.0, "KICK": 0.0})
    machine.puts.clear()
    reads.clear()
    Mover(ours).move({"q": -4.0, "kick": Quantity(0.2, "cm")}, knobs)
    assert sent(machine, "Q:SET") == [-5.0, -4.0] and sent(machine, "KICK") == [2.0]
    assert reads[0] == ["Q:SET", "KICK"] and len(reads) <= alone


def test_conditions_are_waited_for_together(machine: MemoryBackend) -> None:
    machine.later(0.2, lambda: machine.post("PERMIT", 1))
    machine.later(0.3, lambda: machine.post("CURRENT", 5.0))
    wait_for(
        Control(machine, Settings()).reader,
        [Condition("PERMIT", equals="OK", timeout=5.0), Condition("CURRENT", at_least=1.0, at_most=9.0, timeout=5.0)],
    )
    assert machine.value("CURRENT") == 5.0


def test_a_condition_is_seen_as_soon_as_it_holds(machine: MemoryBackend) -> None:
    machine.later(0.25, lambda: machine.post("PERMIT", 1))
    machine.later(0.27, lambda: machine.post("PERMIT", 0))
    began = clock.monotonic()
    wait_for(control(machine).reader, [Condition("PERMIT", equals="OK", timeout=1.0)])
    assert clock.monotonic() - began < 0.27 * pace()


def test_each_condition_has_its_own_time_and_a_silent_pv_may_come(machine: MemoryBackend) -> None:
    machine.later(0.5, lambda: machine.add("LATE", 1.0))
    machine.later(0.7, lambda: machine.post("LATE", 5.0))
    patient = Condition("LATE", at_least=5.0, timeout=5.0)
    wait_for(control(machine).reader, [patient, Condition("CURRENT", at_most=0.0, timeout=0.1)])
    with pytest.raises(ConditionNotMet, match="waited 0.1 s for CURRENT >= 1: it reads 0.0"):
        wait_for(control(machine).reader, [patient, Condition("CURRENT", at_least=1.0, timeout=0.1)])


def test_a_condition_in_vain_names_its_reason(machine: MemoryBackend) -> None:
    condition = Condition("PERMIT", equals="OK", timeout=0.3, reason="beam permit")
    with pytest.raises(ConditionNotMet, match=r"waited 0.3 s for beam permit \(PERMIT = 'OK'\): it reads 'TRIP'"):
        wait_for(Control(machine, Settings()).reader, [condition])
    with pytest.raises(TimeoutError, match="nobody serves it"):
        wait_for(control(machine).reader, [Condition("GONE", equals=1, timeout=0.1)])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Knob("Q", readback="R"), "needs a tolerance"),
        (lambda: Knob("Q", tolerance=1.0), "tolerance needs readback"),
        (lambda: Knob("Q", readback="R", tolerance=-1.0), "tolerance"),
        (lambda: Knob("Q", bounds=(2.0, 1.0)), "bounds must be a low and a higher number"),
        (lambda: Knob("Q", approach="left"), "approach must be below or above"),
        (lambda: Knob("Q", done="S"), "done_value"),
        (lambda: Knob("Q", settle=-1.0), "settle"),
        (lambda: Condition("P"), "needs equals="),
        (lambda: Condition("P", equals=1, timeout=0.0), "timeout"),
        (lambda: Knob("Q", readback="R", tolerance="0.1"), "knob Q: tolerance must be a number >= 0, not '0.1'"),
        (lambda: Knob("Q", timeout="5"), "knob Q: timeout must be a number of seconds, not '5'"),
        (lambda: Knob("Q", bounds=3), "bounds must be a low and a higher number, not 3"),
        (lambda: Knob("Q", readback=3, tolerance=1.0), "knob Q: a PV must be a text, not 3"),
        (lambda: Condition("P", at_least="x"), "condition on P: at_least must be a number, not 'x'"),
        (lambda: Knob("Q", readback="R", tolerence=1.0), "Knob Q: there is no 'tolerence'; did you mean 'tolerance'?"),
        (lambda: Knob(setpoint="Q", readbck="R"), "Knob Q: there is no 'readbck'; did you mean 'readback'?"),
        (lambda: Condition("P", equal=1), "Condition P: there is no 'equal'; did you mean 'equals'?"),
        (lambda: Knob(), "Knob: missing 1 required positional argument: 'setpoint'"),
    ],
)
def test_a_wrong_declaration_says_so(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()


@pytest.mark.parametrize(
    ("tolerance", "bounds", "against"),
    [
        (2.0, None, "its range, -10 to 10"),
        (0.5, (0.0, 8.0), "its range, 0 to 8"),
        (0.3, (0.0, 8.0), "this step of 0.25"),
        (0.1, (0.0, 8.0), None),
    ],
)
def test_a_tolerance_that_is_not_small_is_warned_of_once(
    machine: MemoryBackend, caplog: pytest.LogCaptureFixture, tolerance: float, bounds: Any, against: str | None
) -> None:
    mover = Mover(control(machine))
    knobs = {"q": Knob("Q:SET", readback="Q:READ", tolerance=tolerance, bounds=bounds)}
    for value in (1.25, 1.5):
        mover.move({"q": value}, knobs)
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    said = f"q: the tolerance {tolerance:g} is not small compared with {against}: it counts as arrived before it moves"
    assert warned == ([said] if against else [])


def test_parameters_are_filled_in_everywhere() -> None:
    names = {"p": "LINAC"}
    knob = filled(Knob("{p}:SET", readback="{p}:READ", tolerance=1.0), names)
    assert (knob.setpoint, knob.readback) == ("LINAC:SET", "LINAC:READ")
    expression = filled(Expression("a + b", a="{p}:A", b=Buffer("{p}:B", points=2, rate="{p}:RATE")), names)
    assert expression.parts == {"a": Observable("LINAC:A"), "b": Buffer("LINAC:B", points=2, rate="LINAC:RATE")}
    assert filled([Condition("{p}:OK", equals=1)], names) == [Condition("LINAC:OK", equals=1)]
    with pytest.raises(ValueError, match="the parameters are p"):
        filled(Knob("{q}:SET"), names)


def test_an_emptied_parameter_is_named() -> None:
    # None is what Badger's window makes of an entry that is emptied; an empty text is somebody's will.
    with pytest.raises(ValueError, match="parameter p is empty"):
        filled(Knob("{p}:SET"), {"p": None, "q": "LINAC"})
    assert filled(Knob("{p}SET"), {"p": ""}).setpoint == "SET"


def test_a_quantity_is_turned_to_in_the_setpoints_unit() -> None:
    memory = MemoryBackend()
    memory.add("AMPS", 1.0, units="Amps", limits=(-50.0, 50.0))
    memory.add("BARE", 1.0)
    mover = Mover(Control(memory))
    knobs = {"amps": Knob("AMPS", approach="below"), "bare": Knob("BARE", unit="kG"), "plain": Knob("BARE")}
    mover.move({"amps": Quantity(-2000, "mA")}, knobs)
    mover.move({"bare": Quantity(0.5, "T")}, knobs)
    assert memory.value("AMPS") == -2.0 and memory.value("BARE") == pytest.approx(5.0)
    for name, value, says in (
        ("amps", Quantity(1, "T"), "its unit is Amps"),
        ("bare", Quantity(1, "A"), "its unit is kG"),
        ("plain", Quantity(1, "A"), "it has no unit"),
    ):
        with pytest.raises(SetpointBlocked, match=says):
            mover.move({name: value}, knobs)
    with pytest.raises(SetpointBlocked, match="declares mA, but its record has Amps"):
        mover.move({"x": 1.0}, {"x": Knob("AMPS", unit="mA")})
    assert memory.value("AMPS") == -2.0


def test_a_unit_that_a_knob_declares_must_exist() -> None:
    with pytest.raises(ValueError, match="there is no unit 'ampers'"):
        Knob("X", unit="ampers")


def test_a_setpoint_that_quantises_is_declared(machine: MemoryBackend) -> None:
    machine.add("DAC:SET", 0.0)
    machine.on_put("DAC:SET", lambda value: machine.post("DAC:SET", round(value, 1)))
    with pytest.raises(PutMismatch, match=r"DAC:SET .* it reads 3\.3"):
        Mover(control(machine)).move({"dac": 3.33}, {"dac": Knob("DAC:SET")})
    report = Mover(control(machine)).move({"dac": 3.33}, {"dac": Knob("DAC:SET", setpoint_tolerance=0.05)})
    assert report["DAC:SET"].ok and report["DAC:SET"].readback.value == 3.3
    with pytest.raises(ValueError, match="setpoint_tolerance must be a number >= 0"):
        Knob("DAC:SET", setpoint_tolerance=-1.0)
