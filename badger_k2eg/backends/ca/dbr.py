"""Wire <-> values: answers of Channel Access as ``Reading``, and the encoding of values to be sent.

Pure decisions over the DBR structures of caproto; imports no client library.

Sources: Channel Access Protocol Specification, "Payload Data Types"; epics-base alarm.h, alarmString.c, db_access.h.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from ...core.backend import Update
from ...core.errors import PvError, PvInvalid
from ...core.model import Fields, Kind, PvAddress, PvType, Reading
from ..normative_types import drive_limits, reading_from_tree

EPOCH = 631_152_000
"""1990-01-01 UTC, where EPICS time begins, in Unix seconds."""

_STRING, _ENUM, _CHAR = 0, 3, 4
_TEXT_BYTES = 40
# By the numbers of DBR_STRING ... DBR_DOUBLE.
_SCALARS = {
    _STRING: PvType(Kind.STRING, max_length=_TEXT_BYTES - 1),
    1: PvType(Kind.INT, 16),
    2: PvType(Kind.FLOAT, 32),
    _ENUM: PvType(Kind.ENUM, 32),
    _CHAR: PvType(Kind.INT, 8, signed=False),
    5: PvType(Kind.INT, 32),
    6: PvType(Kind.FLOAT, 64),
}
_WIRE = {1: ">i2", 2: ">f4", _ENUM: ">u2", _CHAR: ">u1", 5: ">i4", 6: ">f8"}
_CONDITIONS = (
    "", "READ", "WRITE", "HIHI", "HIGH", "LOLO", "LOW", "STATE", "COS", "COMM", "TIMEOUT", "HWLIMIT", "CALC", "SCAN",
    "LINK", "SOFT", "BAD_SUB", "UDF", "DISABLE", "SIMM", "READ_ACCESS", "WRITE_ACCESS",
)  # fmt: skip


class Native(NamedTuple):
    """A channel's name, and the type and size that its server reports."""

    name: str
    dbr: int
    elements: int

    @property
    def long_text(self) -> bool:
        """Whether it is a text of more than 39 bytes: a field whose name ends in ``$``."""
        return self.dbr == _CHAR and self.name.endswith("$")

    @property
    def type(self) -> PvType:
        """The type of the PV."""
        if self.long_text:
            return PvType(Kind.STRING, max_length=self.elements - 1)
        if self.elements <= 1:
            return _SCALARS[self.dbr]
        element = PvType(Kind.INT, 16, signed=False) if self.dbr == _ENUM else _SCALARS[self.dbr]
        return dataclasses.replace(element, array=True, max_length=self.elements)


class Answer(NamedTuple):
    """A value as received.

    :ivar data: the elements: numbers, or the bytes of each text.
    :ivar time: its DBR_TIME structure: alarm and time.
    :ivar control: the DBR_CTRL structure of the channel, if its type has one.
    """

    native: Native
    data: Any
    time: Any
    control: Any
    writable: bool | None


def update(address: PvAddress, answer: Answer | PvError) -> Update:
    """Decode an answer; an error is returned as it is."""
    if isinstance(answer, PvError):
        return answer
    try:
        return _reading(answer)
    except UnicodeDecodeError:
        return PvInvalid(address.text, "its text is not UTF-8: records may cut a long text inside a character")


def _reading(answer: Answer) -> Reading:
    control = answer.control
    reading = dataclasses.replace(
        reading_from_tree(_tree(answer), answer.native.type),
        units=_label(getattr(control, "units", b"")),
        precision=getattr(control, "precision", None),
        writable=answer.writable,
    )
    if not hasattr(control, "lower_ctrl_limit"):
        return reading
    low, high = _limit(control.lower_ctrl_limit), _limit(control.upper_ctrl_limit)
    return dataclasses.replace(reading, limits=drive_limits({"limitLow": low, "limitHigh": high}))


def _tree(answer: Answer) -> dict[str, Any]:
    """Return an answer as a normative type, like pvAccess's own provider for Channel Access, in its order."""
    stamp, control = answer.time.stamp, answer.control
    status = answer.time.status
    tree: dict[str, Any] = {
        "value": _value(answer),
        "timeStamp": {
            "secondsPastEpoch": stamp.secondsSinceEpoch + EPOCH,
            "nanoseconds": stamp.nanoSeconds,
            "userTag": 0,
        },
        "alarm": {
            "severity": answer.time.severity,
            "status": status,
            "message": _CONDITIONS[status] if 0 <= status < len(_CONDITIONS) else f"status {status}",
        },
    }
    if not hasattr(control, "lower_ctrl_limit") or answer.native.long_text:
        return tree
    tree["display"] = {
        "limitLow": float(_limit(control.lower_disp_limit)),
        "limitHigh": float(_limit(control.upper_disp_limit)),
        "description": "",
        "format": _format(control),
        "units": _label(control.units),
    }
    if answer.native.elements > 1:
        return tree
    tree["control"] = {
        "limitLow": float(_limit(control.lower_ctrl_limit)),
        "limitHigh": float(_limit(control.upper_ctrl_limit)),
        "minStep": 0.0,
    }
    limits = {
        "lowAlarmLimit": _limit(control.lower_alarm_limit),
        "lowWarningLimit": _limit(control.lower_warning_limit),
        "highWarningLimit": _limit(control.upper_warning_limit),
        "highAlarmLimit": _limit(control.upper_alarm_limit),
    }
    # Channel Access does not report the severities of the limits.
    severities = dict.fromkeys((name.replace("Limit", "Severity") for name in limits), 0)
    tree["valueAlarm"] = {"active": False, **limits, **severities, "hysteresis": 0}
    return tree


def _format(control: Any) -> str:
    precision = getattr(control, "precision", None)
    return "I12" if precision is None else f"F{max(precision, 0) + 6}.{max(precision, 0)}"


def _value(answer: Answer) -> Any:
    native, data = answer.native, answer.data
    if native.long_text:
        return bytes(data).split(b"\0")[0].decode()
    if native.dbr == _STRING:
        texts = [bytes(text).decode() for text in data]
        return texts if native.elements > 1 else texts[0]
    if native.elements > 1:
        return np.array(data, dtype=native.type.dtype)
    if native.dbr == _ENUM:
        return {"index": int(data[0]), "choices": [_label(text) for text in answer.control.enum_strings]}
    return data[0].item()


def _limit(limit: Any) -> Any:
    return limit[0] if isinstance(limit, bytes) else limit


def _label(text: bytes) -> str:
    """Decode units and labels, which many IOCs store in Latin-1."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")


def encode(value: Any, native: Native) -> tuple[bytes, int]:
    """Encode a value for the wire.

    :returns: its bytes and the number of elements.
    :raises ValueError: when the PV cannot hold the value unchanged.
    """
    if isinstance(value, Fields):
        raise ValueError("Channel Access has no structures")
    if native.long_text:
        data = _text(value, native.elements - 1) + b"\0"
        return data, len(data)
    if native.dbr == _STRING:
        texts = list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
        data = b"".join(_text(text, _TEXT_BYTES - 1).ljust(_TEXT_BYTES, b"\0") for text in texts)
        return data, _fitting(len(texts), native)
    asked = np.atleast_1d(np.asarray(value))
    if asked.dtype.kind not in "biuf":
        raise ValueError(f"{value!r} is not a number")
    with np.errstate(all="ignore"):  # overflow is found by the comparison below
        sent = asked.astype(_WIRE[native.dbr])
    if sent.dtype.kind in "iu" and not np.array_equal(sent, asked):
        raise ValueError(f"{value!r} does not fit into {native.type}")
    return sent.tobytes(), _fitting(sent.size, native)


def _fitting(count: int, native: Native) -> int:
    if count > max(1, native.elements):
        raise ValueError(f"{count} elements are too many: it holds {native.elements}")
    return count


def _text(value: Any, longest: int) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    data = value.encode()
    if len(data) > longest:
        raise ValueError(f"the text is too long: {len(data)} bytes, and it holds {longest}")
    return data
