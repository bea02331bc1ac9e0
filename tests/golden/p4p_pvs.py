"""The program of `GoldenServer`: the PVs of the recorded traffic that a p4p server had, under another prefix."""

from __future__ import annotations

import argparse
import os
import threading
import time
from typing import Any

import numpy as np

from badger_k2eg.testing.ports import wait_for_pva
from badger_k2eg.testing.processes import announce_ready, exit_with_parent, skip_build_tools

skip_build_tools()  # before p4p

from p4p.nt import NTEnum, NTNDArray, NTScalar, NTTable  # noqa: E402
from p4p.server import Server  # noqa: E402
from p4p.server.thread import SharedPV  # noqa: E402

_LONG_AGO = 1700000000.25


class _Accept:
    def put(self, pv: Any, operation: Any) -> None:
        pv.post(operation.value(), timestamp=time.time())
        operation.done()


class _Reject:
    def put(self, pv: Any, operation: Any) -> None:
        operation.done(error="rejected by the server: out of range")


def _pv(kind: Any, initial: Any, handler: Any = _Accept, **about: Any) -> SharedPV:
    return SharedPV(nt=kind, initial=initial, timestamp=_LONG_AGO, handler=handler and handler(), **about)


def pvs() -> dict[str, SharedPV]:
    return {
        "DBL": _pv(NTScalar("d", display=True, control=True, valueAlarm=True), 2.5),
        "PLAIN": _pv(NTScalar("d"), 0.5),
        "RO": _pv(NTScalar("d"), 9.5, None),
        "REJ": _pv(NTScalar("d"), 9.5, _Reject),
        "INT": _pv(NTScalar("i"), -7),
        "LONG": _pv(NTScalar("l"), 2**53 + 1),
        "STR": _pv(NTScalar("s"), "gr\u00fc\u00dfe"),
        "BOOL": _pv(NTScalar("?"), True),
        "NAN": _pv(NTScalar("d"), float("nan")),
        "ENUM": _pv(NTEnum(), {"index": 2, "choices": ["off", "on", "auto"]}),
        "ARR": _pv(NTScalar("ad"), np.array([0.5, 1.5, 2.5])),
        "I16ARR": _pv(NTScalar("ah"), np.array([1, 300, -300], dtype="i2")),
        "TABLE": _pv(
            NTTable([("name", "s"), ("x", "d"), ("n", "i")]),
            [{"name": "a", "x": 1.5, "n": 1}, {"name": "b", "x": 2.5, "n": 2}],
        ),
        "IMG": _pv(NTNDArray(), np.arange(6, dtype="u1").reshape(2, 3), None),
        "ALARM": _pv(NTScalar("d"), 11.0, severity=2, message="HIHI"),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("prefix")
    prefix = parser.parse_args().prefix
    exit_with_parent()
    with Server(providers=[{f"{prefix}:{name}": pv for name, pv in pvs().items()}]):
        udp, tcp = int(os.environ["EPICS_PVAS_BROADCAST_PORT"]), int(os.environ["EPICS_PVAS_SERVER_PORT"])
        wait_for_pva(f"{prefix}:PLAIN", udp, tcp)
        announce_ready()
        threading.Event().wait()


if __name__ == "__main__":
    main()
