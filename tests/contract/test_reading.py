"""P11, P12, P15: reading many at once, what is no reading, and how PVs are named."""

from __future__ import annotations

import math

import pytest

from badger_k2eg.core import clock
from badger_k2eg.errors import (
    InvalidReading,
    PvInvalid,
    PvNameError,
    PvNotConnected,
    PvTimeout,
    ReadError,
    ReadTimeout,
)
from tests.rig.pace import pace

from .machine import Machine

TIMEOUT = 0.3


def hundred(machine: Machine, dead: int) -> tuple[list[str], list[str]]:
    """Name a hundred PVs, of which so many are dead, evenly among the others."""
    living = machine.pvs(*[f"SP:{i:03d}" for i in range(100 - dead)])
    nobody = [machine.pv(f"NOBODY:{i}") for i in range(dead)]
    mixed = living.copy()
    for i, name in enumerate(nobody):
        mixed.insert(i * (100 // dead), name)
    return mixed, nobody


@pytest.mark.parametrize("dead", [1, 50])
def test_dead_pvs_cost_one_timeout_in_all(machine: Machine, dead: int) -> None:
    names, nobody = hundred(machine, dead)
    control = machine.control(timeout=TIMEOUT)
    began = clock.monotonic()
    with pytest.raises(ReadTimeout) as caught:
        control.get(names)
    took = clock.monotonic() - began
    assert TIMEOUT <= took < TIMEOUT + 0.5 * pace()
    assert caught.value.partial == {name: 0.0 for name in names if name not in nobody}
    assert list(caught.value.errors) == nobody
    assert all(type(error) is PvNotConnected for error in caught.value.errors.values())
    lines = str(caught.value).splitlines()
    assert len(lines) == dead and all(
        name in line and "0.3 s" in line for name, line in zip(nobody, lines, strict=True)
    )


def test_in_nan_mode_all_hundred_come_back(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    names, nobody = hundred(machine, 50)
    control = machine.control(timeout=TIMEOUT, on_read_error="nan")
    values = control.get(names)
    assert list(values) == names
    assert all(math.isnan(values[name]) for name in nobody)
    assert all(values[name] == 0.0 for name in names if name not in nobody)
    assert {name for name in nobody if any(name in record.getMessage() for record in caplog.records)} == set(nobody)


def test_updates_raise_nothing(machine: Machine) -> None:
    good, gone, alarm = machine.pvs("DBL", "NOBODY", "INVALID")
    updates = machine.control(timeout=TIMEOUT).updates([gone, alarm, "A B", good])
    assert [type(updates[name]) for name in (gone, alarm, "A B")] == [PvNotConnected, PvInvalid, PvNameError]
    assert updates[good].value == 1.5 and list(updates) == [gone, alarm, "A B", good]


def test_a_living_pv_does_not_wait(machine: Machine) -> None:
    names = machine.pvs(*[f"SP:{i:03d}" for i in range(100)])
    control = machine.control(timeout=600.0)
    assert len(control.get(names)) == 100


# -- P12 ----------------------------------------------------------------------------------------------------------

SEVERITIES = ["STATIC", "MINOR", "MAJOR", "INVALID"]


@pytest.mark.parametrize(
    ("policy", "readable"), [("none", 4), ("invalid", 3), (None, 3), ("major", 2), ("minor", 1)], ids=str
)
def test_the_policy_says_which_severity_is_no_reading(machine: Machine, policy: str | None, readable: int) -> None:
    names = machine.pvs(*SEVERITIES)
    control = machine.control(reject_severity=policy)
    if readable == len(names):
        assert len(control.get(names)) == readable
        return
    with pytest.raises(InvalidReading) as caught:
        control.get(names)
    assert list(caught.value.partial) == names[:readable]
    assert isinstance(caught.value, ValueError) and not isinstance(caught.value, TimeoutError)
    for name, severity in zip(names[readable:], SEVERITIES[readable:], strict=True):
        assert f"{name}: alarm severity {severity}" in str(caught.value)


@pytest.mark.parametrize("policy", ["none", "minor", "major", "invalid"])
@pytest.mark.parametrize("name", ["UDF", "NAN"])
def test_a_record_never_processed_is_never_a_reading(machine: Machine, name: str, policy: str) -> None:
    pv = machine.pv(name)
    with pytest.raises(InvalidReading, match="never processed"):
        machine.control(reject_severity=policy).get([pv])
    assert math.isnan(machine.control(reject_severity=policy, on_read_error="nan").get([pv])[pv])


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("NOBODY", "INVALID"), ReadTimeout),
        (("INVALID", "NOBODY"), InvalidReading),
        (("DBL", "NOBODY", "INVALID"), ReadTimeout),
    ],
    ids=["timeout first", "alarm first", "good first"],
)
def test_the_first_unreadable_decides_the_type(machine: Machine, names: tuple[str, ...], kind: type[ReadError]) -> None:
    control = machine.control(timeout=TIMEOUT)
    with pytest.raises(ReadError) as caught:
        control.get(machine.pvs(*names))
    assert type(caught.value) is kind


# -- P15 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "A B", "$(P):X", "http://X", "PVA://X", "pva://", "X,Y", "X*"], ids=repr)
def test_a_malformed_name_is_refused_before_anything_is_sent(machine: Machine, name: str) -> None:
    good = machine.pv("DBL")
    control = machine.control(timeout=600.0)
    with pytest.raises(ReadError) as caught:
        control.get([name, good])
    assert type(caught.value.errors[name]) is PvNameError and caught.value.partial == {good: 1.5}
    with pytest.raises(PvNameError):
        control.monitor(name, lambda update: None)


def test_a_scheme_says_the_way(machine: Machine) -> None:
    """A bare name takes the interface's own way; a scheme says another one, and each key comes back as it was."""
    bare = machine.pv("DBL")
    named = f"{'ca' if machine.name == 'ca' else 'pva'}://{bare}"
    assert machine.control().get([named, bare]) == {named: 1.5, bare: 1.5}


@pytest.mark.needs("fields")
def test_a_field_of_a_record_is_a_pv(own_machine: Machine) -> None:
    if own_machine.name == "memory":
        own_machine.memory.add("MEM:DBL.EGU", "mm")
    field = own_machine.pv("DBL") + ".EGU"
    assert own_machine.control().get([field]) == {field: "mm"}


def test_a_timeout_is_a_timeout_error_and_names_the_seconds(machine: Machine) -> None:
    gone = machine.pv("NOBODY")
    with pytest.raises(TimeoutError, match=r"0\.3 s") as caught:
        machine.control(timeout=TIMEOUT).get([gone])
    assert isinstance(caught.value.errors[gone], PvTimeout) and gone in str(caught.value)
