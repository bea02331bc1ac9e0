"""`VirtualInjector`: the machine in a child process, on loopback and free ports, for tests and demonstrations.

Owns only how it is started; the life-cycle is `badger_k2eg.testing`'s.
"""

from __future__ import annotations

from badger_k2eg.testing.ports import PartPorts
from badger_k2eg.testing.soft_ioc import Part


class VirtualInjector(Part):
    """A running virtual injector.

    :param prefix: of all its PVs, without the colon; random by default.
    :param seed: of the noise.
    :param ports: where it serves; free ones by default.
    """

    module = "examples.virtual_injector.ioc"
    package = "softioc"

    def __init__(self, prefix: str | None = None, *, seed: int = 1, ports: PartPorts | None = None) -> None:
        """Start it; returns when a client can connect."""
        self._seed = seed
        super().__init__(prefix, ports=ports)

    def arguments(self) -> list[str]:
        """Return further arguments of the program."""
        return ["--seed", str(self._seed), "--exit-with-parent"]
