"""Puts over Channel Access, and what becomes of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import Fields, Outcome
from tests.rig.pace import pace

from .parts import AT_ONCE, Pvs, Timer


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
    assert 0.39 < timer.seconds < 0.4 + AT_ONCE * pace()
