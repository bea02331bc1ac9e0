"""Knobs and observables: what is turned, what must hold, what is measured, and when a value counts. Knows no Badger.

What facilities write by hand today: a setpoint with another PV as readback, done when a status clears, time to settle,
approached from one side against hysteresis, bounds from the record. The ``Mover`` sets through Control alone.

An optimizer that is fed with beam data from before its move is wrong in silence. So a value counts only when it was
taken after the move: an update that has arrived since, or a record that has been processed since (its time has changed,
though its value has not: a record posts nothing then). The clocks of host and IOC need not agree for that.
"""

from .conditions import Condition, wait_for
from .knobs import Knob, filled
from .mover import Bounds, Mover
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
    "filled",
    "wait_for",
]
