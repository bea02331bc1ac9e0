"""Conversion of setpoints to the PV's own type, without loss: nothing is rounded, truncated or guessed.

Pure. Every put goes through it, so that none depends on what a server does with a value that does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .model import Fields, Kind, PvType, Reading, plain
from .units import Quantity, is_quantity, parse_unit

#: The relative error of a float32: it keeps 24 bits.
_ROUNDED = 2.0**-23

#: Bytes of a text in a record's string field (dbDefs.h: MAX_STRING_SIZE 40, with a NUL).
RECORD_STRING = 39


class Refusal(ValueError):
    """The reason why a setpoint is not sent. ``Control`` catches it and names the PV."""


def in_units_of(value: Any, units: str) -> Any:
    """Return the number of a quantity or a reading in the PV's unit; a plain value is assumed to be in that unit.

    :param units: the PV's EGU text.
    :raises Refusal: if the dimensions differ, or the PV's unit is not known.
    """
    if isinstance(value, Reading):
        value = value.quantity if value.units else value.value
    if not is_quantity(value):
        return value
    quantity = Quantity(value)
    try:
        converted = quantity.to(parse_unit(units)).magnitude
    except (TypeError, ValueError):  # pint's DimensionalityError and its kin are TypeErrors
        has = f"its unit is {units}" if units.strip() else "it has no unit (its EGU is empty; a Knob may declare one)"
        raise Refusal(f"{quantity} cannot be set: {has}") from None
    return converted.item() if isinstance(converted, np.generic) else converted


def convert(value: Any, to: PvType, choices: tuple[str, ...] = ()) -> Any:
    """Convert a value to the PV's own type, or refuse it: nothing is rounded, truncated or guessed.

    An IOC would silently accept 3.7 for an integer, 7 for an enum of three, NaN, and the first 39 bytes of a longer
    text.

    :returns: a builtin scalar, the index of an enum, a numpy array, or ``Fields`` for a structure.
    :raises Refusal: naming what does not fit.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    elif isinstance(value, np.generic):
        value = plain(value)
    if isinstance(value, Fields):
        if to.kind in (Kind.OTHER, Kind.UNKNOWN):
            return value
        # {"value": x} is the same as x; nothing is known of the other fields of a PV (limits, time).
        if set(value) != {"value"}:
            raise Refusal(f"it is {with_article(to)}: of its fields, only value can be set")
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
        raise Refusal(f"it is {with_article(to)}, not a structure")
    if to.array:
        return _array(value, to)
    if isinstance(value, list | tuple | np.ndarray):
        shape = value.shape if isinstance(value, np.ndarray) else (len(value),)
        raise Refusal(f"it is a single {to}, not an array (shape {shape})")
    if to.kind is Kind.ENUM:
        return _enum(value, choices)
    return _scalar(value, to)


def with_article(to: PvType) -> str:
    """Return the type's name with its indefinite article."""
    return f"an {to}" if str(to)[0] in "aeiou" else f"a {to}"


def _scalar(value: Any, to: PvType) -> Any:
    if to.kind is Kind.STRING:
        if not isinstance(value, str):
            raise Refusal(f"it is a string, and {value!r} is not a text")
        if "\0" in value:
            raise Refusal("a text with a NUL character would be truncated there")
        try:
            length = len(value.encode())
        except UnicodeEncodeError as error:
            raise Refusal(f"the text cannot be sent: {error}") from None
        if to.max_length is not None and length > to.max_length:
            raise Refusal(f"the text is too long: {length} bytes, and it holds {to.max_length}")
        return value
    if not isinstance(value, int | float):
        raise Refusal(f"it is {with_article(to)}, and {value!r} is not a number")
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
        raise Refusal(f"an integer of that size cannot be held exactly by {with_article(to)}") from None
    if isinstance(value, int) and int(number) != value:
        raise Refusal(f"{value} cannot be held exactly by {with_article(to)}")
    if to.bits == 32:
        if abs(number) > float(np.finfo(np.float32).max):
            raise Refusal(f"{number:g} is too large for {with_article(to)}")
        # Rounding is allowed, as for every number; underflow to zero or to a subnormal number is not.
        if abs(float(np.float32(number)) - number) > _ROUNDED * abs(number):
            raise Refusal(f"{number:g} is too small for {with_article(to)}")
    return number


def _integer(value: int | float, to: PvType) -> int:
    number = int(value)
    if number != value:
        raise Refusal(f"{value!r} is not a whole number, and it is {with_article(to)}")
    info = np.iinfo(to.dtype)
    if not info.min <= number <= info.max:
        raise Refusal(f"{number} does not fit into {with_article(to)} ({info.min} to {info.max})")
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
    if isinstance(value, list | tuple) and (to.kind, to.bits) == (Kind.FLOAT, 64) and set(map(type, value)) == {float}:
        numbers = np.array(value)
        # The same for a list of plain floats; if one is not finite, the loop below says which.
        if np.isfinite(numbers).all():
            return numbers
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
        raise Refusal("it is a table: each column must be a list")
    if len(set(lengths.values())) > 1:
        raise Refusal(f"columns of different lengths: {lengths}")
    for name, column in value.items():
        try:
            numbers = np.asarray(column)
        except ValueError as error:
            raise Refusal(f"column {name!r} cannot be made an array: {error}") from None
        if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
            raise Refusal(f"column {name!r} holds NaN or infinity")
    return Fields({"value": dict(value)})


def fill_columns(columns: Mapping[str, Any], present: Mapping[str, Any]) -> dict[str, Any]:
    """Convert columns to the types of the table's own columns: numbers to arrays, texts to lists."""
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
    """Check a value for a PV of unknown type: refuse only what no PV can take."""
    try:
        numbers = np.asarray(value) if isinstance(value, int | float | list | tuple | np.ndarray) else None
    except ValueError as error:
        raise Refusal(f"it cannot be made an array: {error}") from None
    if numbers is not None and numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        raise Refusal(f"{value} is not a value that can be set")
    return value
