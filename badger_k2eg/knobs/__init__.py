"""Knobs and conditions: declarations of what is turned and what must hold, and the ``Mover`` that turns.

What facilities write by hand today: a setpoint with another PV as readback, done when a status clears, time to settle,
approached from one side against hysteresis, bounds from the record. Knows no Badger; sets through Control alone.
"""

from .conditions import Condition, wait_for
from .declarations import Knob, filled
from .mover import Bounds, Mover, Write

__all__ = ["Bounds", "Condition", "Knob", "Mover", "Write", "filled", "wait_for"]
