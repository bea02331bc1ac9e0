"""The machine of the demo, a real EPICS IOC: ``python -m badger_k2eg.cli.demo_ioc [PREFIX]``.

Two correctors and the size of a beam, which is smallest at one setting of both. The beam follows a setpoint at once: a
put that is answered has been processed, with all its forward links. The readbacks lag behind. softioc is imported only
when the IOC starts.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from pathlib import Path

from .signals import exit_with_parent

#: Where the beam is smallest, and how small (mm) it is there; the size is noisy by a hundredth of that.
BEST = {"COR:1:SP": 1.2, "COR:2:SP": -0.7}
SMALLEST = 0.1

READY = "READY"

_CORRECTOR = """
record(ao, "{prefix}:COR:{number}:SP") {{
    field(DESC, "corrector {number}, setpoint") field(EGU, "A") field(PREC, "3")
    field(DRVL, "-5") field(DRVH, "5") field(LOPR, "-5") field(HOPR, "5")
    field(VAL, "{start}") field(PINI, "YES") field(FLNK, "{prefix}:BEAM:SIZE")
}}
record(calcout, "{prefix}:COR:{number}:LAG") {{
    field(INPA, "{prefix}:COR:{number}:SP CP") field(CALC, "A+0.002*(RNDM-0.5)") field(ODLY, "0.1")
    field(OUT, "{prefix}:COR:{number}:RB PP") field(PINI, "YES")
}}
record(ai, "{prefix}:COR:{number}:RB") {{
    field(DESC, "corrector {number}, readback") field(EGU, "A") field(PREC, "3")
}}
"""
# The size itself is passive: a forward link processes no record that is scanned.
_BEAM = """
record(calc, "{prefix}:BEAM:SHOT") {{
    field(SCAN, ".1 second") field(CALC, "VAL+1") field(FLNK, "{prefix}:BEAM:SIZE")
}}
record(calc, "{prefix}:BEAM:SIZE") {{
    field(DESC, "size of the beam") field(EGU, "mm") field(PREC, "4") field(PINI, "YES")
    field(INPA, "{prefix}:COR:1:SP") field(INPB, "{prefix}:COR:2:SP")
    field(INPC, "{x0}") field(INPD, "{x1}") field(INPE, "{smallest}")
    field(CALC, "SQRT(E*E+(0.8*(A-C)+0.3*(B-D))^2+(0.9*(B-D))^2)+0.01*E*(RNDM-0.5)")
}}
"""


def database(prefix: str) -> str:
    """Return the records as an EPICS database."""
    correctors = [_CORRECTOR.format(prefix=prefix, number=n, start=start) for n, start in ((1, -0.6), (2, 0.8))]
    beam = _BEAM.format(prefix=prefix, x0=BEST["COR:1:SP"], x1=BEST["COR:2:SP"], smallest=SMALLEST)
    return "".join(correctors) + beam


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("prefix", nargs="?", default="FIRST", help="prefix of the PV names (default: FIRST)")
    parser.add_argument("--exit-with-parent", action="store_true", help="end when standard input closes")
    options = parser.parse_args()
    if options.exit_with_parent:
        exit_with_parent()

    # Clients on other hosts do not find this machine, unless the user's variables say so.
    for protocol in ("PVAS", "CAS"):
        os.environ.setdefault(f"EPICS_{protocol}_INTF_ADDR_LIST", "127.0.0.1")
    from softioc import softioc
    from softioc.asyncio_dispatcher import AsyncioDispatcher

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "first.db"
        file.write_text(database(options.prefix), encoding="utf-8")
        softioc.dbLoadDatabase(str(file))
        softioc.iocInit(AsyncioDispatcher())
    print(READY, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    main()
