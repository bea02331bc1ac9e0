"""Procedures: step-by-step tasks on a machine, as plain functions of a ``Control``. Does not know Badger or runs.

A function ``def scan(control, ...)`` is a procedure; ``badger-k2eg procedure MODULE:FUNCTION`` runs it with the record,
the locks and the safe stop of a run.
"""

from .degauss import degauss
from .emittance import Emittance, fit_emittance, quadrupole_scan
from .progress import Step, progress, reported_to
from .scan import ScanResult, scan
from .wait_for_beam import wait_for_beam

__all__ = [
    "Emittance",
    "ScanResult",
    "Step",
    "degauss",
    "fit_emittance",
    "progress",
    "quadrupole_scan",
    "reported_to",
    "scan",
    "wait_for_beam",
]
