"""Moves of knobs: a flag that rises late, and the way past the target against hysteresis. On a machine in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from badger_k2eg import run
from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control import Control
from badger_k2eg.control.validators import Watch, reaches
from badger_k2eg.core import clock
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import Outcome, SetReport
from badger_k2eg.core.records import RecordKind
from badger_k2eg.core.settings import load
from badger_k2eg.errors import CallCancelled, PutTimeout, PutUnknown, ValidationFailed
from badger_k2eg.journal import Journal
from badger_k2eg.testing.virtual_clock import VirtualClock
from badger_k2eg.tuning import Knob, Mover

LONG_AGO = 1_000_000_000


@pytest.fixture
def machine(memory_context: MemoryBackend) -> MemoryBackend:
    memory_context.add("SET", 1.0, limits=(-10.0, 10.0), timestamp_ns=LONG_AGO)
    memory_context.add("READ", 1.0)
    memory_context.add("FLAG", 0, choices=("Ready", "Moving"))
    memory_context.add("FREE", 0.0)
    return memory_context


def control(machine: MemoryBackend, **options: Any) -> Control:
    return Control(machine, load({"timeout": 0.4, **options}))


def moving(machine: MemoryBackend, late: float, lasts: float) -> None:
    """Let every put raise the flag after ``late`` seconds; the readback arrives when it clears."""

    def rise(value: float) -> None:
        machine.post("FLAG", 1)
        machine.later(lasts, lambda: (machine.post("READ", value), machine.post("FLAG", 0)))

    machine.on_put("SET", lambda value: machine.later(late, lambda: rise(value)))


def timed(act: Callable[[], Any]) -> float:
    began = clock.monotonic()
    act()
    return clock.monotonic() - began


def knob(**words: Any) -> dict[str, Knob]:
    return {"q": Knob("SET", done="FLAG", done_value="Ready", **words)}


# -- a flag that rises late -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [0.01, 0.1, 0.3])
def test_a_move_ends_when_its_flag_has_risen_and_cleared(machine: MemoryBackend, late: float) -> None:
    moving(machine, late, 0.2)
    took = timed(lambda: Mover(control(machine)).move({"q": 3.0}, knob()))
    assert machine.value("READ") == 3.0
    assert late + 0.2 <= took < 2.5  # and not the three seconds that it may take to rise


def test_a_flag_that_never_rises_counts_when_its_time_is_over(machine: MemoryBackend) -> None:
    took = timed(lambda: Mover(control(machine)).move({"q": 3.0}, knob(rise=0.5)))
    assert 0.5 <= took < 2.0


def test_hold_and_settle_work_with_a_flag_alone(machine: MemoryBackend) -> None:
    moving(machine, 0.05, 0.1)
    took = timed(lambda: Mover(control(machine)).move({"q": 3.0}, knob(hold=0.3, timeout=5.0, settle=0.2)))
    assert 0.65 <= took < 2.5


def test_hold_begins_anew_when_the_flag_rises_again(machine: MemoryBackend) -> None:
    moving(machine, 0.05, 0.1)
    machine.on_put("SET", lambda value: machine.later(0.3, lambda: machine.post("FLAG", 1)))
    machine.on_put("SET", lambda value: machine.later(0.5, lambda: machine.post("FLAG", 0)))
    took = timed(lambda: Mover(control(machine)).move({"q": 3.0}, knob(hold=0.3, timeout=5.0)))
    assert took >= 0.8


def test_the_time_of_the_move_begins_with_the_rise(machine: MemoryBackend) -> None:
    moving(machine, 0.5, 0.3)
    knobs = knob(rise=1.0, readback="READ", tolerance=0.1)
    # The interface's time, 0.4 s, is shorter than the flag takes to rise.
    assert Mover(control(machine)).move({"q": 3.0}, knobs)["SET"].arrived == 3.0


def test_a_flag_that_does_not_clear_fails_in_its_time(machine: MemoryBackend) -> None:
    machine.on_put("SET", lambda value: machine.later(0.2, lambda: machine.post("FLAG", 1)))
    began = clock.monotonic()
    with pytest.raises(ValidationFailed, match="FLAG wanted 'Ready', last seen 'Moving', waited 0.9 s"):
        Mover(control(machine)).move({"q": 3.0}, knob(rise=0.5))
    assert 0.9 <= clock.monotonic() - began < 3.0


def test_the_end_of_an_older_move_is_not_the_end_of_this_one(machine: MemoryBackend) -> None:
    """The flag was up before the put, and clears while the machine has not begun to do what it was told last."""
    machine.post("FLAG", 1)
    machine.later(0.1, lambda: machine.post("FLAG", 0))
    moving(machine, 0.4, 0.2)
    Mover(control(machine)).move({"q": 3.0}, knob(rise=2.0))
    assert machine.value("READ") == 3.0


def test_a_value_that_the_setpoint_has_long_held_needs_no_rise(machine: MemoryBackend) -> None:
    assert timed(lambda: Mover(control(machine)).move({"q": 1.0}, knob(rise=30.0))) < 2.0


def test_a_value_put_a_moment_ago_may_still_raise_the_flag(machine: MemoryBackend, virtual_clock: VirtualClock) -> None:
    """A call is cancelled before the flag rises, and made again at once."""
    moving(machine, 0.5, 0.2)
    mover = Mover(control(machine))
    deadline = Deadline()
    virtual_clock.later(0.1, deadline.cancel)
    with pytest.raises(CallCancelled):
        mover.move({"q": 3.0}, knob(), deadline)
    assert machine.value("SET") == 3.0 and machine.value("READ") == 1.0
    mover.move({"q": 3.0}, knob())
    assert machine.value("READ") == 3.0


@pytest.mark.parametrize("stamp", [None, "future"])
def test_without_a_time_to_go_by_the_rise_is_waited_for(machine: MemoryBackend, stamp: Any) -> None:
    at = None if stamp is None else clock.time_ns() + 10**12
    machine.add("SET", 1.0, limits=(-10.0, 10.0), timestamp_ns=at)
    assert timed(lambda: Mover(control(machine)).move({"q": 1.0}, knob(rise=0.5))) >= 0.5


def test_the_same_command_once_more_does_move(machine: MemoryBackend) -> None:
    moving(machine, 0.3, 0.2)
    took = timed(lambda: Mover(control(machine, relative="SET")).move({"q": 1.0}, knob()))
    assert took >= 0.5


def test_of_a_ramp_the_last_steps_rise_cannot_be_told_from_an_earlier_ones(machine: MemoryBackend) -> None:
    moving(machine, 0.3, 0.05)
    ramped = control(machine, max_step={"SET": 1.0}, ramp=True, put_interval=0.2)
    Mover(ramped).move({"q": 3.0}, knob(rise=0.6))
    assert machine.value("READ") == 3.0


def test_silence_of_the_monitor_is_not_taken_for_a_flag_that_never_rises(machine: MemoryBackend) -> None:
    """The rise never comes as an update; a read shows it when the time to rise is over."""

    def unheard(value: float) -> None:
        flag = machine._pvs["FLAG"]
        flag.reading = replace(flag.reading, value=1)

    machine.on_put("SET", lambda value: machine.later(0.2, lambda: unheard(value)))
    machine.on_put("SET", lambda value: machine.later(0.8, lambda: machine.post("FLAG", 0)))
    assert timed(lambda: Mover(control(machine, timeout=3.0)).move({"q": 3.0}, knob(rise=0.4))) >= 0.8


def test_a_move_that_is_over_before_its_put_is_answered_has_risen() -> None:
    """With put completion the record answers when it has arrived."""
    watch = Watch(reaches("FLAG", 0, settle=0.0, rise=30.0), "SET", 1.0, 3.0)
    memory = MemoryBackend({"FLAG": 0})
    memory.monitor(address("FLAG"), watch.update)
    for value in (1, 0):  # somebody else's move
        memory.post("FLAG", value)
    watch.sent()
    watch.arm()
    assert not watch.settled() and not watch.heard
    watch.sent()
    assert not watch.settled()
    once = Watch(reaches("FLAG", 0, settle=0.0, rise=30.0), "SET", 1.0, 3.0)
    memory.monitor(address("FLAG"), once.update)
    once.sent()
    for value in (1, 0):
        memory.post("FLAG", value)
    once.arm()
    assert once.settled() and once.heard


def address(name: str) -> Any:
    from badger_k2eg.core.model import PvAddress

    return PvAddress.parse(name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"hold": 1.0}, "knob Q: hold needs readback or done"),
        ({"timeout": 5.0}, "knob Q: timeout needs readback or done"),
        ({"offset": 1.0}, "knob Q: offset needs readback"),
        ({"tolerance": 1.0}, "knob Q: tolerance needs readback"),
        ({"rise": 1.0}, "knob Q: rise needs done"),
        ({"readback": "R", "tolerance": 1.0, "rise": 1.0}, "knob Q: rise needs done"),
        ({"done_value": 1}, "knob Q: done_value needs done"),
        ({"overshoot": 0.1}, "knob Q: overshoot needs approach"),
        ({"dwell": 1.0}, "knob Q: dwell needs approach"),
        ({"done": "S", "done_value": 0, "offset": 0.5}, "knob Q: offset needs readback"),
        ({"done": "S", "done_value": 0, "rise": -1.0}, "knob Q: rise must be a number >= 0, not -1.0"),
        ({"done": "S", "done_value": 0, "rise": "3"}, "knob Q: rise must be a number >= 0, not '3'"),
        ({"approach": "below", "dwell": float("inf")}, "knob Q: dwell must be a number >= 0, not inf"),
        ({"done": "S", "done_value": 0, "hold": 5.0, "timeout": 5.0}, "hold (5 s) must be shorter than timeout (5 s)"),
    ],
)
def test_what_a_knob_cannot_use_is_an_error_of_its_declaration(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Knob("Q", **words)
    assert message in str(caught.value) and "\n" not in str(caught.value)


# -- past the target and back -----------------------------------------------------------------------------------------


def ways(machine: MemoryBackend) -> list[tuple[float, float, float]]:
    """Keep each value that is put, with its time and where the machine was then."""
    kept: list[tuple[float, float, float]] = []
    machine.on_put("SET", lambda value: kept.append((value, clock.monotonic(), machine.value("READ"))))
    return kept


@pytest.mark.parametrize(
    "shown",
    [{"readback": "READ", "tolerance": 0.1}, {"done": "FLAG", "done_value": "Ready", "rise": 1.0}],
    ids=["readback", "flag"],
)
@pytest.mark.parametrize("dwell", [None, 0.4])
def test_it_goes_back_when_the_machine_has_got_past_the_target(
    machine: MemoryBackend, shown: dict[str, Any], dwell: float | None
) -> None:
    puts = ways(machine)
    moving(machine, 0.2, 0.2)
    Mover(control(machine, timeout=3.0)).move({"q": -4.0}, {"q": Knob("SET", approach="below", dwell=dwell, **shown)})
    assert [(value, there) for value, _, there in puts] == [(-5.0, 1.0), (-4.0, -5.0)]
    assert puts[1][1] - puts[0][1] >= 0.4 + (dwell or 0.0)
    assert machine.value("READ") == -4.0


@pytest.mark.parametrize(("words", "stays"), [({}, 1.0), ({"dwell": 0.3}, 0.3), ({"dwell": 0.0}, 0.0)])
def test_where_nothing_shows_an_arrival_it_stays_for_a_while(
    machine: MemoryBackend, words: dict[str, float], stays: float
) -> None:
    puts = ways(machine)
    Mover(control(machine)).move({"q": -4.0}, {"q": Knob("SET", approach="below", **words)})
    assert [value for value, _, _ in puts] == [-5.0, -4.0]
    assert stays <= puts[1][1] - puts[0][1] < stays + 0.8


@pytest.mark.parametrize("target", [-10.0, -4.0])
def test_where_there_is_nothing_beyond_it_goes_straight(machine: MemoryBackend, target: float) -> None:
    puts = ways(machine)
    overshoot = 0.05 if target == -10.0 else 0.0
    took = timed(
        lambda: Mover(control(machine)).move({"q": target}, {"q": Knob("SET", approach="below", overshoot=overshoot)})
    )
    assert [value for value, _, _ in puts] == [target] and took < 0.8


def stopped(machine: MemoryBackend, shown: dict[str, Any], deadline: Deadline) -> tuple[Control, pytest.ExceptionInfo]:
    machine.on_put("SET", lambda value: machine.later(0.1, deadline.cancel))
    ours = control(machine, parallel=False)
    knobs = {"q": Knob("SET", approach="below", **shown), "free": Knob("FREE", bounds=(0.0, 5.0))}
    with pytest.raises(CallCancelled) as caught:
        Mover(ours).move({"q": -4.0, "free": 2.0}, knobs, deadline)
    return ours, caught


@pytest.mark.parametrize(
    "shown", [{"dwell": 30.0}, {"readback": "READ", "tolerance": 0.1, "timeout": 30.0}], ids=["staying", "arriving"]
)
def test_a_stop_past_the_target_is_told_as_a_step_on_the_way(machine: MemoryBackend, shown: dict[str, Any]) -> None:
    began = clock.monotonic()
    ours, caught = stopped(machine, shown, Deadline())
    assert clock.monotonic() - began < 5.0
    report = caught.value.report
    assert isinstance(report, SetReport) and ours.last_report is report
    assert [(r.asked, r.outcome) for r in report.results] == [(-4.0, Outcome.UNKNOWN), (2.0, Outcome.NOT_SENT)]
    assert "ended on the way: it was put past it, to -5, and not back" in report["SET"].message
    assert machine.value("SET") == -5.0 and machine.value("FREE") == 0.0


@pytest.mark.parametrize("policy", ["restore", "leave"])
def test_a_run_that_is_stopped_past_the_target_has_it_on_record(
    machine: MemoryBackend, journal: Journal, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    monkeypatch.setenv("BADGER_K2EG_RUN_ON_CANCELLED", policy)
    machine.on_put("SET", lambda value: machine.later(0.1, lambda: run.stop("the operator")) if value == -5.0 else None)
    run.declare()
    tied = run.Attachment().attach(control(machine))
    with pytest.raises(CallCancelled), run.inside():
        Mover(tied).move({"q": -4.0}, {"q": Knob("SET", approach="below", dwell=30.0)})
    assert machine.value("SET") == (1.0 if policy == "restore" else -5.0)
    records = list(journal.run("last").records())
    puts = [r.asked for r in records if r.kind is RecordKind.PUT and r.outcome is Outcome.APPLIED]
    assert puts[0] == -5.0 and -4.0 not in puts
    ends = [(r.asked, r.outcome) for r in records if r.kind is RecordKind.SETPOINT]
    assert ends[:2] == [(-5.0, Outcome.APPLIED), (-4.0, Outcome.UNKNOWN)]


def test_a_call_whose_time_ends_past_the_target_says_so(machine: MemoryBackend) -> None:
    began = clock.monotonic()
    with pytest.raises(PutTimeout, match="SET = -4.0: UNKNOWN, ended on the way: it was put past it, to -5, and not"):
        Mover(control(machine)).move({"q": -4.0}, {"q": Knob("SET", approach="below", dwell=30.0)}, Deadline(0.5))
    assert clock.monotonic() - began < 3.0 and machine.value("SET") == -5.0


def test_what_does_not_arrive_past_the_target_says_so(machine: MemoryBackend) -> None:
    knobs = {"q": Knob("SET", approach="below", readback="READ", tolerance=0.1)}
    with pytest.raises(ValidationFailed, match=r"SET = -4.0: UNKNOWN, not arrived: READ wanted -5 .* past it, to -5"):
        Mover(control(machine)).move({"q": -4.0}, knobs)


def test_what_is_refused_on_its_way_back_was_put_all_the_same(machine: MemoryBackend) -> None:
    machine.on_put("SET", lambda value: machine.fault("SET", "missing"))
    with pytest.raises(PutUnknown, match="nobody serves it; ended on the way: it was put past it, to -5, and not back"):
        Mover(control(machine)).move({"q": -4.0}, {"q": Knob("SET", approach="below", dwell=0.1)})
