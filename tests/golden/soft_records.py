"""The program of `GoldenIoc`: the softioc records of the recorded traffic, under another prefix."""

from __future__ import annotations

import argparse
import os
import threading
import time

import numpy as np

from badger_k2eg.testing.ports import wait_for_ca, wait_for_pva
from badger_k2eg.testing.processes import announce_ready, exit_with_parent, skip_build_tools

skip_build_tools()  # before softioc

from softioc import builder, softioc  # noqa: E402
from softioc.asyncio_dispatcher import AsyncioDispatcher  # noqa: E402

_COUNT_PERIOD = 0.1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("prefix")
    prefix = parser.parse_args().prefix
    exit_with_parent()
    dispatcher = AsyncioDispatcher()
    builder.SetDeviceName(prefix)
    limits = {"LOPR": -10, "HOPR": 10, "DRVL": -5, "DRVH": 5, "LOLO": -9, "LOW": -8, "HIGH": 8, "HIHI": 9}
    severities = {"HHSV": "MAJOR", "HSV": "MINOR", "LSV": "MINOR", "LLSV": "MAJOR"}
    builder.aOut("DBL", initial_value=1.5, always_update=True, EGU="mm", PREC=3, **limits, **severities)
    builder.longOut("INT", initial_value=42, always_update=True, EGU="cnt")
    builder.stringOut("STR", initial_value="hello", always_update=True)
    builder.mbbOut("ENUM", "off", "on", "auto", initial_value=1, always_update=True)
    builder.boolOut("BOOL", ZNAM="closed", ONAM="open", initial_value=1, always_update=True)
    builder.WaveformOut("WF", np.array([1.0, 2.5, -3.25]), always_update=True)
    builder.longStringOut("LSTR", initial_value="a long string " * 5, always_update=True)
    for name in ("M1", "M2", "M3"):
        builder.aOut(name, initial_value=0.0, always_update=True)
    count = builder.aIn("CNT", initial_value=0.0)
    builder.aIn("STATIC", initial_value=7.0)
    builder.aIn("NAN", initial_value=float("nan"))
    builder.LoadDatabase()
    softioc.iocInit(dispatcher)

    def run() -> None:
        for ticks in range(1, 1_000_000):
            time.sleep(_COUNT_PERIOD)
            count.set(float(ticks))

    threading.Thread(target=run, daemon=True).start()
    probe = f"{prefix}:STATIC"
    wait_for_pva(probe, int(os.environ["EPICS_PVAS_BROADCAST_PORT"]), int(os.environ["EPICS_PVAS_SERVER_PORT"]))
    wait_for_ca(probe, int(os.environ["EPICS_CAS_SERVER_PORT"]))
    announce_ready()
    threading.Event().wait()


if __name__ == "__main__":
    main()
