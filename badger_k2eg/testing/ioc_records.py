"""The program of `SoftIoc`: an IOC with records of every type, setpoints with readbacks that follow, and a counter.

Run as `python -m badger_k2eg.testing.ioc_records PREFIX`; the ports come from EPICS_CAS_* and EPICS_PVAS_* in the
environment. softioc is imported with this module, which only the child process imports.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .ports import wait_for_ca, wait_for_pva
from .processes import announce_ready, exit_with_parent, skip_build_tools

skip_build_tools()  # before softioc

from softioc import builder, softioc  # noqa: E402
from softioc.asyncio_dispatcher import AsyncioDispatcher  # noqa: E402

PAIRS = 100
"""Number of setpoint/readback pairs SP:000, RB:000, ..."""

_COUNT_PERIOD = 0.1

Loop = asyncio.AbstractEventLoop


class Later:
    """The pending action of a pair of records, at most one: a newer action replaces an older one."""

    __slots__ = ("_handle", "_loop")

    def __init__(self, loop: Loop) -> None:
        """Start with nothing pending."""
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None

    def call(self, seconds: float, action: Callable[..., None], *arguments: object) -> None:
        """Call an action after a delay, in the loop's thread; to be called from there."""
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


def _pairs(loop: Loop) -> None:
    settle = builder.aOut("SETTLE", initial_value=0.5, PREC=3, EGU="s", always_update=True)

    def follow(readback: Any) -> Callable[[float], None]:
        later = Later(loop)
        return lambda value: later.call(settle.get(), readback.set, value)

    for i in range(PAIRS):
        readback = builder.aIn(f"RB:{i:03d}", initial_value=0.0, PREC=3)
        builder.aOut(
            f"SP:{i:03d}", initial_value=0.0, DRVL=-100, DRVH=100, PREC=3, always_update=True,
            on_update=follow(readback),
        )  # fmt: skip


def _counters(loop: Loop) -> Callable[[], object]:
    """Define the counters.

    :returns: what starts them, after iocInit.
    """
    count = builder.aIn("COUNT", initial_value=0.0)
    commands = builder.longIn("CMD:COUNT", initial_value=0)
    builder.longOut("CMD", initial_value=0, always_update=True, on_update=lambda _: commands.set(commands.get() + 1))

    def tick(began: float, ticks: int) -> None:
        count.set(float(ticks))
        loop.call_later(max(0.0, began + (ticks + 1) * _COUNT_PERIOD - time.monotonic()), tick, began, ticks + 1)

    return lambda: loop.call_soon_threadsafe(tick, time.monotonic(), 0)


def serve(
    prefix: str,
    *,
    define: Callable[[Loop], Callable[[], object]] | None = None,
    load: Callable[[Path], object] | None = None,
) -> None:
    """Start the IOC, announce that it is ready, and serve until the process ends.

    :param prefix: of all PV names, without the colon.
    :param define: defines more records by `softioc.builder`; what it returns is called once the IOC runs.
    :param load: loads databases of its own, written to the folder that it is given; the folder is removed once the IOC
        runs.
    """
    dispatcher = AsyncioDispatcher()
    builder.SetDeviceName(prefix)
    _plain_records()
    _pairs(dispatcher.loop)
    actions = [_counters(dispatcher.loop)]
    if define is not None:
        actions.append(define(dispatcher.loop))
    builder.LoadDatabase()
    with tempfile.TemporaryDirectory(prefix="badger-k2eg-") as folder:
        if load is not None:
            load(Path(folder))
        softioc.iocInit(dispatcher)
    for action in actions:
        action()
    probe = f"{prefix}:STATIC"
    wait_for_pva(probe, int(os.environ["EPICS_PVAS_BROADCAST_PORT"]), int(os.environ["EPICS_PVAS_SERVER_PORT"]))
    wait_for_ca(probe, int(os.environ["EPICS_CAS_SERVER_PORT"]))
    announce_ready()
    while True:
        time.sleep(3600)


def main() -> None:
    """Serve until the parent has ended."""
    parser = argparse.ArgumentParser(description="the IOC of badger_k2eg.testing")
    parser.add_argument("prefix")
    options = parser.parse_args()
    exit_with_parent()
    serve(options.prefix)


if __name__ == "__main__":
    main()
