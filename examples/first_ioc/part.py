"""`FirstIoc`: the first machine in a child process, on loopback and free ports, for tests and demonstrations."""

from __future__ import annotations

from badger_k2eg.testing.soft_ioc import Part


class FirstIoc(Part):
    """The running IOC of the demo's first part; the environments that use it expect the prefix `FIRST`."""

    module = "badger_k2eg.cli.demo_ioc"
    package = "softioc"

    def arguments(self) -> list[str]:
        """Return further arguments of the program."""
        return ["--exit-with-parent"]
