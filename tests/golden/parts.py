"""The two servers of the recorded traffic, each in a child process under a random prefix."""

from __future__ import annotations

from badger_k2eg.testing.soft_ioc import Part


class GoldenIoc(Part):
    """In place of TST."""

    _module = "tests.golden.soft_records"
    _package = "softioc"


class GoldenServer(Part):
    """In place of P4P."""

    _module = "tests.golden.p4p_pvs"
    _package = "p4p"
