"""Badger interface ``k2eg``: EPICS PVs through the K2EG gateway. All of it is ``badger_k2eg.K2egInterface``."""

from badger_k2eg import K2egInterface


class Interface(K2egInterface):
    """EPICS PVs through the K2EG gateway on Kafka: ``pva://NAME``, ``ca://NAME``, or a bare ``NAME`` over PVAccess."""

    name = "k2eg"
