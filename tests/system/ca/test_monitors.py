"""Monitors over Channel Access."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from badger_k2eg.core.backend import Update
from badger_k2eg.core.model import Limits, Outcome, Reading
from badger_k2eg.errors import PvNotConnected
from tests.rig.waiting import eventually

from .parts import PATIENCE, Pvs, values


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
