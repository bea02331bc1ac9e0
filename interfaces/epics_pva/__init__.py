"""Badger interface ``epics_pva``: EPICS PVs over PVAccess. All of it is ``badger_k2eg.ControlInterface``."""

from badger_k2eg import ControlInterface


class Interface(ControlInterface):
    """EPICS PVs over PVAccess; ``ca://NAME`` goes over Channel Access, with the extra ``ca``."""

    name = "epics_pva"
    scheme = "pva"
