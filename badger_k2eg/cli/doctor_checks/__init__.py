"""What ``badger-k2eg doctor`` checks, one module for each part of a setup.

A module here has a function ``check(subject)`` that yields findings, and stands in ``MODULES``. A check changes
nothing, ends within one timeout, and reports what is wrong as a finding: it raises for a mistake in the command only.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from ...badger_app.window_config import read_config
from ...core.errors import SettingsError
from ...plugins import plugin_root as our_plugin_root

#: In the order of the table.
MODULES = ("badger", "host", "machine")
#: Difference of two clocks, in seconds, above which their times cannot be compared.
_APART = 1.0


class Status(StrEnum):
    """The verdict of a finding."""

    GOOD = "good"
    #: Worth knowing; nothing has to be done.
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table.

    :ivar what: what was checked.
    :ivar text: what was found, in one line; for something bad also what to do.
    """

    what: str
    status: Status
    text: str


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be checked.

    :ivar pvs: PVs by name.
    :ivar environment: name of an environment whose PVs are checked too.
    :ivar parameters: of that environment.
    :ivar config: Badger's configuration file; its own place by default.
    """

    pvs: Sequence[str] = ()
    environment: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    config: Path | None = None

    def plugin_root(self) -> Path:
        """Return the folder of the environment; what is wrong with the configuration is told by its own check."""
        try:
            return read_config(self.config).plugin_root
        except SettingsError:
            return our_plugin_root()


def good(what: str, text: str) -> Finding:
    """Return the finding that something is as it should be."""
    return Finding(what, Status.GOOD, text)


def note(what: str, text: str) -> Finding:
    """Return a finding that is worth knowing and needs no action."""
    return Finding(what, Status.NOTE, text)


def bad(what: str, text: str) -> Finding:
    """Return the finding that something is wrong, with what to do."""
    return Finding(what, Status.BAD, text)


def clock(what: str, whose: str, ahead: float) -> Finding:
    """Compare a clock with this host's.

    :param whose: the clock's owner, in words.
    :param ahead: seconds by which it is ahead; the time that its message took makes this a little less.
    """
    if math.isnan(ahead):
        return note(what, f"{whose} gave no time")
    if abs(ahead) < _APART:
        return good(what, f"{whose} has the time of this host, within {abs(ahead):.3f} s")
    words = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this host"
    return bad(what, f"{whose} is {words}: times on record cannot be compared; set the clocks by NTP")


def is_writable(folder: Path) -> bool:
    """Return whether files can be created in a folder, or the folder itself."""
    folder = standing(folder)
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def standing(path: Path) -> Path:
    """Return a path, or the nearest folder above it that exists."""
    while not path.exists():
        path = path.parent
    return path


def look(subject: Subject) -> Iterator[Finding]:
    """Check everything, one part after the other.

    :raises SettingsError: for a mistake in what was asked for.
    """
    for name in MODULES:
        module = importlib.import_module(f".{name}", __name__)
        yield from module.check(subject)
