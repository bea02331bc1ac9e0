"""The type of a PV as inferred from its K2EG trees, and the fields of a put in that type.

K2EG values carry no types. The type is inferred from the tree where possible; otherwise it is ``Kind.UNKNOWN``, and a
put is left to the gateway, which refuses values that do not fit. Imports conversion and model; no I/O.

Gateways built with msgpack-c 4.1.2 to 6.x send a float with a whole value as an int (msgpack-c #1018). So an int counts
as one only after this gateway has sent a whole float as a float; nearly every tree contains one, among its limits.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core.conversion import Refusal, convert
from ..core.errors import PvValueError
from ..core.model import Fields, Kind, PvType, plain

logger = logging.getLogger(__name__)

# The key "value" followed by a float32, alone or first in an array. No UTF-8 text contains 0xca in this place.
_SINGLE = re.compile(rb"\xa5value(?:[\x90-\x9f]|\xdc..|\xdd....)?\xca", re.DOTALL)
_UNKNOWN_ARRAY = PvType(Kind.UNKNOWN, array=True)


@dataclass(frozen=True, slots=True)
class Known:
    """A PV's inferred type.

    :ivar choices: the labels of an enum.
    :ivar columns: the columns of a table, with their last values.
    """

    type: PvType
    choices: tuple[str, ...] = ()
    columns: Mapping[str, Any] | None = None


class TypeBook:
    """The types of the PVs of one gateway, as inferred from their values. Safe to use from many threads."""

    def __init__(self) -> None:
        """Know no types yet."""
        self._lock = threading.Lock()
        self._known: dict[str, Known] = {}
        self._exact = False
        self._doubtful: set[str] = set()

    def learn(self, pv: str, tree: Mapping[str, Any], raw: bytes = b"") -> PvType:
        """Infer a PV's type from a value, and return it.

        :param raw: the bytes of its record, which tell a float32 from a float64.
        """
        with self._lock:
            if not self._exact:
                self._exact = _has_whole_float(tree)
            before = self._known.get(pv)
            found = _type(tree, before.type if before else None, exact=self._exact)
            value = tree.get("value")
            if found.kind is Kind.FLOAT and (_SINGLE.search(raw) or _looks_single(value)):
                found = replace(found, bits=32)
            choices = tuple(value.get("choices") or ()) if found.kind is Kind.ENUM and isinstance(value, dict) else ()
            columns = value if found.kind is Kind.TABLE and isinstance(value, dict) else None
            self._known[pv] = Known(found, choices, columns)
            if found.array and found.kind in (Kind.INT, Kind.UNKNOWN):
                self._look_for_lost_signs(pv, value)
            return found

    def known(self, pv: str) -> Known | None:
        """Return what is known of a PV; None before its first value."""
        with self._lock:
            return self._known.get(pv)

    def forget(self) -> None:
        """Forget all types; also in a forked child."""
        self._lock = threading.Lock()
        self._known = {}

    def _look_for_lost_signs(self, pv: str, value: Any) -> None:
        """Warn once: the real gateway packs 16-bit signed arrays as unsigned, so -1 arrives as 65535."""
        if pv not in self._doubtful and value and max(value) > 32767 and 0 <= min(value) and max(value) <= 65535:
            self._doubtful.add(pv)
            logger.warning(
                "%s: if its integers are signed 16-bit ones, the gateway may have lost their signs (65535 for -1)", pv
            )


def _type(tree: Mapping[str, Any], before: PvType | None, *, exact: bool) -> PvType:
    value = tree.get("value")
    if isinstance(value, list):
        return _array_type(value, before, exact=exact)
    if isinstance(value, Mapping):
        if "labels" in tree:
            return PvType(Kind.TABLE)
        return PvType(Kind.ENUM, 32) if value.keys() >= {"index", "choices"} else PvType(Kind.OTHER)
    return _scalar_type(value, before, exact=exact)


def _scalar_type(value: Any, before: PvType | None, *, exact: bool) -> PvType:
    if isinstance(value, bool):
        return PvType(Kind.BOOL, 8)
    if isinstance(value, str):
        return PvType(Kind.STRING)
    if isinstance(value, float):
        return PvType(Kind.FLOAT)
    if not isinstance(value, int):
        return PvType(Kind.OTHER)
    if before is not None and before.kind is Kind.FLOAT and not before.array:
        return before
    return PvType(Kind.INT) if exact else PvType(Kind.UNKNOWN)


def _array_type(value: list[Any], before: PvType | None, *, exact: bool) -> PvType:
    if not value:
        return before if before is not None and before.array else _UNKNOWN_ARRAY
    if any(isinstance(item, float) for item in value):
        return PvType(Kind.FLOAT, array=True)
    element = _scalar_type(value[0], None, exact=exact)
    if any(type(item) is not type(value[0]) for item in value) or element.kind is Kind.OTHER:
        return PvType(Kind.OTHER)
    if element.kind in (Kind.INT, Kind.UNKNOWN) and before is not None and before.array and before.kind is Kind.FLOAT:
        return before
    return replace(element, array=True)


def _looks_single(value: Any) -> bool:
    """Whether floats were float32 originally: each is one exactly, and one has more decimals than a person would type.

    This recognises them in JSON, and from a gateway that writes every float as a float64.
    """
    numbers = value if isinstance(value, list) else [value]
    with np.errstate(over="ignore"):
        return all(isinstance(n, int) or float(np.float32(n)) == n or n != n for n in numbers) and any(
            isinstance(n, float) and float(f"{n:.9g}") != n for n in numbers if n == n
        )


def _has_whole_float(value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    if isinstance(value, Mapping):
        return any(_has_whole_float(item) for item in value.values())
    return isinstance(value, list) and any(_has_whole_float(item) for item in value)


# -- the value of a put ---------------------------------------------------------------------------------------------


def put_fields(pv: str, value: Any, known: Known) -> dict[str, Any]:
    """Return the fields of a put in the form that the gateway writes as intended.

    An enum is sent as a map with its index: for a plain number the real gateway writes 0 and reports success. A single
    value is never sent to an array, which it would empty. A whole number is sent as an int where the PV may be an int,
    which refuses a float.

    :raises PvValueError: when the value does not fit; nothing must be sent.
    """
    to = known.type
    if to.kind is Kind.ENUM and isinstance(value, Mapping) and value.keys() == {"index"}:
        value = value["index"]
    try:
        converted = convert(value, to, known.choices)
        if to.array and to.kind is Kind.UNKNOWN and not isinstance(converted, list | tuple | np.ndarray):
            raise Refusal(f"it is an array, and {value!r} is a single value")
    except Refusal as refusal:
        raise PvValueError(pv, str(refusal)) from None
    if isinstance(converted, Fields):
        return dict(plain(converted))
    simple = plain(converted)
    if to.kind is Kind.ENUM:
        return {"value": {"index": simple}}
    if to.kind is Kind.UNKNOWN:
        simple = [_whole(item) for item in simple] if isinstance(simple, list | tuple) else _whole(simple)
    return {"value": simple}


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
