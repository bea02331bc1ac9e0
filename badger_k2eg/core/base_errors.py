"""The errors about names, units and options that the values of this package raise themselves.

They stand below those values; ``errors`` stands above them, for some errors carry the report of a set. That module has
these too, and draws all of them as one tree: import from there.
"""

from __future__ import annotations

from typing import Any

from .printable import printable


class ControlError(Exception):
    """Base of everything that badger-k2eg raises on purpose."""


class SettingsError(ControlError, ValueError):
    """A wrong option, file or environment variable; the message names it and its source."""


class UnknownUnit(ControlError, ValueError):
    """A unit that somebody asked for by name does not exist; the message says what was meant."""


class PvError(ControlError):
    """What went wrong with one PV.

    :param pv: the PV's name as the caller wrote it.
    :param message: what happened, without the name.
    """

    def __init__(self, pv: str, message: str) -> None:
        """Show as ``PV: message``."""
        super().__init__(printable(f"{pv}: {message}"))
        self.pv = pv
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive a pickle between processes (Badger sends errors through a queue)."""
        return type(self), (self.pv, self.message)


class PvNameError(PvError, ValueError):
    """The text cannot be the name of a PV."""
