"""What ``badger-k2eg doctor`` looks at: one small module for each part of a setup.

A module here has a function ``check(subject)`` that yields findings, and stands in ``MODULES``. It touches nothing but
what it looks at, ends within one timeout, and turns what it finds wrong into findings: an exception is for a mistake in
the command alone.
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
MODULES = ("badger", "window", "config", "settings", "journal", "locks", "k2eg", "pvs")
#: Seconds between two clocks from which on times cannot be compared.
_APART = 1.0


class Status(StrEnum):
    """What a finding says of the setup."""

    GOOD = "good"
    #: Worth knowing; nothing has to be done.
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table.

    :ivar what: what was looked at.
    :ivar text: what was found, in one line; of something bad also what to do.
    """

    what: str
    status: Status
    text: str


@dataclass(frozen=True, slots=True)
class Subject:
    """What to look at.

    :ivar pvs: PVs by name.
    :ivar environment: whose PVs are looked at besides.
    :ivar parameters: of that environment.
    :ivar config: Badger's configuration file; its own place by default.
    """

    pvs: Sequence[str] = ()
    environment: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    config: Path | None = None

    def plugin_root(self) -> Path:
        """Find where the environment is; of a configuration that cannot be read the check of it tells."""
        try:
            return read_config(self.config).plugin_root
        except SettingsError:
            return our_plugin_root()


def good(what: str, text: str) -> Finding:
    """Say that something is as it should be."""
    return Finding(what, Status.GOOD, text)


def note(what: str, text: str) -> Finding:
    """Say what is worth knowing."""
    return Finding(what, Status.NOTE, text)


def bad(what: str, text: str) -> Finding:
    """Say what is wrong, and what to do."""
    return Finding(what, Status.BAD, text)


def clock(what: str, whose: str, ahead: float) -> Finding:
    """Compare a clock with this host's.

    :param whose: in words.
    :param ahead: seconds; what came on the way here makes it a little less.
    """
    if math.isnan(ahead):
        return note(what, f"{whose} told no time")
    if abs(ahead) < _APART:
        return good(what, f"{whose} has the time of this host, within {abs(ahead):.3f} s")
    words = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this host"
    return bad(what, f"{whose} is {words}: times on record cannot be compared; set the clocks by NTP")


def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder, or the folder itself."""
    folder = standing(folder)
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def standing(path: Path) -> Path:
    """Give a path, or the nearest folder above that is there."""
    while not path.exists():
        path = path.parent
    return path


def look(subject: Subject) -> Iterator[Finding]:
    """Look at everything, one part after the other.

    :raises SettingsError: for a mistake in what was asked for.
    """
    for name in MODULES:
        module = importlib.import_module(f".{name}", __name__)
        yield from module.check(subject)
