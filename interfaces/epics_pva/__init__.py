"""Badger interface ``epics_pva``: EPICS PVs over PVAccess. All of it is ``badger_k2eg.badger_app.interface``."""

from badger_k2eg.badger_app.interface import ControlInterface


class Interface(ControlInterface):
    """EPICS PVs over PVAccess; ``ca://NAME`` goes over Channel Access, with the extra ``ca``."""

    name = "epics_pva"
    scheme = "pva"
