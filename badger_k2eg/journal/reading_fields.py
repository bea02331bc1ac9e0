"""A reading as the fields of a line, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core import errors
from ..core.errors import PvError
from ..core.model import Kind, Limits, PvType, Reading, Severity
from ..core.records import Record

_DAMAGED = "its line in the record is damaged or was edited: the checksum does not match"


def told(reading: Reading, *, profile: bool = False) -> dict[str, Any]:
    """Return the fields of a line that record a reading.

    :param profile: include what hardly ever changes (type, limits, choices): once for each PV of a run is enough.
    """
    data: dict[str, Any] = {} if reading.user_tag is None else {"tag": reading.user_tag}
    if profile:
        data["profile"] = _profile(reading)
    return {
        "value": reading.value,
        "unit": reading.units or None,
        "severity": int(reading.severity),
        "stamp_ns": reading.timestamp_ns,
        "message": reading.message or None,
        "data": data or None,
    }


def told_error(error: PvError) -> dict[str, Any]:
    """Return the fields of a line that record why there is no reading."""
    return {"message": error.message, "data": {"error": type(error).__name__, "pv": error.pv}}


def profile_of(record: Record) -> Mapping[str, Any]:
    """Return the type, limits and choices of the PV that a line records; empty if it records none."""
    return record.part("profile")


def update_of(record: Record, profile: Mapping[str, Any] | None = None) -> Reading | PvError:
    """Return the reading or the error that a line records.

    :param profile: type, limits and choices of the PV, from another line.
    """
    data = record.data or {}
    if record.value is None:
        kind = getattr(errors, str(data.get("error")), PvError)
        kind = kind if isinstance(kind, type) and issubclass(kind, PvError) else PvError
        return kind(str(data.get("pv") or record.pv or record.name), record.message or "was not read")
    about = profile_of(record) or profile or {}
    try:
        low, high = map(_number, about.get("limits") or (None, None))
        precision = about.get("precision")
        return Reading(
            record.value,
            _type(about, record.value),
            record.stamp_ns,
            severity=Severity(record.severity or 0),
            message=record.message or "" if record.intact else _DAMAGED,
            units=record.unit or "",
            precision=None if precision is None else int(precision),
            limits=Limits(low, high),
            choices=tuple(map(str, about.get("choices", ()))),
            description=str(about.get("description", "")),
            user_tag=data.get("tag"),
        )
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        # It was edited.
        return PvError(str(record.pv or record.name), f"line {record.line} of its record is not a reading: {error}")


def _profile(reading: Reading) -> dict[str, Any]:
    own = reading.type
    found: dict[str, Any] = {"kind": own.kind.value, "bits": own.bits, "signed": own.signed, "array": own.array}
    optional = {
        "max_length": own.max_length,
        "limits": [reading.limits.low, reading.limits.high] if reading.limits else None,
        "choices": list(reading.choices) or None,
        "precision": reading.precision,
        "description": reading.description or None,
    }
    return found | {name: value for name, value in optional.items() if value is not None}


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _type(about: Mapping[str, Any], value: Any) -> PvType:
    if "kind" not in about:
        return PvType(Kind.UNKNOWN)
    longest = about.get("max_length")
    bits, longest = int(about["bits"]), None if longest is None else int(longest)
    return PvType(Kind(about["kind"]), bits, bool(about["signed"]), bool(about["array"]), longest)
