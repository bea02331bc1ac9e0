"""The backend over a double: what answers say of a put, and that a monitor alone never proves an arrival (K11)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from badger_k2eg.backends.k2eg import K2egBackend
from badger_k2eg.control import Control
from badger_k2eg.control.validators import within
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import Kind, Outcome, PvAddress, Reading
from badger_k2eg.core.settings import parse, resolve
from badger_k2eg.errors import (
    CallCancelled,
    PutUnknown,
    PvNameError,
    PvNotConnected,
    PvRefused,
    SetpointBlocked,
    ValidationFailed,
)
from badger_k2eg.k2eg.client import K2egClient
from badger_k2eg.k2eg.codec import Get, Put
from badger_k2eg.k2eg.environment import K2egEnvironment
from badger_k2eg.testing.ports import free_port
from tests.rig.waiting import eventually

from .double import Double, tree


@pytest.fixture
def backend(double: Double) -> Iterator[K2egBackend]:
    made = K2egBackend(K2egClient(double.environment, f"{double.prefix}-app"))
    yield made
    made.close()


def control_of(backend: K2egBackend, **options: Any) -> Control:
    words = {"timeout": 0.8, "retry_delay": 0.1} | options
    return Control(backend, resolve([parse(words, lambda name: f"option {name}")]))


def address(double: Double, short: str) -> PvAddress:
    return PvAddress.parse(double.name(short))


def test_readings(double: Double, backend: K2egBackend) -> None:
    double.pvs[double.name("N")] = tree([1, 2], whole=False)
    double.pvs[double.name("A")]["alarm"] = {"severity": 2, "status": 3, "message": "HIHI"}
    asked = {short: address(double, short) for short in ("A", "I", "E", "W", "S", "N")}
    found = backend.get_many(list(asked.values()), Deadline(5.0))
    readings = {short: found[where] for short, where in asked.items()}
    assert all(isinstance(each, Reading) for each in readings.values())
    assert (readings["A"].value, readings["A"].units, int(readings["A"].severity)) == (1.5, "mm", 2)
    assert (readings["I"].value, readings["I"].type.kind) == (42, Kind.INT)
    assert (readings["E"].label, readings["E"].choices) == ("on", ("off", "on", "auto"))
    assert isinstance(readings["W"].value, np.ndarray) and readings["W"].value.tolist() == [1.0, 2.5]
    assert readings["W"].tree["value"] == [1.0, 2.5]
    assert readings["N"].value.tolist() == [1, 2]
    assert readings["S"].writable is None


def test_names(double: Double, backend: K2egBackend) -> None:
    names = [double.name("A"), double.name("A") + ".VAL", double.uri("A"), double.uri("A").replace("pva", "ca")]
    bad = [double.name("A") + ".HIHI", "X<1>", "X::Y"]
    addresses = [PvAddress.parse(name) for name in names + bad]
    found = backend.get_many(addresses, Deadline(5.0))
    assert [found[each].value for each in addresses[:4]] == [1.5] * 4
    assert all(isinstance(found[each], PvNameError) for each in addresses[4:])
    assert sorted(each.pv_name for each in double.commands) == sorted({double.uri("A"), names[3]})
    told: list[Any] = []
    backend.monitor(addresses[4], told.append).close()
    assert isinstance(told[0], PvNameError) and told[0].pv == names[0] + ".HIHI"
    with pytest.raises(SetpointBlocked, match="does not support fields"):
        control_of(backend).set({bad[0]: 1.0})
    assert not double.puts


def test_errors_of_reads(double: Double, backend: K2egBackend) -> None:
    a, gone = address(double, "A"), address(double, "GONE")
    double.instead[Get] = lambda command: (
        double.refuse(command, -2, "no rights") or True if command.pv_name == double.uri("A") else None
    )
    found = backend.get_many([a, gone], Deadline(0.8))
    assert isinstance(found[a], PvRefused) and found[a].message == "no rights"
    assert isinstance(found[gone], PvNotConnected) and found[gone].pv == gone.text
    assert found[gone].message.startswith("no answer within 0.8 s")


@pytest.mark.parametrize(
    ("code", "message", "outcome"),
    [
        (0, "Successfull operation", Outcome.APPLIED),
        (-2, "std::bad_cast", Outcome.REFUSED),
        (-1, None, Outcome.REFUSED),
        (-3, "Timeout operation", Outcome.UNKNOWN),
        # The code counts, whatever the words of another gateway are.
        (-3, "the PV did not answer", Outcome.UNKNOWN),
        (-3, None, Outcome.UNKNOWN),
        (-2, "Put operation has been cancelled", Outcome.UNKNOWN),
    ],
)
def test_what_a_reply_says_of_a_put(
    double: Double, backend: K2egBackend, code: int, message: str | None, outcome: Outcome
) -> None:
    double.instead[Put] = lambda command: double.refuse(command, code, message) or True
    a = address(double, "A")
    assert backend.put_many({a: 3.0}, Deadline(5.0))[a].outcome is outcome


def test_a_put_without_an_answer_is_unknown_and_one_without_a_broker_not_sent(
    double: Double, backend: K2egBackend
) -> None:
    a = address(double, "A")
    backend.get_many([a], Deadline(5.0))
    double.listening(False)
    answer = backend.put_many({a: 3.0}, Deadline(0.4))[a]
    assert answer.outcome is Outcome.UNKNOWN and "may still happen" in answer.message
    gone = f"127.0.0.1:{free_port()}"
    nowhere = K2egBackend(K2egClient(K2egEnvironment("gone", gone, "cmd"), "app"))
    answer = nowhere.put_many({a: 3.0}, Deadline(0.4))[a]
    assert answer.outcome is Outcome.NOT_SENT and gone in answer.message
    nowhere.close()


def test_a_gateway_that_dies_with_a_put_is_not_given_it_again(double: Double, backend: K2egBackend) -> None:
    """The read-back has no answer either: nobody knows, and it may still be executed."""
    control = control_of(backend, timeout=0.5)
    assert control.set({double.name("A"): 2.0}).ok

    def die(command: Put) -> bool:
        threading.Thread(target=double.listening, args=(False,)).start()
        return True

    double.instead[Put] = die
    with pytest.raises(PutUnknown):
        control.set({double.name("A"): 3.0})
    assert len([each for each in double.commands if isinstance(each, Put)]) == 2


def test_a_monitor_that_lies_does_not_make_an_arrival(double: Double, backend: K2egBackend) -> None:
    """A burst whose last value the gateway left out: the monitor rests on the target, the record is elsewhere."""
    control = control_of(backend)
    setpoint, readback = double.name("A"), double.name("B")

    def pass_through(command: Put) -> None:
        double.post("B", 9.0)
        double.pvs[readback] = tree(55.0)

    double.instead[Put] = pass_through
    with pytest.raises(ValidationFailed, match="55"):
        control.set({setpoint: 9.0}, {setpoint: within(readback, tolerance=0.1, timeout=0.9)})
    double.instead[Put] = lambda command: double.post("B", 4.0)
    assert control.set({setpoint: 4.0}, {setpoint: within(readback, tolerance=0.1, timeout=5.0)}).ok
    control.close()


def test_monitors_hand_over_readings(double: Double, backend: K2egBackend) -> None:
    told: list[Any] = []
    subscription = backend.monitor(address(double, "E"), told.append)
    eventually(lambda: told)
    assert told[0].label == "on" and told[0].type.kind is Kind.ENUM
    subscription.close()


def test_a_float32_holds_what_it_was_given(gateway: Any, fault_server: Any) -> None:
    """The gateway writes it as a float64; what is read back is 0.1 all the same, as far as the PV can hold it."""
    client = K2egClient(gateway.environment_name, "single", folder=gateway.folder)
    control = control_of(K2egBackend(client), timeout=5.0)
    assert control.set({fault_server.pv("F32"): 0.1}).ok
    assert control.get([fault_server.pv("F32")]) == {fault_server.pv("F32"): float(np.float32(0.1))}
    control.set({fault_server.pv("F32"): 0.5})
    control.backend.close()


def test_snapshots(double: Double, backend: K2egBackend) -> None:
    asked = [address(double, short) for short in ("A", "B", "GONE")] + [PvAddress.parse("X.HIHI")]
    backend.get_many(asked[:1], Deadline(5.0))
    began = time.monotonic()
    taken = backend.snapshot(asked, 0.3, Deadline(2.0))
    assert time.monotonic() - began >= 0.3
    assert [taken[each].value for each in asked[:2]] == [1.5, 2.5]
    assert isinstance(taken[asked[2]], PvNotConnected) and isinstance(taken[asked[3]], PvNameError)
    # No time for a window: read at once.
    assert backend.snapshot(asked[:2], 5.0, Deadline(2.0))[asked[0]].value == 1.5


def test_close_ends_what_waits(double: Double, backend: K2egBackend) -> None:
    backend.get_many([address(double, "A")], Deadline(5.0))
    errors: list[BaseException] = []

    def read() -> None:
        try:
            backend.get_many([address(double, "GONE")], Deadline(30.0))
        except BaseException as error:  # handed to the test's own thread
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.2)
    backend.close()
    thread.join(5.0)
    assert not thread.is_alive() and isinstance(errors[0], CallCancelled)
