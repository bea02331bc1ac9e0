"""The schema of a recorded line: ``Record``, its kinds, and its one text form in a journal.

A journal consists of lines of JSON. Each is complete in itself, with its own global number, its schema version and a
checksum. A field that is None is left out of the text.

==========  ================  =====================================================================================
key         type              meaning
==========  ================  =====================================================================================
v           int               version of this schema
line        int               global line number: unique and rising in a journal, over segments, restarts, archives
time        int               nanoseconds since the Unix epoch, UTC, by the clock of the host that wrote it
kind        text              see ``RecordKind``
level       text              debug, info (left out), warning, error; see ``Level``
run         text              id of the run that it belongs to
evaluation  int               number of the evaluation in the run, from 1
begin       int               on an ``….end``: the line of the ``….begin`` that it closes
pv          text              the PV as the caller named it
asked       value             the setpoint as asked
value       value             what was read: the value before (baseline), the readback (put), the reading (read, sample)
unit        text              the PV's EGU, verbatim
severity    int               EPICS alarm severity of ``value``: 0 to 3
stamp       int               the PV's own time of ``value``, nanoseconds since the Unix epoch
outcome     text              how a put ended: an ``Outcome``
attempt     int               the number of the attempt, from 1
duration    float             seconds
name        text              of a mark, a tag, a run, a file, an event
message     text              in words
data        object            anything more; its keys belong to the kind
host, user  text              where it was written
process     int               process id of the writer
crc         text              CRC-32 of the text before it, 8 hex digits; always the last key
==========  ================  =====================================================================================

A value is plain JSON where that says it all. What JSON cannot express is an object with one ``$`` key:
``{"$float": "nan"}`` (``inf``, ``-inf``), ``{"$array": base64, "dtype": "<f8", "shape": [3]}``,
``{"$bytes": base64}``; a user's key that begins with ``$`` gets a second one.

The checksum is not a signature: it shows that a line was damaged, or edited without updating the checksum. Whoever may
write the file may write any line with a valid checksum; a line whose types differ from those above is rejected.
"""

from __future__ import annotations

import base64
import json
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np

from .model import Outcome

#: Version of the schema; a line of a newer one is rejected.
SCHEMA = 1


class RecordKind(StrEnum):
    """What a line records."""

    #: A run begins; ``data`` is its manifest (environment, interface, options, PVs). Ends with a reason as ``name``:
    #: success, stopped, failed, lost.
    RUN_BEGIN = "run.begin"
    RUN_END = "run.end"
    #: The value of one PV before the run moved anything; a message and no value if it could not be read.
    BASELINE = "baseline"
    EVALUATION_BEGIN = "evaluation.begin"
    EVALUATION_END = "evaluation.end"
    #: A call to set begins; ``data["setpoints"]`` is ``{pv: asked}``; ``data["validators"]`` has the shipped ones that
    #: are new. Written before anything is sent. Outside of a run, ``name`` says what sets.
    SET_BEGIN = "set.begin"
    SET_END = "set.end"
    #: One attempt to write one PV has ended.
    PUT = "put"
    #: The result of one PV of a call, after every attempt and its validation; outside of a run, ``data["before"]`` is
    #: its value before.
    SETPOINT = "setpoint"
    #: A read for the user, of an observable.
    READ = "read"
    #: Setpoints are put back.
    RESTORE_BEGIN = "restore.begin"
    RESTORE_END = "restore.end"
    #: An update of a PV that is recorded for the length of a run.
    SAMPLE = "sample"
    #: Anything else that happened: a guard, a lock, a PV moved by another client; ``name`` says what.
    EVENT = "event"
    #: The best evaluation so far is ``evaluation``; ``data`` may have its objectives.
    BEST = "best"
    #: A marked part of the journal: a shot, a fault.
    MARK_BEGIN = "mark.begin"
    MARK_END = "mark.end"
    #: Added to a run afterwards: a text; a tag ``name`` with ``value`` (None removes it); a new name; a parent run in
    #: ``data["parent"]``; a file, in ``data``.
    NOTE = "note"
    TAG = "tag"
    RENAME = "rename"
    LINK = "link"
    ATTACH = "attach"
    #: About the journal itself: first and last line of a segment; the line before was torn; lines were lost.
    SEGMENT_BEGIN = "segment.begin"
    SEGMENT_END = "segment.end"
    TORN = "torn"
    LOST = "lost"


class Level(IntEnum):
    """The importance of a line. The operator's view begins at info."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


_DETAIL = (RecordKind.READ, RecordKind.SAMPLE)
_GONE_WRONG = (Outcome.REFUSED, Outcome.NOT_SENT, Outcome.UNKNOWN, Outcome.BLOCKED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One line of a journal; the module describes the fields. The writer fills in what is missing."""

    kind: RecordKind
    line: int = 0
    time_ns: int = 0
    level: Level | None = None
    run: str | None = None
    evaluation: int | None = None
    begin: int | None = None
    pv: str | None = None
    asked: Any = None
    value: Any = None
    unit: str | None = None
    severity: int | None = None
    stamp_ns: int | None = None
    outcome: Outcome | None = None
    attempt: int | None = None
    duration: float | None = None
    name: str | None = None
    message: str | None = None
    data: Mapping[str, Any] | None = None
    host: str | None = None
    user: str | None = None
    process: int = 0
    #: Whether the line's checksum is valid; if not, the line was damaged or edited. True proves nothing.
    intact: bool = field(default=True, compare=False)

    def part(self, name: str) -> Mapping[str, Any]:
        """Return an object in ``data`` by its key; empty if there is none."""
        found = (self.data or {}).get(name)
        return found if isinstance(found, Mapping) else {}

    @property
    def own_level(self) -> Level:
        """The level, as given or as it follows from kind and outcome."""
        if self.level is not None:
            return self.level
        if self.outcome in _GONE_WRONG or self.kind in (RecordKind.TORN, RecordKind.LOST):
            return Level.WARNING
        return Level.DEBUG if self.kind in _DETAIL else Level.INFO

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object of the line, with encoded values, without version and checksum."""
        level = self.own_level
        found: dict[str, Any] = {"line": self.line, "time": self.time_ns, "kind": self.kind.value}
        if level is not Level.INFO:
            found["level"] = level.name.lower()
        for key, attribute, form in _PLAIN:
            if (value := getattr(self, attribute)) is not None:
                found[key] = encode(value) if form else value
        if self.process:
            found["process"] = self.process
        return found


#: Key in the text, attribute, and whether its value must be encoded; in the order of the text.
_PLAIN = tuple(
    ({"stamp_ns": "stamp"}.get(f.name, f.name), f.name, f.name in ("asked", "value", "duration", "data"))
    for f in fields(Record)
    if f.name not in ("kind", "line", "time_ns", "level", "process", "intact")
)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False)
_TAIL = len(',"crc":"00000000"}')
_DTYPE = re.compile(r"[<|][biufc]\d{1,2}")
#: Above any version that there will be.
_NO_SCHEMA = 1000
#: Limit on nested lists and objects: more than is ever written, and far below Python's recursion limit.
_DEEPEST = 100
_TEXTS = ("kind", "level", "run", "pv", "unit", "outcome", "name", "message", "host", "user")
#: The type of each key's value.
_TYPES: dict[str, Any] = {
    **dict.fromkeys(_TEXTS, str),
    **dict.fromkeys(("line", "time", "evaluation", "begin", "attempt", "process", "severity"), int),
    "data": dict,
}
#: Upper limits of integers, none of which may be negative; a PV's own time may have any value.
_MOST = {"process": (1 << 31) - 1, "severity": 3}
_LARGEST = 1 << 62


class BadLine(ValueError):
    """The text is not a line of a journal."""


class NewerSchema(ValueError):
    """The line was written by a newer version of this package."""


def to_line(record: Record) -> bytes:
    """Return the text of a record, with its newline."""
    body = _ENCODER.encode({"v": SCHEMA, **record.as_dict()})[:-1].encode("utf-8", "backslashreplace")
    return b'%b,"crc":"%08x"}\n' % (body, zlib.crc32(body))


def glance(text: bytes) -> tuple[dict[str, Any], bool]:
    """Return the JSON object of a line, given with or without its newline; its values stay encoded.

    :returns: the object, and whether its checksum is valid.
    :raises BadLine: if it is torn, or not a record at all.
    :raises NewerSchema: if a newer version of this package wrote it.
    """
    text = text.rstrip(b"\n")
    try:
        found = json.loads(text.decode())
        if type(found["v"]) is not int or not 0 < found["v"] < _NO_SCHEMA:
            raise ValueError("its schema version is invalid")
        if found["v"] > SCHEMA:
            raise NewerSchema(f"schema {found['v']}, and this version knows {SCHEMA}")
        crc = found.pop("crc", None)
        _check(found, text)
    except NewerSchema:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadLine(str(error) or type(error).__name__) from None
    return found, text.endswith(b'"}') and crc == f"{zlib.crc32(text[:-_TAIL]):08x}"


def _check(found: Mapping[str, Any], text: bytes) -> None:
    """Check the types: whoever can write the file can write anything.

    :raises ValueError: if a key has a value of another type.
    """
    if text.count(b"[") + text.count(b"{") > _DEEPEST and not _is_shallow(found):
        raise ValueError("it is nested too deeply")
    for key, value in found.items():
        kind = _TYPES.get(key)
        if kind is None:
            continue
        if type(value) is not kind or (kind is int and not 0 <= value <= _MOST.get(key, _LARGEST)):
            raise ValueError(f"its {key} is invalid")


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            item
            for each in level
            for item in (each.values() if isinstance(each, dict) else each)
            if isinstance(item, dict | list)
        ]
        if not level:
            return True
    return False


def from_line(text: bytes) -> Record:
    """Return the record of a line, given with or without its newline.

    :returns: not ``intact`` if its checksum is invalid.
    :raises BadLine: if it is torn, or not a record at all.
    :raises NewerSchema: if a newer version of this package wrote it.
    """
    found, intact = glance(text)
    try:
        return from_dict(found, intact=intact)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise BadLine(str(error) or type(error).__name__) from None


def from_dict(found: Mapping[str, Any], *, intact: bool = True) -> Record:
    """Return the record of a line's JSON object.

    :raises ValueError: for a kind, level or outcome that does not exist, or an invalid duration.
    """
    level, outcome = found.get("level"), found.get("outcome")
    plain = {name: found[key] for key, name, form in _PLAIN if key in found and not form and name != "outcome"}
    values = {name: decode(found[key]) for key, name, form in _PLAIN if form and key in found}
    if (duration := values.get("duration")) is not None:
        if not isinstance(duration, int | float) or isinstance(duration, bool):
            raise ValueError("its duration is invalid")
        values["duration"] = float(duration)
    return Record(
        kind=RecordKind(found["kind"]),
        line=found["line"],
        time_ns=found["time"],
        level=None if level is None else Level[level.upper()],
        outcome=None if outcome is None else Outcome(outcome),
        process=found.get("process", 0),
        intact=intact,
        **plain,
        **values,
    )


def encode(value: Any) -> Any:
    """Return a value in a form that JSON expresses without loss; a value without one becomes its text."""
    if value is None or isinstance(value, str | bool | int) and not isinstance(value, np.generic | IntEnum | StrEnum):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, Mapping):
        return {_key(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [encode(item) for item in value]
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    return _encode_numpy(value)


def _key(key: Any) -> str:
    text = str(key)
    return "$" + text if text.startswith("$") else text


def _encode_numpy(value: Any) -> Any:
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return encode(value.item())
    if not isinstance(value, np.ndarray):
        return value.value if isinstance(value, IntEnum | StrEnum) else _text(value)
    if value.dtype.kind not in "biufc":
        return [encode(item) for item in value.tolist()]
    # Little-endian, whatever the machine is.
    little = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
    text = base64.b64encode(little.tobytes()).decode()
    return {"$array": text, "dtype": little.dtype.str, "shape": list(value.shape)}


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # a user's type; the record of a run must not fail over it
        return object.__repr__(value)


def decode(value: Any) -> Any:
    """Return the value that ``encode`` was given; an array as a new numpy array."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$float" in value:
        return float(value["$float"])
    if "$bytes" in value:
        return base64.b64decode(value["$bytes"])
    if "$array" in value:
        if not _DTYPE.fullmatch(value["dtype"]):
            raise ValueError("its array has no numeric type")
        array = np.frombuffer(base64.b64decode(value["$array"]), np.dtype(value["dtype"]))
        return array.reshape(value["shape"]).copy()
    return {key[1:] if key.startswith("$") else key: decode(item) for key, item in value.items()}
