"""The only path to a put, and every read: guard, put and retry, validate, record, report.

``Control`` is for everybody above: Badger's interfaces, the command line, procedures, the gateway. It knows no Badger.
``Reader`` is its half that cannot set.
"""

from ..backends.router import connect
from .control import Control
from .procedure_calls import SynchronousCalls
from .reader import Reader

__all__ = ["Control", "Reader", "SynchronousCalls", "connect"]
