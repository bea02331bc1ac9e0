"""The two servers of the recorded traffic, each in a child process under a random prefix."""

from __future__ import annotations

from badger_k2eg.testing.soft_ioc import Part


class GoldenIoc(Part):
    """In place of TST."""

    module = "tests.golden.soft_records"
    package = "softioc"


class GoldenServer(Part):
    """In place of P4P."""

    module = "tests.golden.p4p_pvs"
    package = "p4p"
