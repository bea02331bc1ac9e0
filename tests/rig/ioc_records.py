"""The program of `RigIoc`: the records of `badger_k2eg.testing`, and the faults that an IOC can show.

Run as `python -m tests.rig.ioc_records PREFIX [--extra-records N]`. softioc is imported with this module, which only
the child process imports.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from badger_k2eg.testing import ioc_records
from badger_k2eg.testing.ioc_records import Later, Loop
from badger_k2eg.testing.processes import exit_with_parent

from .ioc import FLAG_DELAYS, MOVE_SECONDS

# After `ioc_records`, which keeps the build tools from being imported.
from softioc import alarm, builder, imports, softioc  # isort: skip

SLOW_SECONDS = 2.0
"""How long SLOW takes to process a put."""

_RAMP_PERIOD = 0.05
_NOISE_PERIOD = 0.1
_NOISE_SECONDS = 1.0
_NOISE = 0.25

_ACCESS = """\
ASG(DEFAULT) { RULE(1, WRITE) }
ASG(LOCKED) { RULE(1, READ) }
"""

Action = Callable[[float], None]


def _faulty_records() -> None:
    async def process_slowly(_value: float) -> None:
        await asyncio.sleep(SLOW_SECONDS)

    def at_most_two(_record: object, value: float) -> bool:
        return value <= 2.0

    out: dict[str, Any] = {"always_update": True}
    builder.aOut("SLOW", initial_value=0.0, blocking=True, on_update=process_slowly, **out)
    builder.aOut("DISP", initial_value=1.0, DISP=1, **out)
    builder.aOut("ASG", initial_value=1.0, ASG="LOCKED", **out)
    builder.aOut("VALID", initial_value=1.0, validate=at_most_two, **out)
    builder.aIn("UDF", PINI="NO")
    builder.aIn("NAN", initial_value=float("nan"))
    limits = {"HIHI": 10.0, "HIGH": 5.0, "HHSV": "MAJOR", "HSV": "MINOR"}
    builder.aIn("MAJOR", initial_value=11.0, **limits)
    builder.aIn("MINOR", initial_value=6.0, **limits)


def _odd_pairs(loop: Loop) -> None:
    def pair(name: str, on_update: Callable[[Any], Action] | None) -> None:
        readback = builder.aIn(f"{name}:RB", initial_value=0.0, PREC=3)
        action = on_update(readback) if on_update else None
        builder.aOut(f"{name}:SP", initial_value=0.0, PREC=3, always_update=True, on_update=action)

    rate = builder.aOut("RAMP:RATE", initial_value=1.0, PREC=3, EGU="1/s", always_update=True)

    def ramp(readback: Any) -> Action:
        later = Later(loop)

        def step(start: float, target: float, speed: float, began: float) -> None:
            way = speed * (loop.time() - began)
            if way >= abs(target - start):
                readback.set(target)
                return
            readback.set(start + math.copysign(way, target - start))
            later.call(_RAMP_PERIOD, step, start, target, speed, began)

        return lambda target: step(readback.get(), target, abs(rate.get()), loop.time())

    def toggle(readback: Any) -> Action:
        later = Later(loop)

        def step(target: float, outside: bool, until: float) -> None:
            if loop.time() >= until:
                readback.set(target)
                return
            readback.set(target + (_NOISE if outside else 0.0))
            later.call(_NOISE_PERIOD, step, target, not outside, until)

        return lambda target: step(target, False, loop.time() + _NOISE_SECONDS)

    pair("RAMP", ramp)
    pair("STICK", None)
    pair("NOISY", toggle)


#: Records that answer a put as done and hold another value, some by their links, some when a test meddles; :L with
#: drive limits, :F without. Of the last one a test breaks the output: it answers with an error, and holds the value.
_STUBBORN = """\
record(ao, "{0}:SRC") {{ field(VAL, "4") field(PINI, "YES") }}
record(ao, "{0}:CLOSED:{1}") {{
    field(OMSL, "closed_loop") field(DOL, "{0}:SRC") field(PINI, "YES") {2}
}}
record(ao, "{0}:SCANNED:{1}") {{
    field(OMSL, "closed_loop") field(DOL, "{0}:SRC") field(SCAN, ".1 second") field(PINI, "YES") {2}
}}
record(ao, "{0}:LINKED:{1}") {{ field(VAL, "4") field(PINI, "YES") field(FLNK, "{0}:LINKED:{1}:BACK") {2} }}
record(ao, "{0}:LINKED:{1}:BACK") {{
    field(OMSL, "closed_loop") field(DOL, "{0}:SRC") field(OUT, "{0}:LINKED:{1}.VAL NPP")
}}
record(ao, "{0}:CALC:{1}") {{ field(VAL, "4") field(PINI, "YES") field(FLNK, "{0}:CALC:{1}:BACK") {2} }}
record(calcout, "{0}:CALC:{1}:BACK") {{
    field(INPA, "{0}:CALC:{1}") field(CALC, "MIN(A,4)") field(OUT, "{0}:CALC:{1}.VAL NPP")
}}
record(ai, "{0}:INPUT:{1}") {{ field(INP, "{0}:SRC") field(PINI, "YES") {3} }}
record(ao, "{0}:QUANT:{1}") {{ field(VAL, "4") field(PINI, "YES") field(FLNK, "{0}:QUANT:{1}:BACK") {2} }}
record(calcout, "{0}:QUANT:{1}:BACK") {{
    field(INPA, "{0}:QUANT:{1}") field(CALC, "NINT(A*10)/10") field(OUT, "{0}:QUANT:{1}.VAL NPP")
}}
record(ao, "{0}:PLAIN:{1}") {{ field(VAL, "4") field(PINI, "YES") {2} }}
record(ao, "{0}:SHARED:{1}") {{ field(VAL, "4") field(PINI, "YES") {2} }}
record(ao, "{0}:LOWERED:{1}") {{ field(VAL, "4") field(PINI, "YES") {2} }}
record(ao, "{0}:FAILING:{1}") {{ field(VAL, "4") field(PINI, "YES") {2} }}
"""


def _load_stubborn(file: Path, prefix: str) -> None:
    drive, display = 'field(DRVL, "-10") field(DRVH, "10")', 'field(LOPR, "-10") field(HOPR, "10")'
    texts = [_STUBBORN.format(prefix, "L", drive, display), _STUBBORN.format(prefix, "F", "", "")]
    long_ = f'record(int64out, "{prefix}:LONG") {{{{ field(DRVL, "0") field(DRVH, "9007199254740994") }}}}\n'
    file.write_text("".join(texts) + long_.format())
    softioc.dbLoadDatabase(str(file))


def _late_flags(loop: Loop) -> None:
    def move(readback: Any, flag: Any, late: float | None) -> Action:
        later = Later(loop)

        def rise(target: float) -> None:
            if late is not None:
                flag.set(1)
            later.call(MOVE_SECONDS, arrive, target)

        def arrive(target: float) -> None:
            readback.set(target)
            flag.set(0)

        return lambda target: later.call(late or 0.0, rise, target)

    for i, late in enumerate(FLAG_DELAYS):
        readback = builder.aIn(f"MOVE:{i}:RB", initial_value=0.0, PREC=3)
        flag = builder.mbbIn(f"MOVE:{i}:ST", "ready", "moving", initial_value=0)
        builder.aOut(
            f"MOVE:{i}:SP", initial_value=0.0, DRVL=-100, DRVH=100, PREC=3, always_update=True,
            on_update=move(readback, flag, late),
        )  # fmt: skip


def _load_odd_names(file: Path, prefix: str) -> None:
    """Load an alias of a record, and a record whose name has brackets beside one that it would fit as a pattern."""
    plain = 'record(ao, "{0}:{1}") {{ field(VAL, "1") field(PINI, "YES") }}\n'
    names = "".join(plain.format(prefix, name) for name in ("Q[1]", "Q1", "B{IOC-1}Val"))
    file.write_text(f'alias("{prefix}:FREE", "{prefix}:ALIAS")\n' + names)
    softioc.dbLoadDatabase(str(file))


def _load_plain(file: Path, prefix: str, count: int) -> None:
    """Load records without any Python in them: what they cost is EPICS's own."""
    record = 'record(ao, "{0}:BIG:{1:04d}") {{ field(VAL, "{1}") field(PINI, "YES") field(PREC, "3") }}\n'
    file.write_text("".join(record.format(prefix, i) for i in range(count)))
    softioc.dbLoadDatabase(str(file))


def _define(loop: Loop) -> Callable[[], object]:
    _faulty_records()
    _odd_pairs(loop)
    _late_flags(loop)
    invalid = builder.aIn("INVALID", initial_value=3.0)
    return lambda: invalid.set(3.0, severity=alarm.INVALID_ALARM, alarm=alarm.READ_ALARM)


def _load(prefix: str, extra: int, folder: Path) -> None:
    access = folder / "access.acf"
    access.write_text(_ACCESS)
    imports.dbCore.asSetFilename.argtypes = (ctypes.c_char_p,)
    imports.dbCore.asSetFilename(str(access).encode())
    _load_odd_names(folder / "names.db", prefix)
    _load_plain(folder / "big.db", prefix, extra)
    _load_stubborn(folder / "stubborn.db", prefix)


def main() -> None:
    parser = argparse.ArgumentParser(description="the IOC of the tests of badger-k2eg")
    parser.add_argument("prefix")
    parser.add_argument("--extra-records", type=int, default=0, help="plain ao records BIG:0000, ...")
    options = parser.parse_args()
    exit_with_parent()
    ioc_records.serve(
        options.prefix, define=_define, load=functools.partial(_load, options.prefix, options.extra_records)
    )


if __name__ == "__main__":
    main()
