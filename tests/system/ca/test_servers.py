"""Servers that stop, go and come back, and calls that are cancelled meanwhile."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from badger_k2eg.backends import open_backend
from badger_k2eg.core.backend import Update
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import Outcome, Reading
from badger_k2eg.errors import CallCancelled, PvNotConnected, PvTimeout
from badger_k2eg.testing.soft_ioc import SoftIoc
from tests.rig.pace import pace
from tests.rig.waiting import eventually

from .parts import AT_ONCE, PATIENCE, Pvs, Timer, values

if TYPE_CHECKING:
    from badger_k2eg.testing.plugin import SessionPorts


def test_a_frozen_server_leaves_a_put_unknown(own: Pvs) -> None:
    own.gets("FREE", "DBL")
    own.ioc.stop()
    with Timer() as timer:
        answer = own.gets("FREE", timeout=0.4)["FREE"]
        assert type(answer) is PvTimeout and "silent" in answer.message
        assert own.put("FREE", 7.5, timeout=0.4)[0] is Outcome.UNKNOWN
        # This one is not known yet, so nothing can be sent.
        assert own.put("INT", 7, timeout=0.4)[0] is Outcome.NOT_SENT
    assert 1.1 < timer.seconds < 1.2 + AT_ONCE * pace()
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
    assert timer.seconds < 1.0 * pace()


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
    assert timer.seconds < 1.5 * pace()


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
    assert 0.19 < timer.seconds < 0.2 + AT_ONCE * pace()


def test_cancel_tells_puts_on_the_wire_from_the_rest(own: Pvs) -> None:
    own.gets("FREE", "DBL", "SLOW")
    own.ioc.stop()
    deadline = Deadline().child()
    threading.Timer(0.2, deadline.cancel).start()
    asked = {own.at("FREE"): 1.0, own.at("NOBODY"): 1.0, own.at("SLOW"): 1.0}
    with Timer() as timer:
        answers = own.backend.put_many(asked, deadline, wait=[own.at("SLOW")])
    assert [answer.outcome for answer in answers.values()] == [Outcome.UNKNOWN, Outcome.NOT_SENT, Outcome.UNKNOWN]
    assert 0.19 < timer.seconds < 0.2 + AT_ONCE * pace()


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
