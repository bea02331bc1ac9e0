"""Pure decisions of the write path: may this be sent, in which form, and may it be sent again?

No I/O, no clock, no threads: everything that a decision depends on is an argument. Imports model, settings and errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .model import Fields, Kind, Limits, Outcome, PvAddress, PvType, Reading, Severity, plain
from .settings import Settings, matches

_REJECT_FROM = {"none": 4, "minor": Severity.MINOR, "major": Severity.MAJOR, "invalid": Severity.INVALID}


#: Bytes of a text in a record's string field (dbDefs.h: MAX_STRING_SIZE 40, with a NUL).
RECORD_STRING = 39
# Of one ramp: more is a slip of the decimal point.
_MOST_STEPS = 100_000


class Refusal(ValueError):
    """Why a setpoint is not sent. Caught by Control, which names the PV."""


def not_a_reading(reading: Reading, settings: Settings) -> str | None:
    """Say why a value must not be taken for a reading; None when it may.

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
    """Decide on one setpoint from what is known beforehand.

    :param before: the setpoint PV as it is now: its type, limits, labels and value.
    :returns: the value in the PV's own type, as it will be sent.
    :raises Refusal: with the reason, without the PV's name.
    """
    if not settings.allows(address.own_name):
        raise Refusal("not in the list of PVs that may be set (option allow)")
    if before.writable is False:
        raise Refusal("write access to it is denied")
    converted = convert(value, before.type, before.choices)
    if before.type.kind is Kind.TABLE and isinstance(before.value, Mapping):
        converted = Fields({"value": _columns(converted["value"], before.value)})
    if before.type.kind in (Kind.FLOAT, Kind.INT, Kind.UNKNOWN):
        _check_limits(converted, before.limits, "drive limits", before.units)
    _check_limits(converted, settings.limits_of(address.own_name), "own limits (option limits)", before.units)
    step = settings.step_of(address.own_name)
    if step is not None and not settings.ramp and (distance := _distance(before, converted)) > step * (1 + 1e-9):
        raise Refusal(f"a step of {distance:g} from {plain(before.value)!r} is larger than {step:g} (option max_step)")
    return converted


def path_to(value: Any, before: Reading, step: float | None) -> list[Any]:
    """Lay out the values on the way to a setpoint, the setpoint last, no two further apart than ``step``."""
    if step is None or (distance := _distance(before, value)) <= step:
        return [value]
    if distance / step > _MOST_STEPS:
        raise Refusal(f"{distance:g} in steps of {step:g} (option max_step) is more than {_MOST_STEPS} puts")
    count = math.ceil(distance / step - 1e-9)
    start = before.value
    between = [start + (value - start) * i / count for i in range(1, count)]
    if before.type.kind is Kind.INT:
        # Whole numbers, cut towards the start; where the step is smaller than one there is no way to go.
        if step < 1.0:
            raise Refusal(f"it is {_a(before.type)}, and the largest step is {step:g} (option max_step)")
        count = math.ceil(distance / math.floor(step))
        between = [start + (value - start) * i // count for i in range(1, count)]
    return [*between, value]


def _distance(before: Reading, value: Any) -> float:
    """Measure a step in the PV's unit; texts, choices and switches have none."""
    if before.type.kind not in (Kind.FLOAT, Kind.INT, Kind.UNKNOWN) or isinstance(value, str | Fields):
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


def _check_limits(value: Any, limits: Limits, whose: str, units: str) -> None:
    if not limits or isinstance(value, str | Mapping):
        return
    numbers = np.asarray(value)
    if numbers.dtype.kind == "O":
        raise Refusal(f"it has {whose}, and {value!r} cannot be compared with them")
    if numbers.dtype.kind not in "biuf" or not numbers.size:
        return
    for number in (numbers.min(), numbers.max()):
        if float(number) not in limits:
            raise Refusal(f"{number:g} is outside its {whose}, {limits}{' ' + units if units else ''}")


# -- conversion without loss ----------------------------------------------------------------------------------


def convert(value: Any, to: PvType, choices: tuple[str, ...] = ()) -> Any:
    """Bring a value into the PV's own type, or refuse it: nothing is rounded, cut or guessed.

    An IOC would take 3.7 for an integer, 7 for an enum of three, NaN, and the first 39 bytes of a longer text, each
    without a word.

    :returns: a builtin scalar, the index of an enum, a numpy array, or ``Fields`` for a structure.
    :raises Refusal: saying what does not fit.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    elif isinstance(value, np.generic):
        value = plain(value)
    if isinstance(value, Fields):
        if to.kind in (Kind.OTHER, Kind.UNKNOWN):
            return value
        # Nothing about a value changes by naming its field; of other fields of a PV (limits, time) nothing is known.
        if set(value) != {"value"}:
            raise Refusal(f"it is {_a(to)}: of its fields, value alone can be set")
        return convert(value["value"], to, choices)
    if value is None:
        raise Refusal("there is no value to set (None)")
    if to.kind is Kind.UNKNOWN:
        return _unknown(value)
    if to.kind is Kind.TABLE:
        return _table(value)
    if to.kind is Kind.OTHER:
        raise Refusal("it is a structure: say which fields to set, with Fields({...})")
    if isinstance(value, Mapping):
        raise Refusal(f"it is {_a(to)}, not a structure")
    if to.array:
        return _array(value, to)
    if isinstance(value, list | tuple | np.ndarray):
        shape = value.shape if isinstance(value, np.ndarray) else (len(value),)
        raise Refusal(f"it is a single {to}, not an array (shape {shape})")
    if to.kind is Kind.ENUM:
        return _enum(value, choices)
    return _scalar(value, to)


def _a(to: PvType) -> str:
    return f"an {to}" if str(to)[0] in "aeiou" else f"a {to}"


def _scalar(value: Any, to: PvType) -> Any:
    if to.kind is Kind.STRING:
        if not isinstance(value, str):
            raise Refusal(f"it is a string, and {value!r} is not a text")
        if "\0" in value:
            raise Refusal("a text with a NUL character would be cut there")
        try:
            length = len(value.encode())
        except UnicodeEncodeError as error:
            raise Refusal(f"the text cannot be sent: {error}") from None
        if to.max_length is not None and length > to.max_length:
            raise Refusal(f"the text is too long: {length} bytes, and it holds {to.max_length}")
        return value
    if not isinstance(value, int | float):
        raise Refusal(f"it is {_a(to)}, and {value!r} is not a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise Refusal(f"{value} is not a value that can be set")
    if to.kind is Kind.BOOL:
        if value not in (0, 1):
            raise Refusal(f"it is a bool, and {value!r} is neither true nor false")
        return bool(value)
    if to.kind is Kind.INT:
        return _integer(value, to)
    try:
        number = float(value)
    except OverflowError:
        raise Refusal(f"an integer of that size cannot be held exactly by {_a(to)}") from None
    if isinstance(value, int) and int(number) != value:
        raise Refusal(f"{value} cannot be held exactly by {_a(to)}")
    if to.bits == 32 and abs(number) > float(np.finfo(np.float32).max):
        raise Refusal(f"{number:g} is too large for {_a(to)}")
    return number


def _integer(value: int | float, to: PvType) -> int:
    number = int(value)
    if number != value:
        raise Refusal(f"{value!r} is not a whole number, and it is {_a(to)}")
    info = np.iinfo(to.dtype)
    if not info.min <= number <= info.max:
        raise Refusal(f"{number} does not fit into {_a(to)} ({info.min} to {info.max})")
    return number


def _enum(value: Any, choices: tuple[str, ...]) -> int:
    labels = ", ".join(f"{i} {label!r}" for i, label in enumerate(choices)) or "none"
    if isinstance(value, str):
        if value not in choices:
            raise Refusal(f"{value!r} is not one of its choices ({labels})")
        return choices.index(value)
    if not isinstance(value, int | float) or value != value or value in (math.inf, -math.inf) or int(value) != value:
        raise Refusal(f"{value!r} is neither the index nor the label of a choice ({labels})")
    if not 0 <= value < len(choices):
        raise Refusal(f"{int(value)} is not the index of a choice ({labels})")
    return int(value)


def _array(value: Any, to: PvType) -> Any:
    if isinstance(value, str | bytes) or not isinstance(value, list | tuple | np.ndarray):
        raise Refusal(f"it is an array, and {value!r} is a single value")
    if len(np.shape(value) if isinstance(value, np.ndarray) else (0,)) != 1:
        raise Refusal(f"it is a one-dimensional array, not one of shape {np.shape(value)}")
    if to.max_length is not None and len(value) > to.max_length:
        raise Refusal(f"the array is too long: {len(value)} elements, and it holds {to.max_length}")
    # A known length means a record, whose texts hold 39 bytes each.
    text_bytes = RECORD_STRING if to.kind is Kind.STRING and to.max_length is not None else None
    element = PvType(to.kind, to.bits, to.signed, max_length=text_bytes)
    if isinstance(value, np.ndarray) and value.dtype == _dtype(element):
        # The common case, without a Python loop over a waveform.
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise Refusal("the array holds NaN or infinity")
        return value
    items = []
    for index, item in enumerate(value):
        try:
            items.append(_scalar(plain(item), element))
        except Refusal as refusal:
            raise Refusal(f"element {index}: {refusal}") from None
    return items if to.kind is Kind.STRING else np.array(items, dtype=element.dtype)


def _dtype(element: PvType) -> Any:
    return None if element.kind is Kind.STRING else element.dtype


def _table(value: Any) -> Fields:
    if not isinstance(value, Mapping) or not value:
        raise Refusal("it is a table: set it with {column: values}")
    lengths = {name: len(column) for name, column in value.items() if isinstance(column, list | tuple | np.ndarray)}
    if len(lengths) != len(value):
        raise Refusal("it is a table: each column is a list")
    if len(set(lengths.values())) > 1:
        raise Refusal(f"columns of different lengths: {lengths}")
    for name, column in value.items():
        try:
            numbers = np.asarray(column)
        except ValueError as error:
            raise Refusal(f"column {name!r} makes no array: {error}") from None
        if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
            raise Refusal(f"column {name!r} holds NaN or infinity")
    return Fields({"value": dict(value)})


def _columns(columns: Mapping[str, Any], present: Mapping[str, Any]) -> dict[str, Any]:
    """Bring columns into the types of those that the table has: numbers are arrays there, and texts lists."""
    converted = {}
    for name, column in columns.items():
        if name not in present:
            raise Refusal(f"it has no column {name!r}; its columns are {', '.join(map(repr, present))}")
        has, to = present[name], None
        if isinstance(has, np.ndarray) and has.dtype.kind in "biuf":
            kind = {"b": Kind.BOOL, "f": Kind.FLOAT}.get(has.dtype.kind, Kind.INT)
            to = PvType(kind, has.dtype.itemsize * 8, has.dtype.kind != "u", array=True)
        elif len(has) and all(isinstance(text, str) for text in has):
            to = PvType(Kind.STRING, array=True)
        try:
            converted[name] = column if to is None else _array(column, to)
        except Refusal as refusal:
            raise Refusal(f"column {name!r}: {refusal}") from None
    lengths = {name: len(column) for name, column in {**present, **converted}.items()}
    if len(set(lengths.values())) > 1:
        raise Refusal(f"columns of different lengths: {lengths}")
    return converted


def _unknown(value: Any) -> Any:
    """Convert without a type to go by: only what no PV can take is refused."""
    try:
        numbers = np.asarray(value) if isinstance(value, int | float | list | tuple | np.ndarray) else None
    except ValueError as error:
        raise Refusal(f"it makes no array: {error}") from None
    if numbers is not None and numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        raise Refusal(f"{value} is not a value that can be set")
    return value


# -- did it happen, and may it be sent again? -----------------------------------------------------------------


def same(reading: Reading | None, value: Any) -> bool:
    """Whether the setpoint holds the value, compared in the PV's own type; never by display precision."""
    if reading is None:
        return False
    held = reading.value
    if isinstance(value, Fields):
        return _same_fields(reading, value)
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


def _same_fields(reading: Reading, fields: Fields) -> bool:
    columns = fields.get("value")
    if len(fields) != 1 or not isinstance(columns, Mapping) or not isinstance(reading.value, Mapping):
        return False
    return all(
        name in reading.value and np.array_equal(np.asarray(reading.value[name]), np.asarray(column))
        for name, column in columns.items()
    )


def after_silence(
    value: Any, before: Reading | None, readback: Reading | None, *, relative: bool, attempts_left: bool
) -> Outcome:
    """Decide on a put that was sent and not answered, from a read-back of the setpoint itself.

    :returns: APPLIED: it holds what was asked; NOT_SENT: it holds what it held before, and it is safe to send it once
        more; UNKNOWN: everything else, and it is never sent again.
    """
    if relative or readback is None:
        return Outcome.UNKNOWN
    if same(readback, value):
        return Outcome.APPLIED
    untouched = before is not None and (before.value is readback.value or same(readback, before.value))
    return Outcome.NOT_SENT if untouched and attempts_left else Outcome.UNKNOWN


def needs_readback(address: PvAddress, value: Any, before: Reading, settings: Settings) -> bool:
    """Whether an answer of "done" is worth a second look: nothing else would show a clipped or cut value."""
    if matches(address.own_name, settings.relative) or before.type.kind in (Kind.OTHER, Kind.UNKNOWN):
        return False
    if matches(address.own_name, settings.wait):
        return True  # with put completion, an IOC reports success for a put that the record's support refused
    guarded = bool(before.limits) and before.type.kind in (Kind.FLOAT, Kind.INT) and not before.type.array
    return not guarded and not (isinstance(value, Fields) and before.type.kind is not Kind.TABLE)
