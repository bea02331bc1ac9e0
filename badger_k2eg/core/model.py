"""The values that the whole package uses: addresses, readings, outcomes of puts, and the report of a set.

They are frozen, and never reach a control system.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np

from . import clock
from .printable import printable
from .pv_names import PvAddress as PvAddress
from .units import Quantity, is_quantity, text_of
from .units.quantity_math import Arithmetic


class Severity(IntEnum):
    """EPICS alarm severity, by its own numbers."""

    NO_ALARM = 0
    MINOR = 1
    MAJOR = 2
    INVALID = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """A closed range in the PV's own unit; None means no limit on that side."""

    low: float | None = None
    high: float | None = None

    def __bool__(self) -> bool:
        return self.low is not None or self.high is not None

    def __contains__(self, value: float) -> bool:
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        low = "-inf" if self.low is None else shown(self.low)
        high = "inf" if self.high is None else shown(self.high)
        return f"{low} to {high}"

    def tightened(self, other: Limits) -> Limits:
        """Return the range that both allow."""
        lows = [x for x in (self.low, other.low) if x is not None]
        highs = [x for x in (self.high, other.high) if x is not None]
        return Limits(max(lows, default=None), min(highs, default=None))


def shown(number: float) -> str:
    """Return the shortest text of a number that does not change it."""
    text = f"{number:g}"
    return text if float(text) == number or number != number else repr(number)


class Kind(StrEnum):
    """The kind of a PV's value."""

    FLOAT = "float"
    INT = "int"
    BOOL = "bool"
    STRING = "string"
    ENUM = "enum"
    TABLE = "table"
    OTHER = "structure"
    #: The transport does not tell the type (a mocked context).
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class PvType:
    """The type of a PV, to which a setpoint is converted without loss, or refused.

    :ivar bits: width of one number: 8, 16, 32 or 64.
    :ivar max_length: longest text (bytes) or array (elements) that the PV holds; None if unknown.
    """

    kind: Kind = Kind.UNKNOWN
    bits: int = 64
    signed: bool = True
    array: bool = False
    max_length: int | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy type of one number.

        :raises TypeError: if the value does not consist of numbers.
        """
        if self.kind is Kind.FLOAT:
            return np.dtype(f"f{self.bits // 8}")
        if self.kind is Kind.INT:
            return np.dtype(f"{'i' if self.signed else 'u'}{self.bits // 8}")
        if self.kind is Kind.BOOL:
            return np.dtype(bool)
        raise TypeError(f"{self} is not a number")

    def __str__(self) -> str:
        words = {Kind.FLOAT: f"float{self.bits}", Kind.INT: f"{'' if self.signed else 'u'}int{self.bits}"}
        return words.get(self.kind, str(self.kind)) + (" array" if self.array else "")


@dataclass(frozen=True, slots=True)
class Reading(Arithmetic):
    """A value of a PV with its metadata.

    Operators and numpy's functions apply to it. The result is a Reading with the resulting unit (incompatible units
    raise ``pint.DimensionalityError``), the newest time and the worst severity of its operands, and without what
    describes a PV. Two readings are equal if all their fields are; a reading equals a number or a quantity if its
    value does.

    :ivar value: float, int, bool, str; the index of an enum as int; a numpy array (the caller's own copy);
        ``{column: array}`` of a table; None if only the ``tree`` shows it.
    :ivar timestamp_ns: the record's time, nanoseconds since the Unix epoch, UTC; None if it has none.
    :ivar received: monotonic time in seconds at which it reached this process.
    :ivar units: the EGU text, verbatim.
    :ivar precision: decimals for display (EPICS PREC); None if unknown. Never used to compare.
    :ivar limits: drive limits (``control.limitLow/limitHigh``: DRVL/DRVH); 0,0 means none, as in EPICS.
    :ivar choices: the labels of an enum, in order of index.
    :ivar user_tag: ``timeStamp.userTag``: the pulse id at sites that set it.
    :ivar writable: False if write access is known to be denied, None if nothing is known.
    """

    value: Any
    type: PvType = PvType()
    timestamp_ns: int | None = None
    severity: Severity = Severity.NO_ALARM
    status: int = 0
    message: str = ""
    units: str = ""
    precision: int | None = None
    limits: Limits = Limits()
    choices: tuple[str, ...] = ()
    description: str = ""
    user_tag: int | None = None
    writable: bool | None = None
    received: float | None = None
    _tree: Callable[[], Mapping[str, Any]] | None = field(default=None, repr=False, compare=False)

    def __eq__(self, other: object) -> Any:
        if isinstance(other, Reading):
            return all(getattr(self, f.name) == getattr(other, f.name) for f in fields(Reading) if f.compare)
        if is_quantity(other):
            return self.quantity == Quantity(other)
        return self.value == other if isinstance(other, int | float) else NotImplemented

    def __ne__(self, other: object) -> Any:
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else np.logical_not(equal)

    def computed(self, value: Any, units: str, parts: Sequence[Reading]) -> Reading:
        """Return the result of a calculation with readings."""
        worst = max(parts, key=lambda part: part.severity)
        tags = {part.user_tag for part in parts}
        return Reading(
            value,
            type_of(value),
            timestamp_ns=max((p.timestamp_ns for p in parts if p.timestamp_ns is not None), default=None),
            severity=worst.severity,
            status=worst.status,
            message=worst.message,
            units=units,
            user_tag=tags.pop() if len(tags) == 1 else None,
            received=max((p.received for p in parts if p.received is not None), default=None),
        )

    @property
    def pulse_id(self) -> int | None:
        """The number of the machine pulse, at sites that put it into ``user_tag``."""
        return self.user_tag

    @property
    def timestamp(self) -> float | None:
        """The record's time in seconds since the Unix epoch; None if it has none."""
        return None if self.timestamp_ns is None else self.timestamp_ns * 1e-9

    @property
    def tree(self) -> Mapping[str, Any]:
        """The whole structure as nested dicts; made on demand."""
        return self._tree() if self._tree is not None else {"value": self.value}

    @property
    def label(self) -> str | None:
        """The label of an enum's value; None for other kinds."""
        if self.type.kind is Kind.ENUM and isinstance(self.value, int) and 0 <= self.value < len(self.choices):
            return self.choices[self.value]
        return None

    def equals(self, wanted: Any) -> bool:
        """Return whether the reading has this value; for an enum, its label or its index."""
        return bool((self.label if isinstance(wanted, str) and self.choices else self.plain) == wanted)

    @property
    def plain(self) -> Any:
        """The value as builtin Python types only: arrays become lists."""
        return plain(self.value)


def timestamp(value: Any, when: str | float | datetime | None = None) -> Reading:
    """Return a value with a time, replacing any that it had: ``timestamp(5, "2009-09-01 12:34 UTC")``.

    :param value: a number, an array, a Quantity or a Reading.
    :param when: a date and time (local, unless it ends in ``UTC``, ``Z`` or an offset), seconds since the Unix epoch,
        or None for now.
    :raises ValueError: for a text that is not a date and time.
    """
    if when is None:
        at = clock.time_ns()
    elif isinstance(when, int | float):
        at = round(when * 1_000_000_000)
    else:
        moment = when if isinstance(when, datetime) else _moment(when)
        at = round(moment.replace(microsecond=0).timestamp()) * 1_000_000_000 + moment.microsecond * 1000
    if isinstance(value, Reading):
        return replace(value, timestamp_ns=at)
    if is_quantity(value):
        return Reading(value.magnitude, type_of(value.magnitude), at, units=text_of(value.units))
    value = np.array(value) if isinstance(value, list) else value
    return Reading(value, type_of(value), at)


def _moment(text: str) -> datetime:
    words = text.strip()
    in_utc = words.upper().endswith(("UTC", "GMT"))
    try:
        moment = datetime.fromisoformat(words[:-3].rstrip() if in_utc else words)
    except ValueError:
        raise ValueError(f"a time is written like 2009-09-01 12:34 UTC, not {text!r}") from None
    return moment.replace(tzinfo=UTC) if in_utc else moment


def type_of(value: Any) -> PvType:
    """Return the type of a PV that could hold just this value."""
    if isinstance(value, np.ndarray):
        kind = {"f": Kind.FLOAT, "b": Kind.BOOL}.get(value.dtype.kind, Kind.INT)
        return PvType(kind, value.dtype.itemsize * 8, value.dtype.kind != "u", array=True)
    if isinstance(value, list):
        return PvType(Kind.STRING, array=True)
    if isinstance(value, dict):
        return PvType(Kind.TABLE)
    kinds = {bool: Kind.BOOL, int: Kind.INT, float: Kind.FLOAT, str: Kind.STRING}
    return PvType(kinds.get(type(value), Kind.OTHER))


def plain(value: Any) -> Any:
    """Return numpy numbers and arrays as builtin Python values, and everything else unchanged."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


class Fields(dict[str, Any]):
    """The value of a put to named fields of a structure: ``Fields({"value": {"a": [1, 2]}})``."""


class Outcome(StrEnum):
    """How a put ended. None of these claims more than is known."""

    #: A read-back showed the value asked; "as answered" if there can be none (a command, a mocked context).
    APPLIED = "applied"
    #: The server refused it, and a read-back showed the value from before.
    REFUSED = "refused"
    #: It never left this process: it is safe to send it again.
    NOT_SENT = "not sent"
    #: It was sent; it may have happened, in part or with another value, or may still happen.
    UNKNOWN = "unknown"
    #: The guard refused it, or another setpoint of the same call.
    BLOCKED = "blocked"
    #: Read-only: it would have been set.
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class PutAnswer:
    """A backend's answer to one put: APPLIED, REFUSED, NOT_SENT or UNKNOWN, and the server's message."""

    outcome: Outcome
    message: str = ""


@dataclass(frozen=True, slots=True)
class PutResult:
    """The result of one setpoint of a call.

    :ivar pv: the caller's key.
    :ivar asked: the value as asked, of builtin types.
    :ivar before: the setpoint's reading before the call, if it was read.
    :ivar readback: the setpoint's reading after the put, if it was read back.
    :ivar tolerance: how far from the value asked it may be, in its unit; 0 unless declared.
    :ivar arrived: what the validator returned (the shipped ones: the readback's value).
    :ivar attempts: how often it was sent.
    :ivar seconds: from the first attempt to the end, validation included.
    :ivar error: why it failed; None if it did not.
    """

    pv: str
    asked: Any
    outcome: Outcome
    message: str = ""
    attempts: int = 0
    seconds: float = 0.0
    before: Reading | None = None
    readback: Reading | None = None
    tolerance: float = 0.0
    arrived: Any = None
    error: Exception | None = None

    @property
    def ok(self) -> bool:
        """Whether the setpoint ended as asked, or in read-only mode was only logged."""
        return self.error is None and self.outcome in (Outcome.APPLIED, Outcome.SKIPPED)

    def __str__(self) -> str:
        tried = f" after {self.attempts} attempts" if self.attempts > 1 else ""
        text = f"{self.pv} = {self.asked!r}: {self.outcome.upper()}{tried}"
        return printable(f"{text}, {self.message}" if self.message else text)


@dataclass(frozen=True, slots=True)
class SetReport(Mapping[str, PutResult]):
    """The results of all setpoints of one call, in the caller's order: a mapping from PV to ``PutResult``."""

    results: tuple[PutResult, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every setpoint ended as asked."""
        return all(result.ok for result in self.results)

    @property
    def failed(self) -> tuple[PutResult, ...]:
        """The results that did not end as asked."""
        return tuple(result for result in self.results if not result.ok)

    def __getitem__(self, pv: str) -> PutResult:
        for result in self.results:
            if result.pv == pv:
                return result
        raise KeyError(pv)

    def __iter__(self) -> Iterator[str]:
        return (result.pv for result in self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __str__(self) -> str:
        return "\n".join(map(str, self.results))
