"""Pure decisions of the write path: may this be sent, in which form, and may it be sent again?

No I/O, no clock, no threads: everything that a decision depends on is an argument. Imports model, settings and errors.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.conversion import Refusal, convert, fill_columns, with_article
from ..core.model import Fields, Kind, Limits, Outcome, PvAddress, Reading, Severity, plain, shown
from ..core.settings import Settings, matches

_REJECT_FROM = {"none": 4, "minor": Severity.MINOR, "major": Severity.MAJOR, "invalid": Severity.INVALID}


# Of one ramp: more is a slip of the decimal point.
_MOST_STEPS = 100_000


def not_a_reading(reading: Reading, settings: Settings) -> str | None:
    """Return why a value does not count as a reading; None when it does.

    A record that was never processed reads 0.0 with severity INVALID and message UDF: never a reading, whatever the
    policy on severities is.
    """
    if reading.severity is Severity.INVALID and reading.message.upper().startswith("UDF"):
        return "the record was never processed (INVALID, UDF)"
    if reading.severity >= _REJECT_FROM[settings.reject_severity]:
        text = f"alarm severity {reading.severity.name}"
        return f"{text} ({reading.message})" if reading.message else text
    return None


def check_setpoint(address: PvAddress, value: Any, before: Reading, settings: Settings) -> Any:
    """Check one setpoint against what is known beforehand, and convert it.

    :param before: the setpoint PV as it is now: its type, limits, labels and value.
    :returns: the value in the PV's own type, as it will be sent.
    :raises Refusal: with the reason, without the PV's name.
    """
    if not settings.allows(address):
        raise Refusal("not in the list of PVs that may be set (option allow)")
    if before.writable is False:
        raise Refusal("write access to it is denied")
    converted = convert(value, before.type, before.choices)
    if before.type.kind is Kind.TABLE and isinstance(before.value, Mapping):
        converted = Fields({"value": fill_columns(converted["value"], before.value)})
    if before.type.kind in (Kind.FLOAT, Kind.INT, Kind.UNKNOWN):
        _check_limits(converted, before, before.limits, "drive limits")
    _check_limits(converted, before, settings.limits_of(address), "own limits (option limits)")
    step = settings.step_of(address)
    if step is not None and not settings.ramp and (distance := _distance(before, converted)) > step * (1 + 1e-9):
        raise Refusal(f"a step of {distance:g} from {plain(before.value)!r} is larger than {step:g} (option max_step)")
    return converted


def path_to(value: Any, before: Reading, step: float | None) -> list[Any]:
    """Return the values on the way to a setpoint, the setpoint last, no two further apart than ``step``."""
    if step is None or (distance := _distance(before, value)) <= step:
        return [value]
    if distance / step > _MOST_STEPS:
        raise Refusal(f"{distance:g} in steps of {step:g} (option max_step) is more than {_MOST_STEPS} puts")
    if _inside(value, before) is not value:
        raise Refusal(
            f"it is {distance:g} away, and only a plain number goes there in steps (options max_step and ramp)"
        )
    # As objects, which are Python's own numbers: in an array numpy's small integers wrap around without a word.
    start = np.asarray(before.value, dtype=object)
    way = np.asarray(value, dtype=object) - start
    count = math.ceil(distance / step - 1e-9)
    if before.type.kind is Kind.INT:
        # Whole numbers, cut towards the start; where the step is smaller than one there is no way to go.
        if step < 1.0:
            raise Refusal(f"it is {with_article(before.type)}, and the largest step is {step:g} (option max_step)")
        count = math.ceil(distance / math.floor(step))
        between = [start + way * i // count for i in range(1, count)]
    else:
        between = [start + way * i / count for i in range(1, count)]
    # Back in the type of the PV; of an unknown one as numpy takes them.
    dtype = None if before.type.kind is Kind.UNKNOWN else before.type.dtype
    return [*(np.array(v.tolist(), dtype) if isinstance(v, np.ndarray) else v for v in between), value]


def _distance(before: Reading, value: Any) -> float:
    """Return the size of a step in the PV's unit; 0 for texts, enums and booleans."""
    value = _inside(value, before)
    if before.type.kind not in (Kind.FLOAT, Kind.INT, Kind.UNKNOWN) or isinstance(value, str | bytes | Mapping):
        return 0.0
    if before.severity is Severity.INVALID:
        raise Refusal("its step is restricted (option max_step), and its present value is not a reading")
    try:
        here, there = np.asarray(before.value, dtype=float), np.asarray(value, dtype=float)
        with np.errstate(over="ignore"):  # an infinite distance is refused below
            distance = float(np.max(np.abs(there - here), initial=0.0))
    except (TypeError, ValueError, OverflowError):
        distance = math.nan
    if not math.isfinite(distance) or here.shape != there.shape:
        raise Refusal("its step is restricted (option max_step), and cannot be told from its present value")
    return distance


def _inside(value: Any, before: Reading) -> Any:
    """Return what limits and steps are about: a server takes ``value`` out of fields, and a number out of a text.

    Only where the PV's type does not say what a text is; all others are converted by now.

    :returns: the same object where there is nothing to take out.
    """
    if isinstance(value, Fields) and not isinstance(value.get("value"), Mapping):
        value = value.get("value", "")
    if before.type.kind not in (Kind.UNKNOWN, Kind.OTHER) or isinstance(value, Mapping):
        return value
    try:
        texts = np.asarray(value)
    except ValueError as error:
        raise Refusal(f"it makes no array: {error}") from None
    if texts.dtype.kind not in "US":
        return value
    numbers = [number for text in texts.ravel().tolist() if (number := _number(text)) is not None]
    if not texts.ndim:
        return numbers[0] if numbers else value
    return np.array(numbers) if numbers else value


def _number(text: str | bytes) -> float | None:
    """Return a text as the number that a server reads in it, hexadecimal ones too; None for a word."""
    for read in (float, lambda digits: float(int(digits, 0))):
        with contextlib.suppress(ValueError, OverflowError):
            return read(text)
    return None


def _check_limits(value: Any, before: Reading, limits: Limits, whose: str) -> None:
    if not limits or isinstance(inside := _inside(value, before), str | Mapping):
        return
    numbers = np.asarray(inside)
    if numbers.dtype.kind == "O":
        raise Refusal(f"it has {whose}, and {value!r} cannot be compared with them")
    if numbers.dtype.kind not in "biuf" or not numbers.size:
        return
    # As Python's own numbers, which compare exactly: beyond 2**53 a float is not the integer that it was made of.
    for number in (numbers.min().item(), numbers.max().item()):
        if number not in limits:
            unit = f" {before.units}" if before.units else ""
            raise Refusal(f"{shown(number)} is outside its {whose}, {limits}{unit}")


# -- did it happen, and may it be sent again? -----------------------------------------------------------------


def same(reading: Reading | None, value: Any, tolerance: float = 0.0) -> bool:
    """Return whether the setpoint holds the value, compared in the PV's own type; never by display precision.

    :param tolerance: how far apart numbers may be, in the PV's unit: what was declared of a record that quantises.
    """
    try:
        return reading is not None and _same(reading, value, tolerance)
    except (OverflowError, ValueError):  # out of an edited record: more than any number, a list of lists of lists
        return False


def _same(reading: Reading, value: Any, tolerance: float) -> bool:
    held = reading.value
    if isinstance(value, Fields):
        return _same_fields(reading, value, tolerance)
    if isinstance(held, Mapping) and isinstance(value, Mapping):
        return _same_columns(held, value)
    if tolerance and reading.type.kind in (Kind.FLOAT, Kind.INT) and not isinstance(value, str | bytes):
        return _close(held, value, tolerance)
    if reading.type.kind is Kind.FLOAT and not reading.type.array and isinstance(value, int | float):
        # A record may hold it through a conversion to raw counts and back: a few units in the last place.
        dtype = reading.type.dtype.type
        with np.errstate(over="ignore"):
            apart = abs(dtype(held) - dtype(value))
            # Halved: next to the largest number of all the spacing is infinite.
            return bool(apart <= 8 * np.spacing(np.abs(dtype(value)) / 2))
    if isinstance(held, np.ndarray) or isinstance(value, np.ndarray | list | tuple):
        return bool(np.array_equal(np.asarray(held), np.asarray(value)))
    return bool(held == value)


def _close(held: Any, value: Any, tolerance: float) -> bool:
    # As objects, which are Python's own numbers: small integers of numpy wrap around, and large floats are rounded.
    here, there = np.asarray(held, dtype=object), np.asarray(value, dtype=object)
    if here.shape != there.shape:
        return False
    apart = np.asarray(abs(here - there), dtype=float)
    # A rounding error of the difference is not one of the record.
    return bool(np.max(apart, initial=0.0) <= tolerance * (1 + 1e-9))


def _same_fields(reading: Reading, fields: Fields, tolerance: float) -> bool:
    if reading.type.kind is Kind.TABLE:
        held, columns = reading.value, fields.get("value")
        if len(fields) != 1 or not isinstance(columns, Mapping) or not isinstance(held, Mapping):
            return False
        return _same_columns(held, columns)
    if reading.type.kind is not Kind.OTHER:
        return fields.keys() == {"value"} and same(reading, fields["value"], tolerance)
    return _same_leaves(reading.value if isinstance(reading.value, Mapping) else reading.tree, fields)


def _same_leaves(held: Any, wanted: Any) -> bool:
    """Compare a structure with the fields that were put to it; of the widths of its numbers nothing is known."""
    if isinstance(wanted, Mapping):
        return isinstance(held, Mapping) and all(
            key in held and _same_leaves(held[key], value) for key, value in wanted.items()
        )
    try:
        here, there = np.asarray(held), np.asarray(wanted)
    except ValueError:  # texts and lists that make no array
        return bool(held == wanted)
    if np.array_equal(here, there):
        return True
    if here.dtype.kind != "f" or there.dtype.kind not in "iuf" or here.shape != there.shape:
        return False
    # A field of 32 bits holds what a float32 can, and shows just that.
    with np.errstate(over="ignore"):
        return bool((here.astype("f4") == here).all() and (there.astype("f4") == here).all())


def _same_columns(held: Mapping[str, Any], columns: Mapping[str, Any]) -> bool:
    return all(
        name in held and np.array_equal(np.asarray(held[name]), np.asarray(column)) for name, column in columns.items()
    )


def after_silence(
    value: Any,
    before: Reading | None,
    readback: Reading | None,
    *,
    relative: bool,
    attempts_left: bool,
    tolerance: float = 0.0,
) -> Outcome:
    """Judge a put that was sent and not answered by a read-back of the setpoint itself.

    :returns: APPLIED: it holds what was asked; NOT_SENT: it holds what it held before, and it is safe to send it once
        more; UNKNOWN: everything else, and it is never sent again.
    """
    if relative or readback is None:
        return Outcome.UNKNOWN
    if same(readback, value, tolerance):
        return Outcome.APPLIED
    return Outcome.NOT_SENT if unchanged(before, readback) and attempts_left else Outcome.UNKNOWN


def unchanged(before: Reading | None, now: Reading, fields: Fields | None = None) -> bool:
    """Return whether a PV holds what it held before.

    :param fields: of a structure, those to compare: two that both read None may differ in every field.
    """
    if before is None:
        return False
    if now.type.kind is Kind.OTHER:
        return fields is not None and _same_leaves(now.tree, _picked(before.tree, fields))
    return before.value is now.value or same(now, before.value)


def _picked(tree: Any, fields: Any) -> Any:
    """Return the part of a structure that these fields name."""
    if not isinstance(fields, Mapping):
        return tree
    return {
        key: _picked(tree[key], inner) for key, inner in fields.items() if isinstance(tree, Mapping) and key in tree
    }


def can_prove(address: PvAddress, value: Any, before: Reading, settings: Settings) -> bool:
    """Return whether a read-back can tell if a put was done: not for a command, nor for a PV of unknown type.

    Of a mocked context, say: what it gives to a get has nothing to do with what was put.
    """
    if matches(address, settings.relative) or before.type.kind is Kind.UNKNOWN:
        return False
    return before.type.kind is not Kind.OTHER or isinstance(value, Fields)
