"""Knobs, conditions and observables: what is moved, what must hold, and what is measured. Does not know Badger.

A knob is a setpoint with, for example, another PV as readback, a status PV that clears when it is done, a time to
settle, an approach from one side against hysteresis, and bounds from its record. The ``Mover`` sets through Control
alone.

An optimizer that gets beam data from before its move is silently wrong. So a value counts only if it was taken after
the move: an update that has arrived since, or a record that has been processed since (its time has changed, though its
value has not: a record posts nothing then). The clocks of host and IOC need not agree for that.
"""

from .conditions import Condition, wait_for
from .knobs import Knob, filled
from .mover import Bounds, Mover, Write
from .observables import Buffer, Expression, Measurable, Observable, Sample
from .sampler import Sampler
from .skew import Skew

__all__ = [
    "Bounds",
    "Buffer",
    "Condition",
    "Expression",
    "Knob",
    "Measurable",
    "Mover",
    "Observable",
    "Sample",
    "Sampler",
    "Skew",
    "Write",
    "filled",
    "wait_for",
]
