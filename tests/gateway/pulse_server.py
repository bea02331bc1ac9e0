"""A PVAccess server whose PVs all change at once, again and again: `python -m tests.gateway.pulse_server PREFIX`.

Any put to STOP ends the changing.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from typing import Any

from badger_k2eg.testing.ports import wait_for_pva
from badger_k2eg.testing.processes import announce_ready, exit_with_parent, skip_build_tools
from badger_k2eg.testing.soft_ioc import Part

PVS = 100
RATE = 50.0


class PulseServer(Part):
    """100 PVs 0, 1, ... of 50 updates a second each; their value counts the updates."""

    module = "tests.gateway.pulse_server"
    package = "p4p"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("prefix")
    prefix = parser.parse_args().prefix
    exit_with_parent()
    skip_build_tools()
    from p4p.nt import NTScalar
    from p4p.server import Server
    from p4p.server.thread import SharedPV

    stopped = threading.Event()

    class Stop:
        def put(self, pv: Any, operation: Any) -> None:
            stopped.set()
            operation.done()

    kind = NTScalar("d", display=True, control=True, valueAlarm=True)
    pvs = {f"{prefix}:{number}": SharedPV(nt=kind, initial=0.0) for number in range(PVS)}
    stop = SharedPV(nt=NTScalar("i"), initial=0, handler=Stop())
    with Server(providers=[{**pvs, f"{prefix}:STOP": stop}]):
        udp, tcp = int(os.environ["EPICS_PVAS_BROADCAST_PORT"]), int(os.environ["EPICS_PVAS_SERVER_PORT"])
        wait_for_pva(f"{prefix}:0", udp, tcp)
        announce_ready()
        began, count = time.monotonic(), 0
        while not stopped.wait(max(0.0, began + count / RATE - time.monotonic())):
            count += 1
            value = kind.wrap(float(count), timestamp=time.time())
            for pv in pvs.values():
                pv.post(value)
        stop.post(count)
        threading.Event().wait()


if __name__ == "__main__":
    main()
