"""Channel Access on a real IOC: what `backends.ca` promises, and that it reaches for no PVAccess and no repeater.

What the tests look at and change besides goes through p4p. What forks, or counts connections, runs in a process of its
own.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from badger_k2eg.backend import Backend, Update
from badger_k2eg.backends import open_backend
from badger_k2eg.deadline import Deadline
from badger_k2eg.errors import CallCancelled, PvNotConnected, PvTimeout
from badger_k2eg.model import Fields, Kind, Limits, Outcome, PvAddress, PvType, Reading, Severity
from badger_k2eg.policy import not_a_reading
from badger_k2eg.settings import parse, resolve
from badger_k2eg.testing.ports import LOOPBACK, free_port, wait_for_ca
from badger_k2eg.testing.processes import ChildFailed
from badger_k2eg.testing.soft_ioc import SoftIoc, repeater_port

if TYPE_CHECKING:
    from p4p.client.thread import Context

    from badger_k2eg.testing.plugin import SessionPorts

pytest.importorskip("softioc", reason="pip install badger-k2eg[test]")
pytest.importorskip("caproto", reason="pip install badger-k2eg[test]")

PATIENCE = 10.0
"""Seconds for what must happen in the end."""
AT_ONCE = 0.5
"""Seconds for what must not wait for anything, on a busy machine."""


class Pvs:
    """A backend and the names of one IOC, in the shortest form to write."""

    def __init__(self, ioc: SoftIoc, backend: Backend) -> None:
        self.ioc, self.backend = ioc, backend

    def at(self, name: str) -> PvAddress:
        return PvAddress.parse(name if ":" in name else f"ca://{self.ioc.pv(name.replace('_', ':'))}")

    def gets(self, *names: str, timeout: float = 3.0) -> dict[str, Update]:
        answers = self.backend.get_many([self.at(name) for name in names], Deadline(timeout))
        return {name: answers[self.at(name)] for name in names}

    def get(self, name: str, timeout: float = 3.0) -> Reading:
        answer = self.gets(name, timeout=timeout)[name]
        assert isinstance(answer, Reading), answer
        return answer

    def put(self, name: str, value: Any, timeout: float = 3.0, *, wait: bool = False) -> tuple[Outcome, str]:
        at = self.at(name)
        answer = self.backend.put_many({at: value}, Deadline(timeout), wait=[at] if wait else [])[at]
        return answer.outcome, answer.message

    def monitor(self, name: str, got: list[Update] | Callable[[Update], None], queue: int = 100) -> Any:
        return self.backend.monitor(self.at(name), got.append if isinstance(got, list) else got, queue)


@pytest.fixture(scope="module")
def ioc(epics_environment: SessionPorts) -> Iterator[SoftIoc]:
    ports = epics_environment.factory.pop()
    with SoftIoc(ports=ports) as started:
        yield started
    epics_environment.factory.append(ports)


@pytest.fixture(scope="module")
def outside(ioc: SoftIoc) -> Iterator[Callable[[str], Any]]:
    """Read a PV of the IOC past all of our code."""
    from p4p.client.thread import Context

    def look(name: str) -> Any:
        value = context.get(ioc.pv(name), timeout=PATIENCE).value
        return value.index if hasattr(value, "choices") else value

    context: Context = Context("pva", nt=False)
    yield look
    context.close()


@pytest.fixture
def backend(epics_environment: SessionPorts) -> Iterator[Backend]:
    made = open_backend("ca")
    yield made
    made.close()


@pytest.fixture
def pvs(ioc: SoftIoc, backend: Backend) -> Pvs:
    return Pvs(ioc, backend)


@pytest.fixture(scope="module")
def victim(epics_environment: SessionPorts) -> Iterator[SoftIoc]:
    ports = epics_environment.factory.pop()
    with SoftIoc(ports=ports) as started:
        yield started
    epics_environment.factory.append(ports)


@pytest.fixture
def own(victim: SoftIoc, backend: Backend) -> Iterator[Pvs]:
    """An IOC that the test may stop, kill and restart; its values are those that the last one left."""
    try:
        wait_for_ca(victim.pv("STATIC"), victim.ports.ca, timeout=1.0)
    except TimeoutError:
        victim.restart()
    yield Pvs(victim, backend)
    with contextlib.suppress(ChildFailed):  # killed
        victim.cont()


def eventually(ask: Callable[[], Any], seconds: float = PATIENCE) -> None:
    began = time.monotonic()
    while not ask():
        assert time.monotonic() - began < seconds, f"not within {seconds} s"
        time.sleep(0.005)


def values(updates: list[Update]) -> list[Any]:
    return [update.value if isinstance(update, Reading) else type(update) for update in updates]


class Timer:
    def __enter__(self) -> Timer:
        self.began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self.began


# ---- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "of_type"),
    [
        ("DBL", 1.5, PvType(Kind.FLOAT, 64)),
        ("INT", 42, PvType(Kind.INT, 32)),
        ("DBL.PREC", 3, PvType(Kind.INT, 16)),
        ("STR", "hello", PvType(Kind.STRING, max_length=39)),
        ("ENUM", 1, PvType(Kind.ENUM, 32)),
        ("BOOL", 1, PvType(Kind.ENUM, 32)),
        ("DBL.DISP", 0, PvType(Kind.INT, 8, signed=False)),
        ("DBL.EGU$", "mm", PvType(Kind.STRING, max_length=15)),
    ],
)
def test_a_scalar_has_the_value_and_type_of_the_channel(pvs: Pvs, name: str, value: Any, of_type: PvType) -> None:
    reading = pvs.get(name)
    assert (reading.value, reading.type) == (value, of_type)
    assert type(reading.value) is type(value)


@pytest.mark.parametrize(
    ("name", "value", "of_type"),
    [
        ("WF", np.array([1.0, 2.5, -3.25]), PvType(Kind.FLOAT, 64, array=True, max_length=8)),
        ("IWF", np.array([1, 2, 3], "i4"), PvType(Kind.INT, 32, array=True, max_length=8)),
        ("F32", np.array([0.5, 1.5], "f4"), PvType(Kind.FLOAT, 32, array=True, max_length=4)),
        (
            "LSTR",
            np.frombuffer(b"a long string " * 5 + b"\0", "u1"),
            PvType(Kind.INT, 8, signed=False, array=True, max_length=256),
        ),
    ],
)
def test_an_array_is_the_readers_own_and_as_long_as_it_is_now(pvs: Pvs, name: str, value: Any, of_type: PvType) -> None:
    reading = pvs.get(name)
    assert reading.type == of_type
    assert np.array_equal(reading.value, value)
    assert (reading.value.dtype, reading.value.dtype.isnative, reading.value.flags.writeable) == (
        value.dtype,
        True,
        True,
    )


def test_texts_come_as_a_list(pvs: Pvs) -> None:
    reading = pvs.get("SWF")
    assert reading.value == ["one", "two", "three"]
    assert reading.type == PvType(Kind.STRING, array=True, max_length=4)


def test_what_comes_with_a_value(pvs: Pvs) -> None:
    dbl, whole, free, enum = pvs.gets("DBL", "INT", "FREE", "ENUM").values()
    assert isinstance(dbl, Reading) and isinstance(whole, Reading)
    assert isinstance(free, Reading) and isinstance(enum, Reading)
    assert (dbl.units, dbl.precision, dbl.limits) == ("mm", 3, Limits(-5.0, 5.0))
    assert (whole.units, whole.limits) == ("cnt", Limits(-100, 100))
    assert not free.limits
    assert (enum.choices, enum.label) == (("off", "on", "auto"), "on")
    assert dbl.tree["display"]["units"] == "mm"
    assert dbl.received is not None and abs(time.monotonic() - dbl.received) < PATIENCE


def test_limits_are_those_of_now(pvs: Pvs) -> None:
    assert pvs.get("SP_001").limits == Limits(-100, 100)
    assert pvs.put("SP_001.DRVH", 50.0)[0] is Outcome.APPLIED
    assert pvs.get("SP_001").limits == Limits(-100, 50)
    pvs.put("SP_001.DRVH", 100.0)


def test_the_time_is_that_of_the_record(pvs: Pvs) -> None:
    assert pvs.put("FREE", 1.25, wait=True)[0] is Outcome.APPLIED
    first = pvs.get("FREE").timestamp
    assert first is not None and abs(time.time() - first) < PATIENCE
    assert pvs.get("FREE").timestamp == first
    pvs.put("FREE", 1.0, wait=True)
    later = pvs.get("FREE").timestamp
    assert later is not None and later > first


def test_a_record_never_processed_is_not_a_reading(pvs: Pvs) -> None:
    reading = pvs.get("UDF")
    assert (reading.severity, reading.status, reading.message) == (Severity.INVALID, 17, "UDF")
    refused = not_a_reading(reading, resolve([parse({"reject_severity": "none"}, lambda name: name)]))
    assert refused is not None and "never processed" in refused


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [
        ("MAJOR", Severity.MAJOR, "HIHI"), ("MINOR", Severity.MINOR, "HIGH"), ("INVALID", Severity.INVALID, "READ"),
        ("DBL", Severity.NO_ALARM, ""),
    ],
)  # fmt: skip
def test_alarms_by_their_own_names(pvs: Pvs, name: str, severity: Severity, message: str) -> None:
    reading = pvs.get(name)
    assert (reading.severity, reading.message) == (severity, message)


def test_nan_is_read_as_it_is(pvs: Pvs) -> None:
    assert math.isnan(pvs.get("NAN").value)


def test_access_rights_are_known_before_a_put(pvs: Pvs) -> None:
    assert (pvs.get("ASG").writable, pvs.get("DBL").writable) == (False, True)


def test_two_hundred_at_once(pvs: Pvs) -> None:
    names = [f"{kind}_{i:03d}" for kind in ("SP", "RB") for i in range(100)]
    pvs.gets(*names)
    with Timer() as timer:
        answers = pvs.gets(*names)
    assert all(isinstance(answer, Reading) for answer in answers.values())
    assert timer.seconds < AT_ONCE


def test_one_dead_pv_costs_the_same_as_fifty(pvs: Pvs) -> None:
    for count in (1, 50):
        dead = [f"NOBODY{i}" for i in range(count)]
        with Timer() as timer:
            answers = pvs.gets("DBL", *dead, "INT", timeout=0.7)
        assert 0.69 < timer.seconds < 0.7 + AT_ONCE
        assert isinstance(answers["DBL"], Reading) and isinstance(answers["INT"], Reading)
        assert all(type(answers[name]) is PvNotConnected for name in dead)


def test_the_same_pv_under_two_names_answers_to_both(pvs: Pvs) -> None:
    plain, schemed = PvAddress.parse(pvs.ioc.pv("DBL")), pvs.at("DBL")
    answers = pvs.backend.get_many([plain, schemed], Deadline(3))
    assert {address: getattr(answer, "value", answer) for address, answer in answers.items()} == {
        plain: 1.5,
        schemed: 1.5,
    }


def test_a_name_that_cannot_be_asked_for_is_an_answer(pvs: Pvs) -> None:
    long = "X:" + "Y" * 80
    answer = pvs.gets(long)[long]
    assert type(answer) is PvNotConnected and "limit" in answer.message
    assert pvs.put(long, 1.0)[0] is Outcome.NOT_SENT
    got: list[Update] = []
    pvs.monitor(long, got)
    eventually(lambda: values(got) == [PvNotConnected])


# ---- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [False, True], ids=["plain", "wait"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FREE", -2.25), ("INT", -7), ("STR", "Grüße"), ("SWF", ["a", "bb"]), ("WF", [4.0, 5.0]), ("IWF", [9]),
        ("F32", np.array([0.25], "f4")), ("ENUM", 2), ("BOOL", 0),
    ],
)  # fmt: skip
def test_a_put_arrives(pvs: Pvs, outside: Callable[[str], Any], name: str, value: Any, wait: bool) -> None:
    before = pvs.get(name).plain
    assert pvs.put(name, value, wait=wait) == (Outcome.APPLIED, "")
    seen = outside(name)
    assert (seen.tolist() if isinstance(seen, np.ndarray) else seen) == (
        value.tolist() if isinstance(value, np.ndarray) else value
    )
    pvs.put(name, before)


def test_a_long_text_keeps_all_of_it(pvs: Pvs) -> None:
    assert pvs.put("FREE.EGU$", "µm/s") == (Outcome.APPLIED, "")
    assert (pvs.get("FREE.EGU$").value, pvs.get("FREE").units) == ("µm/s", "µm/s")
    assert pvs.put("FREE.EGU$", "") == (Outcome.APPLIED, "")
    assert pvs.get("FREE.EGU$").value == ""


@pytest.mark.parametrize("wait", [False, True], ids=["plain", "wait"])
@pytest.mark.parametrize(("name", "words"), [("DISP", "ECA_PUTFAIL"), ("ASG", "Write access denied")])
def test_a_refusal_says_so(pvs: Pvs, outside: Callable[[str], Any], name: str, words: str, wait: bool) -> None:
    outcome, message = pvs.put(name, 3.0, wait=wait)
    assert outcome is Outcome.REFUSED and words in message
    assert outside(name) == 1.0


def test_a_plain_put_knows_of_the_records_own_refusal_and_notify_does_not(pvs: Pvs) -> None:
    outcome, message = pvs.put("VALID", 3.0)
    assert outcome is Outcome.REFUSED and "ECA_PUTFAIL" in message
    assert pvs.put("VALID", 1.5) == (Outcome.APPLIED, "")
    # Why notify is kept for those who ask for it: EPICS itself says "normal" here, over PVAccess too.
    assert pvs.put("VALID", 3.0, wait=True) == (Outcome.APPLIED, "")
    assert pvs.get("VALID").value == 1.5
    pvs.put("VALID", 1.0)


def test_each_put_of_a_batch_has_its_own_answer(pvs: Pvs) -> None:
    wanted = {f"SP_{i:03d}": Outcome.APPLIED for i in range(10, 60)}
    wanted |= {"DISP": Outcome.REFUSED, "ASG": Outcome.REFUSED, "VALID": Outcome.REFUSED}
    wanted = dict(sorted(wanted.items(), key=lambda item: item[0][::-1]))
    for value in (3.0, 4.0):
        asked = {pvs.at(name): value for name in wanted}
        answers = pvs.backend.put_many(asked, Deadline(5), wait=[pvs.at("SP_011"), pvs.at("SP_012")])
        assert {at: answer.outcome for at, answer in answers.items()} == {pvs.at(n): o for n, o in wanted.items()}
        held = pvs.gets(*wanted)
        assert {name: getattr(held[name], "value", None) for name in wanted} == {
            name: value if outcome is Outcome.APPLIED else 1.0 for name, outcome in wanted.items()
        }


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("INT", 3.7, "does not fit"), ("INT", 2**31, "does not fit"), ("ENUM", "on", "not a number"),
        ("STR", "x" * 40, "too long"), ("STR", 5.0, "not a text"), ("WF", [0.0] * 9, "too many"),
        ("SWF", ["x"] * 5, "too many"), ("FREE", [1.0, 2.0], "too many"), ("FREE.EGU$", "x" * 16, "too long"),
        ("FREE", Fields({"value": 1.0}), "no structures"), ("INT", None, "not a number"),
    ],
)  # fmt: skip
def test_what_the_channel_cannot_hold_is_not_sent(pvs: Pvs, name: str, value: Any, words: str) -> None:
    before = pvs.get(name)
    outcome, message = pvs.put(name, value)
    assert outcome is Outcome.REFUSED and words in message
    assert pvs.get(name).plain == before.plain
    assert pvs.get(name).timestamp_ns == before.timestamp_ns


def test_a_slow_record_takes_a_put_at_once_and_a_put_that_waits_holds_up_nothing_else(own: Pvs) -> None:
    """EPICS stops the whole circuit for a second notify to a busy record, for up to a minute."""
    with Timer() as timer:
        assert own.put("SLOW", 1.0) == (Outcome.APPLIED, "")
        assert own.get("SLOW").value == 1.0
        # Busy for two seconds now.
        assert own.put("SLOW", 2.0) == (Outcome.APPLIED, "")
    assert timer.seconds < AT_ONCE
    assert own.put("SLOW", 3.0, timeout=0.2, wait=True)[0] is Outcome.UNKNOWN
    outcome, message = own.put("SLOW", 4.0, timeout=0.2, wait=True)
    assert outcome is Outcome.NOT_SENT and "earlier put" in message
    with Timer() as timer:
        assert own.get("DBL").value == 1.5
        assert own.put("FREE", 5.0) == (Outcome.APPLIED, "")
    assert timer.seconds < AT_ONCE
    with Timer() as timer:
        assert own.put("SLOW", 5.0, timeout=9, wait=True) == (Outcome.APPLIED, "")
    assert timer.seconds > 2.0
    assert own.get("SLOW").value == 5.0


def test_a_put_to_nobody_was_not_sent(pvs: Pvs) -> None:
    with Timer() as timer:
        outcome, message = pvs.put("NOBODY", 1.0, timeout=0.4)
    assert outcome is Outcome.NOT_SENT and "nobody serves it" in message
    assert 0.39 < timer.seconds < 0.4 + AT_ONCE


# ---- servers that stop, go and come back -----------------------------------------------------------------------------


def test_a_frozen_server_leaves_a_put_unknown(own: Pvs) -> None:
    own.gets("FREE", "DBL")
    own.ioc.stop()
    with Timer() as timer:
        answer = own.gets("FREE", timeout=0.4)["FREE"]
        assert type(answer) is PvTimeout and "silent" in answer.message
        assert own.put("FREE", 7.5, timeout=0.4)[0] is Outcome.UNKNOWN
        # This one is not known yet, so nothing can be sent.
        assert own.put("INT", 7, timeout=0.4)[0] is Outcome.NOT_SENT
    assert 1.1 < timer.seconds < 1.2 + AT_ONCE
    own.ioc.cont()
    eventually(lambda: own.get("FREE").value == 7.5)
    assert own.get("INT").value == 42


def test_a_server_that_is_silent_for_too_long_is_disconnected(
    victim: SoftIoc, own: Pvs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from badger_k2eg.backends import ca

    monkeypatch.setenv("EPICS_CA_CONN_TMO", "0.5")
    monkeypatch.setattr(getattr(ca, "circuit", ca), "_PATIENCE", 0.5)
    pvs = Pvs(victim, open_backend("ca"))
    got: list[Update] = []
    pvs.monitor("STATIC", got)
    eventually(lambda: values(got) == [7.0])
    time.sleep(2.0)  # silent, for nothing changes; but it answers
    assert values(got) == [7.0]
    victim.stop()
    eventually(lambda: values(got) == [7.0, PvNotConnected])
    victim.cont()
    eventually(lambda: values(got) == [7.0, PvNotConnected, 7.0])
    pvs.backend.close()


def test_a_killed_server_leaves_a_put_unknown_at_once(own: Pvs) -> None:
    own.get("SLOW")
    with ThreadPoolExecutor() as threads:
        put = threads.submit(own.put, "SLOW", 1.0, 10.0, wait=True)
        eventually(lambda: own.get("SLOW").value == 1.0)
        with Timer() as timer:
            own.ioc.kill()
            outcome, message = put.result(PATIENCE)
    assert outcome is Outcome.UNKNOWN and "disconnected" in message
    assert timer.seconds < 1.0


def test_after_a_restart_the_next_call_works(own: Pvs) -> None:
    assert own.put("FREE", 9.0) == (Outcome.APPLIED, "")
    own.ioc.kill()
    assert type(own.gets("FREE", timeout=0.3)["FREE"]) is PvNotConnected
    own.ioc.restart()
    assert own.get("FREE", timeout=1.0).value == 1.0
    own.ioc.restart()
    assert own.put("FREE", 9.0, timeout=1.0) == (Outcome.APPLIED, "")


def test_a_call_that_waits_sees_the_server_come(own: Pvs) -> None:
    own.ioc.kill()
    with ThreadPoolExecutor() as threads:
        get = threads.submit(own.get, "DBL", PATIENCE)
        put = threads.submit(own.put, "FREE", 6.0, PATIENCE)
        time.sleep(0.5)
        assert not get.done() and not put.done()
        own.ioc.restart()
        with Timer() as timer:
            assert get.result(PATIENCE).value == 1.5
            assert put.result(PATIENCE) == (Outcome.APPLIED, "")
    assert timer.seconds < 1.5


def test_a_get_in_flight_is_sent_again_to_the_server_that_came_back(own: Pvs) -> None:
    own.get("FREE")
    own.ioc.stop()
    with ThreadPoolExecutor() as threads:
        get = threads.submit(own.get, "FREE", PATIENCE)
        time.sleep(0.2)
        own.ioc.restart()
        assert get.result(PATIENCE).value == 1.0


# ---- cancelling ------------------------------------------------------------------------------------------------------


def test_cancel_ends_a_get_at_once(pvs: Pvs) -> None:
    deadline = Deadline(PATIENCE)
    threading.Timer(0.2, deadline.cancel).start()
    with Timer() as timer, pytest.raises(CallCancelled, match="NOBODY"):
        pvs.backend.get_many([pvs.at("DBL"), pvs.at("NOBODY")], deadline)
    assert 0.19 < timer.seconds < 0.2 + AT_ONCE


def test_cancel_tells_puts_on_the_wire_from_the_rest(own: Pvs) -> None:
    own.gets("FREE", "DBL", "SLOW")
    own.ioc.stop()
    deadline = Deadline().child()
    threading.Timer(0.2, deadline.cancel).start()
    asked = {own.at("FREE"): 1.0, own.at("NOBODY"): 1.0, own.at("SLOW"): 1.0}
    with Timer() as timer:
        answers = own.backend.put_many(asked, deadline, wait=[own.at("SLOW")])
    assert [answer.outcome for answer in answers.values()] == [Outcome.UNKNOWN, Outcome.NOT_SENT, Outcome.UNKNOWN]
    assert 0.19 < timer.seconds < 0.2 + AT_ONCE


def test_of_a_call_that_is_over_nothing_is_sent_not_even_for_an_instant(pvs: Pvs) -> None:
    asked = {pvs.at(f"SP_{i:03d}"): 5.0 for i in range(70, 90)}
    before = pvs.gets("SP_070", "SP_089")
    cancelled = Deadline(5)
    cancelled.cancel()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads take turns as on a busy machine
    try:
        for over in [cancelled, Deadline(0)] * 20:
            answers = pvs.backend.put_many(asked, over)
            assert {answer.outcome for answer in answers.values()} == {Outcome.NOT_SENT}
    finally:
        sys.setswitchinterval(interval)
    time.sleep(0.1)
    assert values(list(pvs.gets("SP_070", "SP_089").values())) == values(list(before.values()))


def test_closing_ends_calls_and_monitors(ioc: SoftIoc, epics_environment: SessionPorts) -> None:
    known = {thread.ident for thread in threading.enumerate()}
    pvs = Pvs(ioc, open_backend("ca"))
    got: list[Update] = []
    pvs.monitor("COUNT", got)
    eventually(lambda: got)
    with ThreadPoolExecutor() as threads:
        get = threads.submit(pvs.gets, "NOBODY", timeout=PATIENCE)
        put = threads.submit(pvs.put, "NOBODY", 1.0, PATIENCE)
        slow = threads.submit(pvs.put, "SLOW", 1.0, PATIENCE, wait=True)
        eventually(lambda: pvs.get("SLOW").value == 1.0)
        with Timer() as timer:
            pvs.backend.close()
            with pytest.raises(CallCancelled):
                get.result(PATIENCE)
            assert (put.result(PATIENCE)[0], slow.result(PATIENCE)[0]) == (Outcome.NOT_SENT, Outcome.UNKNOWN)
    assert timer.seconds < AT_ONCE
    assert {thread.ident for thread in threading.enumerate()} <= known
    count = len(got)
    time.sleep(0.3)
    assert len(got) == count
    pvs.backend.close()


# ---- monitors --------------------------------------------------------------------------------------------------------


def test_the_present_value_first_and_every_update_in_order(pvs: Pvs) -> None:
    got: list[Update] = []
    subscription = pvs.monitor("SP_002", got)
    eventually(lambda: got)
    for value in range(1, 21):
        assert pvs.put("SP_002", value, wait=True)[0] is Outcome.APPLIED
    eventually(lambda: len(got) >= 21)
    assert values(got) == [0.0, *map(float, range(1, 21))]
    last = got[-1]
    assert isinstance(last, Reading)
    assert (last.limits, last.precision, last.writable) == (Limits(-100, 100), 3, True)
    subscription.close()


def test_updates_of_enums_texts_and_arrays_are_whole(pvs: Pvs) -> None:
    got: dict[str, list[Update]] = {name: [] for name in ("ENUM", "STR", "WF")}
    for name, updates in got.items():
        pvs.monitor(name, updates)
    eventually(lambda: all(got.values()))
    first = {name: updates[0] for name, updates in got.items()}
    assert isinstance(first["ENUM"], Reading) and first["ENUM"].label == "on"
    assert isinstance(first["STR"], Reading) and first["STR"].value == "hello"
    assert isinstance(first["WF"], Reading) and first["WF"].plain == [1.0, 2.5, -3.25]
    pvs.put("WF", [7.0])
    eventually(lambda: len(got["WF"]) > 1)
    assert isinstance(update := got["WF"][1], Reading) and update.plain == [7.0]
    pvs.put("WF", [1.0, 2.5, -3.25])


def test_one_thread_of_ours_calls_back_and_may_read_and_put(pvs: Pvs) -> None:
    threads: set[str] = set()
    outcomes: list[Any] = []

    def called(update: Update) -> None:
        threads.add(threading.current_thread().name)
        outcomes.append((pvs.get("DBL").value, pvs.put("SP_003", 1.0)[0]))

    for name in ("COUNT", "FREE", "INT"):
        pvs.monitor(name, called)
    eventually(lambda: len(outcomes) > 5)
    assert threads == {"ca monitors"}
    assert set(outcomes) == {(1.5, Outcome.APPLIED)}


def test_a_callback_that_fails_silences_nobody(pvs: Pvs, caplog: pytest.LogCaptureFixture) -> None:
    def fail(update: Update) -> None:
        raise RuntimeError("mine")

    got: list[Update] = []
    pvs.monitor("COUNT", fail)
    pvs.monitor("COUNT", got)
    eventually(lambda: len(got) > 3)
    assert "COUNT failed" in caplog.text


def test_a_slow_callback_loses_the_oldest_and_never_the_last(pvs: Pvs) -> None:
    go = threading.Event()
    got: list[Update] = []

    def slow(update: Update) -> None:
        got.append(update)
        go.wait(PATIENCE)

    pvs.monitor("SP_004", slow, queue=4)
    eventually(lambda: got)
    for value in range(1, 31):
        pvs.put("SP_004", value, wait=True)
    time.sleep(0.2)
    go.set()
    eventually(lambda: values(got)[-1] == 30.0)
    assert values(got) == [0.0, 27.0, 28.0, 29.0, 30.0]


def test_no_callback_after_close_which_may_be_called_twice_and_from_a_callback(pvs: Pvs) -> None:
    got: list[Update] = []
    subscription = pvs.monitor("COUNT", got)
    eventually(lambda: len(got) > 1)
    subscription.close()
    count = len(got)
    closed_itself: list[Update] = []

    def once(update: Update) -> None:
        closed_itself.append(update)
        itself.close()

    itself = pvs.monitor("FREE", once)
    eventually(lambda: closed_itself)
    pvs.put("FREE", 2.0, wait=True)
    pvs.put("FREE", 1.0, wait=True)
    time.sleep(0.3)
    subscription.close()
    assert (len(got), len(closed_itself)) == (count, 1)


def test_close_waits_for_the_callback_that_runs(pvs: Pvs) -> None:
    entered, ended = threading.Event(), threading.Event()

    def slow(update: Update) -> None:
        entered.set()
        time.sleep(0.3)
        ended.set()

    subscription = pvs.monitor("FREE", slow)
    assert entered.wait(PATIENCE)
    subscription.close()
    assert ended.is_set()


def test_a_monitor_says_when_it_is_disconnected_and_comes_back(own: Pvs) -> None:
    got: list[Update] = []
    own.put("FREE", 3.0)
    own.monitor("FREE", got)
    eventually(lambda: values(got) == [3.0])
    own.ioc.kill()
    eventually(lambda: values(got) == [3.0, PvNotConnected])
    own.ioc.restart()
    eventually(lambda: values(got) == [3.0, PvNotConnected, 1.0])
    own.put("FREE", 4.0)
    eventually(lambda: values(got)[3:] == [4.0])


def test_a_monitor_waits_for_a_server_that_is_not_there_yet(own: Pvs) -> None:
    own.ioc.kill()
    got: list[Update] = []
    own.monitor("FREE", got)
    time.sleep(0.3)
    own.ioc.restart()
    eventually(lambda: values(got) == [1.0])


# ---- other servers ---------------------------------------------------------------------------------------------------


class Impostor:
    """Answers a search for IMP:X, and does not serve it.

    :param speech: what it says to who connects; None: nobody can.
    """

    def __init__(self, speech: bytes | None) -> None:
        self.port = free_port()
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((LOOPBACK, self.port))
        self._tcp = socket.create_server((LOOPBACK, self.port)) if speech is not None else None
        self._speech = speech or b""
        self.visits: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._found)]
        if self._tcp is not None:
            self._threads.append(threading.Thread(target=self._visited, args=(self._tcp,)))
        for thread in self._threads:
            thread.start()

    def _found(self) -> None:
        while True:
            request, client = self._udp.recvfrom(4096)
            if request == b"end":
                return
            at = 0
            while at + 16 <= len(request):
                command, size, _, _, number, _ = struct.unpack_from(">HHHHII", request, at)
                if command == 6 and request[at + 16 : at + 16 + size].rstrip(b"\0") == b"IMP:X":
                    answer = struct.pack(">HHHHII", 6, 8, self.port, 0, 0xFFFFFFFF, number) + b"\0\x0d" + bytes(6)
                    self._udp.sendto(b"garbage that is no message at all", client)
                    self._udp.sendto(answer, client)
                at += 16 + size

    def _visited(self, tcp: socket.socket) -> None:
        while True:
            visit, _ = tcp.accept()
            self.visits.append(visit)
            if visit.recv(3, socket.MSG_PEEK) == b"end":
                return
            visit.sendall(self._speech)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.sendto(b"end", (LOOPBACK, self.port))
        if self._tcp is not None:
            with socket.create_connection((LOOPBACK, self.port)) as end:
                end.sendall(b"end")
                self._threads[1].join()
            self._tcp.close()
        self._threads[0].join()
        self._udp.close()
        for visit in self.visits:
            visit.close()


@pytest.mark.parametrize("speech", [None, b"", b"\xff" * 64], ids=["refuses", "is mute", "talks nonsense"])
def test_a_server_that_is_none_keeps_nobody_else_from_working(
    ioc: SoftIoc, monkeypatch: pytest.MonkeyPatch, speech: bytes | None
) -> None:
    """The search thread of caproto's own client ends for good at the first server that refuses a connection."""
    impostor = Impostor(speech)
    monkeypatch.setenv("EPICS_CA_ADDR_LIST", f"{LOOPBACK}:{impostor.port} {os.environ['EPICS_CA_ADDR_LIST']}")
    pvs = Pvs(ioc, open_backend("ca"))
    try:
        with Timer() as timer:
            answers = pvs.gets("IMP:X", "DBL", timeout=0.6)
        assert timer.seconds < 0.6 + AT_ONCE
        assert type(answers["IMP:X"]) is PvNotConnected
        assert isinstance(answers["DBL"], Reading)
        if speech is not None:
            assert impostor.visits
            assert len(impostor.visits) < 40
        assert pvs.get("INT", timeout=AT_ONCE).value == 42
        assert pvs.put("IMP:X", 1.0, timeout=0.2)[0] is Outcome.NOT_SENT
    finally:
        pvs.backend.close()
        impostor.close()


PYTHON_IOC = """
import sys
from caproto.server import PVGroup, pvproperty, run

class Big(PVGroup):
    big = pvproperty(value=[0.0] * 3, dtype=float, max_length=1_000_000, name="BIG")
    no = pvproperty(value=1.0, name="NO")

    @no.putter
    async def no(self, instance, value):
        raise ValueError("no")

run(Big(prefix="CAP:").pvdb, interfaces=["127.0.0.1"])
"""


def test_eight_megabytes_and_another_kind_of_server(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    settings = {
        "EPICS_CAS_SERVER_PORT": port, "EPICS_CA_SERVER_PORT": port, "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
        "EPICS_CAS_BEACON_ADDR_LIST": LOOPBACK, "EPICS_CAS_BEACON_PORT": repeater_port(),
    }  # fmt: skip
    environment = os.environ | {name: str(value) for name, value in settings.items()}
    monkeypatch.setenv("EPICS_CA_ADDR_LIST", f"{LOOPBACK}:{port}")
    monkeypatch.setenv("EPICS_CA_AUTO_ADDR_LIST", "NO")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([sys.executable, "-c", PYTHON_IOC], env=environment, **quiet)  # type: ignore[call-overload]
    backend = open_backend("ca")
    try:
        wait_for_ca("CAP:BIG", port)
        big, no = PvAddress.parse("CAP:BIG"), PvAddress.parse("CAP:NO")
        asked = np.arange(1_000_000) / 7
        assert backend.put_many({big: asked}, Deadline(PATIENCE))[big].outcome is Outcome.APPLIED
        answer = backend.get_many([big], Deadline(PATIENCE))[big]
        assert isinstance(answer, Reading) and np.array_equal(answer.value, asked)
        assert answer.type.max_length == 1_000_000
        # Such a server answers a plain put out of order; one in ``wait`` it answers for itself.
        assert backend.put_many({no: 2.0}, Deadline(PATIENCE), wait=[no])[no].outcome is Outcome.REFUSED
    finally:
        backend.close()
        server.terminate()
        server.wait()


# ---- processes of their own ------------------------------------------------------------------------------------------


def run(script: str, ioc: SoftIoc, **environment: str) -> Any:
    """Run a script with `pv(name)` and `backend`; give what it printed last, as JSON."""
    before = f"""
        import json, os, sys, threading, time
        from badger_k2eg.backends import open_backend
        from badger_k2eg.deadline import Deadline
        from badger_k2eg.model import PvAddress

        def pv(name): return PvAddress.parse("{ioc.prefix}:" + name)
        def get(name, timeout=3):
            return getattr(backend.get_many([pv(name)], Deadline(timeout))[pv(name)], "value", None)
        def put(name, value, timeout=3, wait=()):
            return backend.put_many({{pv(name): value}}, Deadline(timeout), wait)[pv(name)].outcome.value
        backend = open_backend("ca")
    """
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-W", "ignore:This process:DeprecationWarning", "-c",
         textwrap.dedent(before) + textwrap.dedent(script)],
        env=os.environ | ioc.client_environment | environment,
        capture_output=True, text=True, timeout=40,
    )  # fmt: skip
    assert ended.returncode == 0 and not ended.stderr, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def test_no_pvaccess_no_repeater_no_process(ioc: SoftIoc) -> None:
    pytest.importorskip("psutil")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as repeater:
        repeater.bind((LOOPBACK, repeater_port()))
        repeater.setblocking(False)
        seen = run(
            """
            import psutil
            got = []
            backend.monitor(pv("COUNT"), got.append)
            get("DBL"), put("FREE", 1.0), get("NOBODY", 0.3)
            me = psutil.Process()
            used = me.net_connections() if hasattr(me, "net_connections") else me.connections()
            print(json.dumps({
                "tcp": [c.raddr.port for c in used if c.raddr],
                "children": [child.cmdline() for child in me.children(recursive=True)],
                "modules": [name for name in sys.modules if name.startswith(("p4p", "caproto.sync"))],
                "threads": sorted(thread.name for thread in threading.enumerate()),
            }))
            """,
            ioc,
        )
        # The beacons of IOCs come here too; a registration is a message 24.
        messages = []
        try:
            while True:
                messages.append(struct.unpack_from(">H", repeater.recv(4096))[0])
        except BlockingIOError:
            pass
    assert seen["tcp"] == [ioc.ports.ca]
    assert ioc.ports.pva_tcp not in seen["tcp"]
    assert seen["children"] == []
    assert seen["modules"] == []
    assert seen["threads"] == ["MainThread", "ca client", "ca monitors"]
    assert 24 not in messages


def test_an_empty_address_list_reaches_nobody(ioc: SoftIoc) -> None:
    """caproto would broadcast to the whole site; EPICS base does not."""
    script = """
        import socket
        sent = []
        class Spy(socket.socket):
            def sendto(self, data, address):
                sent.append(address)
                return super().sendto(data, address)
        socket.socket = Spy
        print(json.dumps([get("DBL", 0.3), sorted(set(sent))]))
    """
    assert run(script, ioc, EPICS_CA_ADDR_LIST="", EPICS_CA_AUTO_ADDR_LIST="NO") == [None, []]
    assert run(script, ioc) == [1.5, [[LOOPBACK, ioc.ports.ca]]]
    # A host without a port is asked on EPICS_CA_SERVER_PORT.
    assert run(script, ioc, EPICS_CA_ADDR_LIST="localhost") == [1.5, [[LOOPBACK, ioc.ports.ca]]]


def test_a_fork_leaves_the_parent_at_work_and_the_child_begins_anew(ioc: SoftIoc) -> None:
    seen = run(
        """
        updates, answers, child_answers = [], {}, []
        def slow(): answers["slow"] = put("SLOW", 5.0, 6, [pv("SLOW")])
        def dead(): answers["dead"] = get("NOBODY", 1.0)
        get("DBL")
        subscription = backend.monitor(pv("COUNT"), updates.append)
        threads = [threading.Thread(target=slow), threading.Thread(target=dead)]
        for thread in threads: thread.start()
        time.sleep(0.2)
        began = time.monotonic()
        for i in range(3):
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                got = []
                backend.monitor(pv("COUNT"), got.append)
                mine = [get("DBL"), put("SP:090", float(i)), get("SP:090")]
                subscription.close()
                time.sleep(0.3)
                backend.close()
                mine += [len(got) > 1, [thread.name for thread in threading.enumerate()]]
                os.write(writing, json.dumps(mine).encode())
                os._exit(0)
            os.close(writing)
            with open(reading) as pipe: child_answers.append(json.loads(pipe.read()))
            os.waitpid(child, 0)
            if i == 0: first = time.monotonic() - began
        lasted = time.monotonic() - began - first
        count = len(updates)
        for thread in threads: thread.join()
        time.sleep(0.4)
        after = [get("DBL"), len(updates) > count + 1, all(hasattr(u, "value") for u in updates)]
        backend.close()
        print(json.dumps([child_answers, answers, after, first, lasted,
                          [t.name for t in threading.enumerate()]]))
        """,
        ioc,
    )
    children, answers, after, first, lasted, threads = seen
    assert children == [[1.5, "applied", float(i), True, ["MainThread"]] for i in range(3)]
    assert answers == {"slow": "applied", "dead": None}
    assert after == [1.5, True, True]
    assert first > 1.5  # the put in flight was waited for
    assert lasted < 2.0
    assert threads == ["MainThread"]


def test_many_forks_beside_many_calls(ioc: SoftIoc) -> None:
    wrong, forks = run(
        """
        wrong, done = [], threading.Event()
        def busy(n):
            while not done.is_set():
                if get("DBL") != 1.5: wrong.append("get")
                if put(f"SP:08{n}", 1.0) != "applied": wrong.append("put")
        threads = [threading.Thread(target=busy, args=(n,)) for n in range(4)]
        for thread in threads: thread.start()
        forks = 0
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            child = os.fork()
            if child == 0: os._exit(0 if get("INT") == 42 else 1)
            if os.waitpid(child, 0)[1]: wrong.append("child")
            forks += 1
        done.set()
        for thread in threads: thread.join()
        backend.close()
        print(json.dumps([wrong, forks]))
        """,
        ioc,
    )
    assert wrong == []
    assert forks > 5


def test_without_caproto_it_says_what_to_install(ioc: SoftIoc) -> None:
    script = (
        "import sys; sys.modules['caproto'] = None\n"
        "from badger_k2eg.backends import open_backend\n"
        "from badger_k2eg.errors import MissingExtra\n"
        "try: open_backend('ca')\n"
        "except MissingExtra as error: print(error)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout == "ca:// addresses needs an optional part: pip install 'badger-k2eg[ca]'\n"


def test_suspend_puts_every_handle_down_and_goes_on(pvs: Pvs) -> None:
    got: list[Update] = []
    pvs.monitor("SP_005", got)
    eventually(lambda: values(got) == [0.0])
    with ThreadPoolExecutor() as threads:
        get = threads.submit(pvs.gets, "DBL", "NOBODY", timeout=1.0)
        time.sleep(0.1)
        pvs.backend.suspend()
        answers = get.result(PATIENCE)
    assert isinstance(answers["DBL"], Reading)
    pvs.put("SP_005", 1.0)
    eventually(lambda: values(got) == [0.0, 0.0, 1.0])
