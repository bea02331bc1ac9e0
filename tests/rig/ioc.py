"""`RigIoc`: the IOC of these tests, which has besides the records of `SoftIoc` those of `tests/rig/ioc_records.py`."""

from __future__ import annotations

from badger_k2eg.testing.ports import PartPorts
from badger_k2eg.testing.soft_ioc import SoftIoc

FLAG_DELAYS = (0.01, 0.1, 0.3, 1.0, 2.5, None)
"""Seconds from a put to MOVE:n:SP until the flag MOVE:n:ST rises; None never does."""

MOVE_SECONDS = 0.3
"""How long the flag is up. MOVE:n:RB has arrived when it clears, and not before."""


class RigIoc(SoftIoc):
    """An IOC with every record and every fault.

    :param extra_records: number of plain `ao` records BIG:0000, ... besides, for benchmarks.
    """

    module = "tests.rig.ioc_records"

    def __init__(self, prefix: str | None = None, *, extra_records: int = 0, ports: PartPorts | None = None) -> None:
        self._extra_records = extra_records
        super().__init__(prefix, ports=ports)

    def arguments(self) -> list[str]:
        return ["--extra-records", str(self._extra_records)]
