"""S and V on a Badger interface: readings, quantities, futures, waits; Badger itself still gets plain values."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any, get_overloads

import pytest

from badger_k2eg.backends.memory import Fault, MemoryBackend
from badger_k2eg.control.validators import within
from badger_k2eg.core.futures import Future, background, gather
from badger_k2eg.core.model import Outcome, Reading, Severity
from badger_k2eg.core.units import Quantity, unit
from badger_k2eg.errors import CallCancelled, SetpointBlocked
from interfaces.epics_pva import Interface


@pytest.fixture
def machine() -> Iterator[MemoryBackend]:
    made = MemoryBackend()
    made.add("Q:SET", 1.0, units="Amps", limits=(-50.0, 50.0), description="matching quad", user_tag=7)
    made.add("Q:READ", 1.0, units="A", severity=Severity.MINOR, message="HIGH")
    made.follow("Q:SET", "Q:READ", after=0.02)
    made.add("CMD", 0)
    made.add("GONE", 0.0)
    made.fault("GONE", Fault.MISSING)
    yield made
    made.close()


@pytest.fixture
def interface(machine: MemoryBackend) -> Interface:
    return Interface(context=machine, timeout=5.0)


def test_readings_have_it_all_and_badger_gets_plain_floats(interface: Interface) -> None:
    readings = interface.get_readings(["Q:SET", "Q:READ"])
    reading = readings["Q:SET"]
    assert (reading.value, reading.quantity, reading.limits.high) == (1.0, 1 * unit.ampere, 50.0)
    assert (reading.description, reading.pulse_id) == ("matching quad", 7)
    assert abs(reading.timestamp_ns - time.time_ns()) < 60 * 10**9
    assert (reading + readings["Q:READ"]).severity is Severity.MINOR
    value = interface.get_values(["Q:SET"])["Q:SET"]
    assert type(value) is float and value == 1.0


def test_a_quantity_is_set_in_amperes_and_recorded_as_text(interface: Interface, machine: MemoryBackend) -> None:
    interface.start_recording()
    report = interface.set_values({"Q:SET": Quantity(12000, "mA")}, {"Q:SET": within("Q:READ", tolerance=0.1)})
    assert report["Q:SET"].asked == machine.value("Q:SET") == 12.0
    assert interface.set_value("Q:SET", Reading(3.0, units="A"), timeout=2 * unit.second) == 3.0
    with pytest.raises(SetpointBlocked, match="its unit is Amps"):
        interface.set_value("Q:SET", 3 * unit("kG"))
    assert machine.value("Q:SET") == 3.0


def test_futures_and_callbacks(interface: Interface) -> None:
    told: list[Future[Any]] = []
    validators = {"Q:SET": within("Q:READ", tolerance=0.1)}
    one = interface.set_values({"Q:SET": 5.0}, validators, callback=told.append)
    two = interface.get_values(["Q:READ"], callback=None)
    three = interface.get_readings(["Q:READ"], timeout=1 * unit.second, callback=None)
    four = interface.get_value("Q:SET", callback=None)
    report, *_ = gather(one, two, three, four, timeout=20)
    assert report.ok and all(isinstance(future, Future) for future in (one, two, three, four))
    assert interface.set_value("Q:SET", 6.0, validators["Q:SET"], callback=None).result(20) == 6.0
    deadline = time.monotonic() + 20
    while told != [one] and time.monotonic() < deadline:
        time.sleep(0.005)
    assert told == [one]


def test_a_cancelled_set_says_what_became_of_it(interface: Interface, machine: MemoryBackend) -> None:
    machine.fault("Q:SET", "lost")
    future = interface.set_values({"Q:SET": 5.0}, callback=None)
    while not machine.puts:
        time.sleep(0.005)
    future.cancel()
    with pytest.raises(CallCancelled) as caught:
        future.result(20)
    assert caught.value.report["Q:SET"].outcome is Outcome.UNKNOWN and len(machine.puts) == 1
    assert interface.last_report["Q:SET"].outcome is Outcome.UNKNOWN


def test_the_calls_of_a_procedure(interface: Interface, machine: MemoryBackend) -> None:
    assert interface.set_wait("Q:SET", 2.0).ok and interface.set_no_wait({"Q:SET": 3.0}).result(20).ok
    assert interface.execute("CMD").ok and interface.execute_no_wait("CMD", 2).result(20).ok
    assert [value for pv, value in machine.puts if pv == "CMD"] == [1, 2]
    assert interface.get_no_wait("CMD").result(20) == 2
    future = interface.wait_until(lambda current: current > 8.0, "Q:READ", timeout=20, callback=None)
    interface.set_value("Q:SET", 9.0)
    assert future.result(20).value == 9.0
    timer = threading.Timer(0.1, machine.post, ("Q:READ", 4.0))
    timer.start()
    assert interface.wait_until_new(["Q:SET", "Q:READ"], 20)["Q:READ"].value == 4.0
    timer.join()
    assert interface.wait_while(lambda current: current > 8.0, "Q:READ").value == 4.0


def test_what_a_user_calls_has_real_types() -> None:
    """Each call returns its own type, and in the background a Future of it."""
    for kinds, names in (
        (["dict[str, Any]"], ["get_values"]),
        (["dict[str, Reading]"], ["get_readings"]),
        (["SetReport"], ["set_values", "set_wait", "execute"]),
        (["Reading", "dict[str, Reading]"], ["wait_until", "wait_while", "wait_until_new"]),
    ):
        for name in names:
            returned = [each.__annotations__["return"] for each in get_overloads(getattr(Interface, name))]
            assert returned == [*kinds, *(f"Future[{kind}]" for kind in kinds)], name


def test_a_cancel_reaches_whatever_an_environment_waits_in(interface: Interface) -> None:
    reached = threading.Event()

    def work() -> str:
        try:
            reached.set()
            interface.get_values(["GONE"], timeout=-1)
        except CancelledError:
            return f"tidied up at {interface.get_value('Q:READ')}"
        return ""

    future = background(work)
    assert reached.wait(20)
    time.sleep(0.05)
    future.cancel()
    assert future.result(20) == "tidied up at 1.0"


def test_a_reset_ends_what_waits(interface: Interface) -> None:
    future = interface.wait_until_new("Q:READ", -1, callback=None)
    time.sleep(0.1)
    interface.reset_interface()
    with pytest.raises(CallCancelled):
        future.result(20)
