"""EPICS normative-type structures as ``Reading``: one decoder for every transport.

A *tree* is the whole structure as nested dicts, as on the wire of PVAccess (pvData: Normative Types Specification,
16 Mar 2015) and of K2EG. Imports clock and model only; knows no client library.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core import clock
from ..core.model import Kind, Limits, PvType, Reading, Severity

_NUMBERS = {
    "d": PvType(Kind.FLOAT, 64),
    "f": PvType(Kind.FLOAT, 32),
    "b": PvType(Kind.INT, 8),
    "h": PvType(Kind.INT, 16),
    "i": PvType(Kind.INT, 32),
    "l": PvType(Kind.INT, 64),
    "B": PvType(Kind.INT, 8, signed=False),
    "H": PvType(Kind.INT, 16, signed=False),
    "I": PvType(Kind.INT, 32, signed=False),
    "L": PvType(Kind.INT, 64, signed=False),
    "?": PvType(Kind.BOOL, 8),
    "s": PvType(Kind.STRING),
}
_TYPES = _NUMBERS | {
    f"a{code}": PvType(scalar.kind, scalar.bits, scalar.signed, array=True) for code, scalar in _NUMBERS.items()
}
_ENUM, _TABLE, _OTHER = PvType(Kind.ENUM, 32), PvType(Kind.TABLE), PvType(Kind.OTHER)
_SEVERITIES = tuple(Severity)


def pv_type(code: object, structure_id: str = "") -> PvType:
    """Translate the pvData type code of the ``value`` field.

    :param code: ``"d"``, ``"ai"``, ...; for a structure p4p's ``("S", id, members)``.
    :param structure_id: the identifier of the whole structure.
    """
    if isinstance(code, str):
        return _TYPES.get(code, _OTHER)
    if structure_id.startswith("epics:nt/NTTable:"):
        return _TABLE
    members = code[2] if isinstance(code, tuple) and len(code) == 3 and code[0] == "S" else ()
    return _ENUM if {name for name, _ in members} >= {"index", "choices"} else _OTHER


def reading_from_tree(tree: Mapping[str, Any], of_type: PvType) -> Reading:
    """Translate a normative-type tree. Every part but ``value`` may be missing.

    :param of_type: the type of its ``value``, which the tree does not contain.
    """
    alarm: Mapping[str, Any] = tree.get("alarm") or {}
    stamp: Mapping[str, Any] = tree.get("timeStamp") or {}
    display: Mapping[str, Any] = tree.get("display") or {}
    severity = alarm.get("severity", 0)
    seconds = stamp.get("secondsPastEpoch")
    value, choices = _value(tree.get("value"), of_type)
    return Reading(
        value=value,
        type=of_type,
        timestamp_ns=None if seconds is None else seconds * 1_000_000_000 + stamp.get("nanoseconds", 0),
        # A server may send any number here; an unknown severity counts as the worst.
        severity=_SEVERITIES[severity] if 0 <= severity < 4 else Severity.INVALID,
        status=alarm.get("status", 0),
        message=alarm.get("message", ""),
        units=display.get("units", ""),
        precision=display.get("precision"),
        limits=drive_limits(tree.get("control") or {}),
        choices=choices,
        description=display.get("description", "") or tree.get("descriptor", ""),
        user_tag=stamp.get("userTag"),
        received=clock.monotonic(),
        # Not a lambda: readings are pickled in the reports of errors.
        _tree=functools.partial(dict, tree),
    )


def drive_limits(control: Mapping[str, Any]) -> Limits:
    """Return the drive limits in ``control``: limitLow and limitHigh carry DRVL and DRVH.

    0,0 means *no limit*, and so does every empty range: a record enforces its limits only if DRVH > DRVL (epics-base,
    aoRecord: "if (prec->drvh > prec->drvl)"). ``display`` is never used instead.
    """
    low, high = control.get("limitLow", 0.0), control.get("limitHigh", 0.0)
    if math.isnan(low) or math.isnan(high) or low >= high:
        return Limits()
    return Limits(low if math.isfinite(low) else None, high if math.isfinite(high) else None)


def _value(value: Any, of_type: PvType) -> tuple[Any, tuple[str, ...]]:
    if of_type.kind is Kind.ENUM:
        return value.get("index"), tuple(value.get("choices") or ())
    if of_type.kind is Kind.TABLE:
        return {name: _column(column) for name, column in value.items()}, ()
    if of_type.kind is Kind.OTHER:
        return None, ()
    if of_type.array:
        return _array(value, of_type), ()
    # Over K2EG a float may arrive as an int.
    return (float(value) if of_type.kind is Kind.FLOAT and isinstance(value, int) else value), ()


def _array(value: Any, of_type: PvType) -> Any:
    if isinstance(value, list) and of_type.kind in (Kind.FLOAT, Kind.BOOL):
        return np.array(value, dtype=of_type.dtype)
    return _column(value)


def _column(column: Any) -> Any:
    """Copy an array out of the client library's memory, or convert a list of numbers; texts stay a list."""
    if isinstance(column, list) and column and isinstance(column[0], int | float):
        column = np.array(column)
    return np.array(column) if isinstance(column, np.ndarray) and column.dtype.kind in "biuf" else list(column)
