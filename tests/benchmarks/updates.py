"""`UpdateServer`: a PVAccess server in a child process whose PVs get new values at the rate that is asked for.

A PV's value is the number of its updates. Run as `python -m tests.benchmarks.updates PREFIX` the module is the server.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from typing import Any

from badger_k2eg.testing.ports import wait_for_pva
from badger_k2eg.testing.processes import announce_ready, exit_with_parent
from badger_k2eg.testing.soft_ioc import Part

COUNT = 100


class UpdateServer(Part):
    """PVs `PREFIX:000` and so on. `PREFIX:HERTZ` takes how often a second each gets a new value."""

    module = __name__
    package = "p4p"

    @property
    def pvs(self) -> list[str]:
        """All that are updated."""
        return [self.pv(f"{number:03d}") for number in range(COUNT)]

    def update(self, hertz: float) -> list[float]:
        """Give each PV so many new values a second from now on; with 0 none any more.

        :returns: their values then.
        """
        from p4p.client.thread import Context

        with Context("pva", conf=self.client_environment, useenv=False) as context:
            context.put(self.pv("HERTZ"), hertz)
            return [float(value) for value in context.get(self.pvs)]


def main() -> None:
    """Serve until the parent is gone."""
    from p4p.nt import NTScalar
    from p4p.server import Server, StaticProvider
    from p4p.server.thread import SharedPV

    parser = argparse.ArgumentParser()
    parser.add_argument("prefix")
    prefix = parser.parse_args().prefix
    exit_with_parent()
    kind = NTScalar("d")
    changed = threading.Condition()
    hertz = 0.0

    class Rate:
        """What p4p calls for a put."""

        def put(self, pv: Any, operation: Any) -> None:
            nonlocal hertz
            with changed:
                hertz = float(operation.value())
                changed.notify()
            pv.post(hertz)
            operation.done()

    provider = StaticProvider(prefix)
    provider.add(f"{prefix}:HERTZ", SharedPV(nt=kind, initial=0.0, handler=Rate()))
    pvs = [SharedPV(nt=kind, initial=kind.wrap(0.0, timestamp=time.time())) for _ in range(COUNT)]
    for number, pv in enumerate(pvs):
        provider.add(f"{prefix}:{number:03d}", pv)
    with Server(providers=[provider]):
        wait_for_pva(
            f"{prefix}:HERTZ", int(os.environ["EPICS_PVAS_BROADCAST_PORT"]), int(os.environ["EPICS_PVAS_SERVER_PORT"])
        )
        announce_ready()
        updates, due = 0, time.monotonic()
        while True:
            with changed:
                while not hertz:
                    changed.wait()
                    due = time.monotonic()
                changed.wait(max(0.0, due - time.monotonic()))
                if not hertz or time.monotonic() < due:
                    continue
                due += 1.0 / hertz
            updates += 1
            now = time.time()
            for pv in pvs:
                pv.post(float(updates), timestamp=now)


if __name__ == "__main__":
    main()
