"""The faults of the server of faults."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.rig.fault_server import COUNTED, DELAYED_SECONDS, LATE_SECONDS, REFUSAL
from tests.rig.pace import pace
from tests.rig.waiting import eventually

from .part import SHORT, Part, seconds_until


def no_answer(server: Part, name: str, value: float) -> None:
    with pytest.raises(TimeoutError):
        server.put(name, value, timeout=SHORT)


def test_noanswer_applies_and_lost_does_not(server: Part) -> None:
    no_answer(server, "NOANSWER", 4.0)
    no_answer(server, "LOST", 4.0)
    assert (server.get("NOANSWER"), server.get("LOST")) == (4.0, 0.0)
    assert (server.seen("NOANSWER"), server.seen("LOST")) == (1, 1)


def test_late_applies_two_seconds_after_the_put(server: Part) -> None:
    began = time.monotonic()
    no_answer(server, "LATE", 4.0)
    assert server.get("LATE") == 0.0
    eventually(lambda: server.get("LATE"), 4.0)
    assert LATE_SECONDS - 0.05 < time.monotonic() - began < LATE_SECONDS + 0.5 * pace()
    assert server.seen("LATE") == 1


@pytest.mark.parametrize(("name", "after_first"), [("LOSTONCE", 0.0), ("APPLIEDONCE", 4.0)])
def test_once_only_the_first_put_gets_no_answer(server: Part, name: str, after_first: float) -> None:
    for _ in range(2):  # RESET brings the first time back
        no_answer(server, name, 4.0)
        assert server.get(name) == after_first
        server.put(name, 5.0)
        assert server.get(name) == 5.0
        assert server.seen(name) == 2
        server.put("RESET", 1)


def test_half_applies_half(server: Part) -> None:
    no_answer(server, "HALF", 4.0)
    assert server.get("HALF") == 2.0
    assert server.seen("HALF") == 1


def test_refuse_and_readonly_say_so(server: Part) -> None:
    from p4p.client.raw import RemoteError

    with pytest.raises(RemoteError, match=REFUSAL):
        server.put("REFUSE", 4.0)
    with pytest.raises(RemoteError, match="Put not supported"):
        server.put("READONLY", 4.0)
    assert (server.get("REFUSE"), server.get("READONLY"), server.seen("REFUSE")) == (0.0, 9.5, 1)


def test_clamp_has_no_limits_to_warn_and_keeps_to_five(server: Part) -> None:
    assert "control" not in server.whole("CLAMP")
    server.put("CLAMP", 99.0)
    assert (server.get("CLAMP"), server.seen("CLAMP")) == (5.0, 1)
    server.put("CLAMP", -99.0)
    assert (server.get("CLAMP"), server.seen("CLAMP")) == (-5.0, 2)


def test_delayed_answers_before_the_value_is_there(server: Part) -> None:
    server.put("DELAYED", 4.0)
    assert server.get("DELAYED") == 0.0
    assert seconds_until(lambda: server.get("DELAYED"), 4.0) < DELAYED_SECONDS + 0.3 * pace()


@pytest.mark.parametrize(
    ("name", "code", "asked", "done"),
    [
        ("TRUNC", "i", 3.7, 3), ("U8", "B", 300, 44), ("I64", "l", 2**60 + 1, 2**60 + 1), ("F32", "f", 0.25, 0.25),
        ("FLAG", "?", True, True), ("TEXT", "s", "grüße", "grüße"),
    ],
)  # fmt: skip
def test_types_of_the_server(server: Part, name: str, code: str, asked: Any, done: Any) -> None:
    assert server.whole(name).type()["value"] == code
    server.put(name, asked)
    assert server.get(name) == done


def test_structures_of_the_server(server: Part) -> None:
    assert list(server.get("ARR")) == [0.5, 1.5, 2.5]
    server.put("ARR", [1.0])
    assert list(server.get("ARR")) == [1.0]
    assert (server.whole("ENUM").getID(), server.get("ENUM")) == ("epics:nt/NTEnum:1.0", 1)
    server.put("ENUM", 2, "value.index")
    assert server.get("ENUM") == 2
    image = server.whole("IMAGE")
    assert image.getID() == "epics:nt/NTNDArray:1.0"
    assert [d.size for d in image.dimension] == [3, 2]
    assert list(image.value) == [0, 1, 2, 3, 4, 5]


def test_one_column_of_the_table_can_be_put_alone(server: Part) -> None:
    server.put("TABLE", [5.0, 6.0, 7.0], "value.a")
    table = server.whole("TABLE").todict()["value"]
    assert (list(table["a"]), table["b"]) == ([5.0, 6.0, 7.0], ["one", "two", "three"])


def test_pulse_carries_its_id_ten_times_a_second(server: Part) -> None:
    first, began = server.whole("PULSE"), time.monotonic()
    assert first.timeStamp.userTag == first.value > 0
    time.sleep(1.0)
    second = server.whole("PULSE")
    assert second.timeStamp.userTag == second.value
    assert second.value - first.value == pytest.approx((time.monotonic() - began) * 10, abs=2)


def test_reset_sets_everything_back_and_ends_what_is_pending(server: Part) -> None:
    no_answer(server, "LATE", 4.0)
    server.put("CLAMP", 3.0)
    server.put("TABLE", [5.0], "value.a")
    server.put("RESET", 1)
    assert [server.seen(name) for name in COUNTED] == [0] * len(COUNTED)
    assert server.get("CLAMP") == 0.0
    assert list(server.whole("TABLE").todict()["value"]["a"]) == [1.0, 2.0, 3.0]
    time.sleep(LATE_SECONDS)
    assert server.get("LATE") == 0.0
