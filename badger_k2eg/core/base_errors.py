"""The errors that names, units and options raise.

They are below the values of this package; ``errors`` is above, because some errors carry the report of a set. That
module has these too, and shows all of them as one tree: import from there, unless you are below it.
"""

from __future__ import annotations

from typing import Any

from .printable import printable


class ControlError(Exception):
    """Base of everything that badger-k2eg raises on purpose."""


class SettingsError(ControlError, ValueError):
    """A wrong option, file or environment variable; the message names it and its source."""


class UnknownUnit(ControlError, ValueError):
    """A unit that was asked for by name does not exist; the message suggests the closest."""


class PvError(ControlError):
    """A failure of one PV.

    :param pv: the PV's name as the caller wrote it.
    :param message: what happened, without the name.
    """

    def __init__(self, pv: str, message: str) -> None:
        """Compose ``PV: message``."""
        super().__init__(printable(f"{pv}: {message}"))
        self.pv = pv
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling: Badger sends errors through a queue between processes."""
        return type(self), (self.pv, self.message)


class PvNameError(PvError, ValueError):
    """The text cannot be the name of a PV."""
