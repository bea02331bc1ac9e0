"""Badger interface ``replay``: a recorded run in the machine's place. All of it is ``badger_k2eg.ReplayInterface``."""

from badger_k2eg import ReplayInterface


class Interface(ReplayInterface):
    """A recorded run in the machine's place; nothing is ever written."""

    name = "replay"
