"""A hundred threads at once on one control, and nothing of them is left behind."""

from __future__ import annotations

import gc
import random
import threading
import tracemalloc
from collections import Counter
from functools import partial
from typing import Any

import pytest

from badger_k2eg.control import Control
from badger_k2eg.control.set_call import SetCall
from badger_k2eg.control.validators import Watch, within
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.errors import SetpointBlocked
from tests.rig.waiting import eventually

from .machine import PATIENCE, Machine, Running

THREADS = 100


def hundred(works: list[Any]) -> list[Any]:
    """Run all of these at once; give what they returned."""
    start = threading.Barrier(len(works))

    def work(each: Any) -> Any:
        start.wait(PATIENCE)
        return each()

    return [call.result(3 * PATIENCE) for call in [Running(partial(work, each)) for each in works]]


def names_of_threads() -> Counter[str]:
    return Counter(
        thread.name.split("-")[0].split("_")[0] for thread in threading.enumerate() if thread.name != "virtual clock"
    )


def left_over() -> Counter[str]:
    """Count what belongs to one call each."""
    gc.collect()
    # By type(): isinstance() asks __class__ of the lazy modules of other libraries, which warn of it.
    kinds = {SetCall, Watch, Deadline}
    return Counter(type(thing).__name__ for thing in gc.get_objects() if type(thing) in kinds)


def mixture(machine: Machine, control: Control, count: int = THREADS) -> list[Any]:
    """Make gets, sets, validated sets, blocked sets, dead reads and monitors, each for a thread of its own."""
    dbl, text, gone = machine.pvs("DBL", "STR", "NOBODY")
    works: list[Any] = []
    for i in range(count):
        setpoint, readback = machine.pvs(f"SP:{i:03d}", f"RB:{i:03d}")
        kind = i % 6
        if kind in (0, 1):
            works.append(lambda: control.get([dbl, text]) == {dbl: 1.5, text: "hello"})
        elif kind == 2:
            works.append(lambda pv=setpoint, value=i: control.set({pv: float(value)}).ok)
        elif kind == 3:
            validator = {setpoint: within(readback, tolerance=0.1, timeout=PATIENCE)}
            works.append(
                lambda pv=setpoint, v=validator, value=i: control.set({pv: float(value)}, v)[pv].arrived == value
            )
        elif kind == 4:
            works.append(partial(blocked, control, setpoint))
        else:
            works.append(partial(dead, control, gone))
    random.Random(1).shuffle(works)
    return works


def blocked(control: Control, pv: str) -> bool:
    with pytest.raises(SetpointBlocked):
        control.set({pv: 1e6})
    return True


def dead(control: Control, pv: str) -> bool:
    with pytest.raises(TimeoutError):
        control.get([pv], Deadline(0.3))
    return True


def test_a_hundred_threads_at_once_and_none_is_left(machine: Machine) -> None:
    machine.move("SETTLE", 0.1)
    threads = names_of_threads()
    control = machine.control(timeout=PATIENCE)
    assert all(hundred(mixture(machine, control)))
    in_use = left_over()
    assert all(hundred(mixture(machine, control)))
    control.last_report = None
    eventually(lambda: left_over() - in_use, Counter(), 5.0)
    control.close()
    control.backend.close()
    if machine.name == "memory":
        machine.memory.close()
    # The control's own, and every client library's.
    eventually(lambda: names_of_threads() - threads, Counter())


def test_the_first_use_by_many_threads_at_once(machine: Machine) -> None:
    """A control opens its client at its first use: a hundred first uses open one, and closing it closes it."""
    name = machine.pv("DBL")
    machine.control()
    machine.close_controls()
    threads = names_of_threads()
    control = Control(machine.backend())
    assert hundred([lambda: control.get([name], Deadline(PATIENCE))[name]] * 30) == [1.5] * 30
    control.monitor(name, lambda update: None)
    control.close()
    control.backend.close()
    if machine.name == "memory":
        machine.memory.close()
    eventually(lambda: names_of_threads() - threads, Counter())


@pytest.mark.extended
def test_memory_does_not_grow_with_the_number_of_calls(machine: Machine) -> None:
    pv, readback, dbl = machine.pvs("SP:000", "RB:000", "DBL")
    machine.move("SETTLE", 0.0)
    control = machine.control()
    validator = {pv: within(readback, tolerance=0.1, timeout=PATIENCE)}

    def calls(count: int) -> None:
        for i in range(count):
            control.set({pv: float(i % 50)}, validator)
            control.get([dbl, pv])
            control.context.get(dbl)
        if machine.name == "memory":
            machine.memory.puts.clear()

    calls(50)
    gc.collect()
    tracemalloc.start()
    grown = []
    try:
        calls(20)
        # A leak grows every time; a queue, a cache or a pool of memory only until it is full.
        for _ in range(3):
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            calls(60)
            gc.collect()
            grown.append(tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()
    assert min(grown) < 300 * 60, f"{min(grown) / 60:.0f} bytes for each call stay"


def test_reports_do_not_mix(machine: Machine) -> None:
    """Each thread's error has the report of its own call."""
    pvs = machine.pvs(*[f"SP:{i:03d}" for i in range(30)])
    control = machine.control()

    def attempt(pv: str, value: float) -> tuple[str, float]:
        with pytest.raises(SetpointBlocked) as caught:
            control.set({pv: value})
        (result,) = caught.value.report.results
        return result.pv, result.asked

    asked = [(pv, 1000.0 + i) for i, pv in enumerate(pvs)]
    assert hundred([partial(attempt, pv, value) for pv, value in asked]) == asked
