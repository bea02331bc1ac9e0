"""A run: baseline, locks, guards, record, its one end with a reason, and the restore. Independent of Badger.

::

    from badger_k2eg import run

    with run.running({"what": "a scan by hand"}):   # or nothing at all: the first set begins one
        control.set({"QUAD:1:BCTRL": 1.2})
"""

from __future__ import annotations

from .gate import Attachment, Guards
from .process import begin, current, declare, end, inside, running, stop
from .run import Reason, Run
from .settings import RunSettings

__all__ = [
    "Attachment",
    "Guards",
    "Reason",
    "Run",
    "RunSettings",
    "begin",
    "current",
    "declare",
    "end",
    "inside",
    "running",
    "stop",
]
