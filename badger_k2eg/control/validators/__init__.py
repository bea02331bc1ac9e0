"""Did the machine arrive? Validators, the shipped ones, and the watch that drives those by updates.

Imports backend and below.
"""

from .validators import AllOf, Reaches, Validator, Within, adapt, all_of, name_of, reaches, wait_for_readback, within
from .watch import Aim, Watch

__all__ = [
    "Aim",
    "AllOf",
    "Reaches",
    "Validator",
    "Watch",
    "Within",
    "adapt",
    "all_of",
    "name_of",
    "reaches",
    "wait_for_readback",
    "within",
]
