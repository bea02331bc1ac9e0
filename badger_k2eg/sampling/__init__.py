"""Observables: what is measured, how often, and when a value counts. Knows no Badger.

An optimizer that is fed with beam data from before its move is wrong in silence. So a value counts only when it was
taken after the move: an update that has arrived since, or a record that has been processed since (its time has changed,
though its value has not: a record posts nothing then). The clocks of host and IOC need not agree for that.
"""

from .declarations import Buffer, Expression, Measurable, Observable, Sample
from .sampler import Sampler
from .skew import Skew

__all__ = ["Buffer", "Expression", "Measurable", "Observable", "Sample", "Sampler", "Skew"]
