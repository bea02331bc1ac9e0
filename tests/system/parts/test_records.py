"""The records of the IOC, and how its readbacks follow."""

from __future__ import annotations

import math
import queue
import time
from typing import Any

import pytest

from tests.rig.pace import pace
from tests.rig.waiting import eventually

from .part import Part, seconds_until


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FREE", -2.25), ("INT", -7), ("INTFREE", 12345), ("STR", "bye"), ("LSTR", "x" * 200), ("SP:099", 99.5),
        ("DBL", 4.5),
    ],
)  # fmt: skip
def test_scalars_keep_what_was_put(ioc: Part, name: str, value: Any) -> None:
    before = ioc.get(name)
    ioc.put(name, value)
    assert ioc.get(name) == value
    ioc.put(name, before)
    assert ioc.get(name) == before


@pytest.mark.parametrize(
    ("name", "initial", "most"),
    [("WF", [1.0, 2.5, -3.25], 8), ("IWF", [1, 2, 3], 8), ("F32", [0.5, 1.5], 4), ("SWF", ["one", "two", "three"], 4)],
)
def test_arrays_are_cut_at_their_length(ioc: Part, name: str, initial: list[Any], most: int) -> None:
    assert list(ioc.get(name)) == initial
    longer = (initial * 9)[: most + 3]
    ioc.put(name, longer)
    assert list(ioc.get(name)) == longer[:most]
    ioc.put(name, initial)


@pytest.mark.parametrize(("name", "choices"), [("ENUM", ["off", "on", "auto"]), ("BOOL", ["closed", "open"])])
def test_enums_accept_an_index_that_has_no_choice(ioc: Part, name: str, choices: list[str]) -> None:
    assert list(ioc.whole(name).value.choices) == choices
    assert ioc.get(name) == 1
    ioc.put(name, 7, "value.index")
    assert ioc.get(name) == 7
    ioc.put(name, 1, "value.index")


def test_limits_and_units_are_where_the_guard_looks(ioc: Part) -> None:
    dbl, free = ioc.whole("DBL"), ioc.whole("FREE")
    assert (dbl.control.limitLow, dbl.control.limitHigh) == (-5, 5)
    assert (dbl.display.limitLow, dbl.display.limitHigh, dbl.display.units, dbl.display.precision) == (-10, 10, "mm", 3)
    assert (dbl.valueAlarm.lowAlarmLimit, dbl.valueAlarm.highAlarmLimit) == (-9, 9)
    assert (free.control.limitLow, free.control.limitHigh) == (0, 0)


@pytest.mark.parametrize(
    ("name", "asked", "done"),
    [("DBL", 99.0, 5.0), ("DBL", -99.0, -5.0), ("INT", 1000, 100), ("INT", 3.7, 3), ("INTFREE", -3.7, -3)],
)
def test_a_changed_value_is_reported_as_success(ioc: Part, name: str, asked: float, done: float) -> None:
    before = ioc.get(name)
    assert ioc.put(name, asked) is None
    assert ioc.get(name) == done
    ioc.put(name, before)


def test_nan_is_accepted(ioc: Part) -> None:
    ioc.put("FREE", math.nan)
    assert math.isnan(ioc.get("FREE"))
    assert ioc.severity("FREE") == (3, "UDF")
    ioc.put("FREE", 1.0)
    assert ioc.severity("FREE") == (0, "")


def test_a_string_is_cut_silently(ioc: Part) -> None:
    ioc.put("STR", "x" * 60)
    assert ioc.get("STR") == "x" * 39
    ioc.put("STR", "hello")


@pytest.mark.timing
def test_slow_answers_at_once_unless_asked_to_block(ioc: Part) -> None:
    began = time.monotonic()
    ioc.put("SLOW", 1.0)
    assert time.monotonic() - began < 0.5 * pace()
    time.sleep(2.2)
    began = time.monotonic()
    ioc.put("SLOW", 2.0, request="record[block=true]")
    assert 1.9 < time.monotonic() - began < 3.0 * pace()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("DISP", 3.0, "S_db_putDisabled"), ("ASG", 3.0, "Put not permitted"), ("VALID", 3.0, "Operation not permitted")],
)
def test_a_protected_record_reads_and_refuses_the_put(ioc: Part, name: str, value: float, words: str) -> None:
    from p4p.client.raw import RemoteError

    assert ioc.get(name) == 1.0
    with pytest.raises(RemoteError, match=words):
        ioc.put(name, value)
    assert ioc.get(name) == 1.0


def test_validate_accepts_what_it_should_and_hides_a_refusal_behind_block(ioc: Part) -> None:
    ioc.put("VALID", 1.5)
    assert ioc.get("VALID") == 1.5
    assert ioc.put("VALID", 3.0, request="record[block=true]") is None
    assert ioc.get("VALID") == 1.5
    ioc.put("VALID", 1.0)


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [("UDF", 3, "UDF"), ("NAN", 3, "UDF"), ("MAJOR", 2, "HIHI"), ("MINOR", 1, "HIGH"), ("INVALID", 3, "READ"),
     ("STATIC", 0, "")],
)  # fmt: skip
def test_alarms(ioc: Part, name: str, severity: int, message: str) -> None:
    assert ioc.severity(name) == (severity, message)


def test_what_the_odd_inputs_hold(ioc: Part) -> None:
    assert ioc.get("UDF") == 0.0
    assert math.isnan(ioc.get("NAN"))
    assert ioc.get("STATIC") == 7.0


def test_count_changes_ten_times_a_second(ioc: Part) -> None:
    first = ioc.get("COUNT")
    time.sleep(1.0)
    assert 7 <= ioc.get("COUNT") - first <= 14


def test_every_put_to_cmd_counts_also_of_the_same_value(ioc: Part) -> None:
    before = ioc.get("CMD:COUNT")
    for _ in range(3):
        ioc.put("CMD", 1)
    eventually(lambda: ioc.get("CMD:COUNT"), before + 3)


# ---- setpoints and their readbacks -----------------------------------------------------------------------------------


@pytest.mark.timing
def test_a_hundred_readbacks_follow_a_settle_time_later(ioc: Part) -> None:
    setpoints = [ioc.server.pv(f"SP:{i:03d}") for i in range(100)]
    readbacks = [ioc.server.pv(f"RB:{i:03d}") for i in range(100)]
    ioc.put("SETTLE", 0.5)
    ioc.context.get(setpoints + readbacks)  # connect
    wanted = [i / 8 + time.time() % 1 for i in range(100)]
    began = time.monotonic()
    ioc.context.put(setpoints, [{"value": value} for value in wanted])
    put = time.monotonic() - began
    assert [v.value for v in ioc.context.get(readbacks)] != wanted
    took = put + seconds_until(lambda: [v.value for v in ioc.context.get(readbacks)], wanted)
    assert 0.5 <= took < 0.5 + put + 0.3 * pace()
    print(f"raw put of 100: {put:.3f} s; all readbacks there after {took:.3f} s")


@pytest.mark.timing
def test_the_settle_time_is_a_pv_and_the_newest_setpoint_wins(ioc: Part) -> None:
    ioc.put("SETTLE", 0.2)
    ioc.put("SP:001", 11.0)
    ioc.put("SP:001", 12.0)
    assert 0.1 < seconds_until(lambda: ioc.get("RB:001"), 12.0) < 0.45 * pace()
    ioc.put("SETTLE", 0.0)
    ioc.put("SP:001", 13.0)
    assert seconds_until(lambda: ioc.get("RB:001"), 13.0) < 0.2 * pace()
    ioc.put("SETTLE", 0.5)


@pytest.mark.timing
def test_ramp_moves_at_its_rate(ioc: Part) -> None:
    ioc.put("RAMP:RATE", 10.0)
    start = ioc.get("RAMP:RB")
    ioc.put("RAMP:SP", start + 5.0)
    time.sleep(0.25)
    assert 1.0 < ioc.get("RAMP:RB") - start < 4.5
    eventually(lambda: ioc.get("RAMP:RB"), start + 5.0)
    ioc.put("RAMP:SP", start)
    assert 0.4 < seconds_until(lambda: ioc.get("RAMP:RB"), start) < 0.8 * pace()
    ioc.put("RAMP:RATE", 1.0)


def test_stick_never_moves(ioc: Part) -> None:
    ioc.put("STICK:SP", 3.0)
    time.sleep(0.7)
    assert ioc.get("STICK:RB") == 0.0


@pytest.mark.timing
def test_noisy_leaves_the_band_again_before_it_stays(ioc: Part) -> None:
    updates: queue.Queue[Any] = queue.Queue()
    subscription = ioc.context.monitor(ioc.server.pv("NOISY:RB"), lambda v: updates.put((time.monotonic(), v.value)))
    updates.get(timeout=3)
    began = time.monotonic()
    ioc.put("NOISY:SP", 4.0)
    time.sleep(1.5)
    subscription.close()
    seen = [updates.get_nowait() for _ in range(updates.qsize())]
    inside = [abs(value - 4.0) < 0.1 for _, value in seen]
    assert inside[0]
    assert inside.count(False) >= 3
    assert inside[-1]
    assert 0.9 < seen[-1][0] - began < 1.4 * pace()
