"""Badger interface ``replay``: a recorded run in the machine's place. All is in ``badger_k2eg.badger_app.replay``."""

from badger_k2eg.badger_app.replay import ReplayInterface


class Interface(ReplayInterface):
    """A recorded run in the machine's place; nothing is ever written."""

    name = "replay"
