"""The program of `SoftIoc`: a real IOC with the standard records and the faults an IOC can show.

Run as `python -m badger_k2eg.testing.ioc_records PREFIX --directory DIR [--extra-records N]`; the ports come from
EPICS_CAS_* and EPICS_PVAS_* in the environment. Owns the records and how they behave. softioc is imported at import of
this module, so it is never imported outside the child process.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .ports import wait_for_ca, wait_for_pva
from .processes import announce_ready, exit_with_parent, skip_build_tools
from .soft_ioc import FLAG_DELAYS, MOVE_SECONDS

skip_build_tools()  # before softioc

from softioc import alarm, builder, imports, softioc  # noqa: E402
from softioc.asyncio_dispatcher import AsyncioDispatcher  # noqa: E402

PAIRS = 100
"""Number of setpoint/readback pairs SP:000, RB:000, ..."""

SLOW_SECONDS = 2.0
"""How long SLOW takes to process a put."""

_RAMP_PERIOD = 0.05
_COUNT_PERIOD = 0.1
_NOISE_PERIOD = 0.1
_NOISE_SECONDS = 1.0
_NOISE = 0.25

_ACCESS = """\
ASG(DEFAULT) { RULE(1, WRITE) }
ASG(LOCKED) { RULE(1, READ) }
"""

Action = Callable[[float], None]


class Later:
    """At most one pending action of a pair: a newer one takes the older one's place."""

    __slots__ = ("_handle", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start with nothing pending."""
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None

    def call(self, seconds: float, action: Callable[..., None], *arguments: object) -> None:
        """Do this in so many seconds, in the loop's thread; to be called there."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_later(max(0.0, seconds), action, *arguments)


def _plain_records() -> None:
    out: dict[str, Any] = {"always_update": True}
    builder.aOut(
        "DBL", initial_value=1.5, EGU="mm", PREC=3, DRVL=-5, DRVH=5, LOPR=-10, HOPR=10,
        LOLO=-9, LOW=-8, HIGH=8, HIHI=9, LLSV="MAJOR", LSV="MINOR", HSV="MINOR", HHSV="MAJOR", **out,
    )  # fmt: skip
    builder.aOut("FREE", initial_value=1.0, PREC=3, **out)
    builder.longOut("INT", initial_value=42, EGU="cnt", DRVL=-100, DRVH=100, **out)
    builder.longOut("INTFREE", initial_value=7, **out)
    builder.stringOut("STR", initial_value="hello", **out)
    builder.longStringOut("LSTR", initial_value="a long string " * 5, length=256, **out)
    builder.mbbOut("ENUM", "off", "on", "auto", initial_value=1, **out)
    builder.boolOut("BOOL", ZNAM="closed", ONAM="open", initial_value=1, **out)
    builder.WaveformOut("WF", np.array([1.0, 2.5, -3.25]), length=8, **out)
    builder.WaveformOut("IWF", np.array([1, 2, 3], dtype="i4"), length=8, **out)
    builder.WaveformOut("F32", np.array([0.5, 1.5], dtype="f4"), length=4, **out)
    builder.WaveformOut("SWF", ["one", "two", "three"], length=4, **out)
    builder.aIn("STATIC", initial_value=7.0)


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


def _pairs(loop: asyncio.AbstractEventLoop) -> None:
    settle = builder.aOut("SETTLE", initial_value=0.5, PREC=3, EGU="s", always_update=True)

    def follow(readback: Any) -> Action:
        later = Later(loop)
        return lambda value: later.call(settle.get(), readback.set, value)

    for i in range(PAIRS):
        readback = builder.aIn(f"RB:{i:03d}", initial_value=0.0, PREC=3)
        builder.aOut(
            f"SP:{i:03d}", initial_value=0.0, DRVL=-100, DRVH=100, PREC=3, always_update=True,
            on_update=follow(readback),
        )  # fmt: skip


def _odd_pairs(loop: asyncio.AbstractEventLoop) -> None:
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


def _late_flags(loop: asyncio.AbstractEventLoop) -> None:
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


def _counters(loop: asyncio.AbstractEventLoop) -> None:
    count = builder.aIn("COUNT", initial_value=0.0)
    commands = builder.longIn("CMD:COUNT", initial_value=0)
    builder.longOut("CMD", initial_value=0, always_update=True, on_update=lambda _: commands.set(commands.get() + 1))
    began = time.monotonic()

    async def run() -> None:
        ticks = 0
        while True:
            ticks += 1
            await asyncio.sleep(max(0.0, began + ticks * _COUNT_PERIOD - time.monotonic()))
            count.set(float(ticks))

    def start() -> None:
        nonlocal began
        began = time.monotonic()
        _running.append(loop.create_task(run()))

    _after_init.append(lambda: loop.call_soon_threadsafe(start))


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


_after_init: list[Callable[[], object]] = []
_running: list[asyncio.Task[None]] = []  # a loop keeps only weak references to its tasks


def main() -> None:
    """Define the records, start the IOC, and serve until the parent is gone."""
    parser = argparse.ArgumentParser(description="the IOC of badger_k2eg.testing")
    parser.add_argument("prefix")
    parser.add_argument("--directory", type=Path, required=True, help="for its files")
    parser.add_argument("--extra-records", type=int, default=0, help="plain ao records BIG:0000, ...")
    options = parser.parse_args()
    exit_with_parent(options.directory)

    dispatcher = AsyncioDispatcher()
    loop: asyncio.AbstractEventLoop = dispatcher.loop
    builder.SetDeviceName(options.prefix)
    _plain_records()
    _faulty_records()
    _pairs(loop)
    _odd_pairs(loop)
    _late_flags(loop)
    _counters(loop)
    invalid = builder.aIn("INVALID", initial_value=3.0)

    access = options.directory / "access.acf"
    access.write_text(_ACCESS)
    imports.dbCore.asSetFilename.argtypes = (ctypes.c_char_p,)
    imports.dbCore.asSetFilename(str(access).encode())
    builder.LoadDatabase()
    _load_odd_names(options.directory / "names.db", options.prefix)
    _load_plain(options.directory / "big.db", options.prefix, options.extra_records)
    _load_stubborn(options.directory / "stubborn.db", options.prefix)
    softioc.iocInit(dispatcher)
    invalid.set(3.0, severity=alarm.INVALID_ALARM, alarm=alarm.READ_ALARM)
    for action in _after_init:
        action()

    probe = f"{options.prefix}:STATIC"
    wait_for_pva(probe, int(os.environ["EPICS_PVAS_BROADCAST_PORT"]), int(os.environ["EPICS_PVAS_SERVER_PORT"]))
    wait_for_ca(probe, int(os.environ["EPICS_CAS_SERVER_PORT"]))
    announce_ready()
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
