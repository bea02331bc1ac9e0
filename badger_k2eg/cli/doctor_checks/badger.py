"""Badger's part of a setup: its version, the toolkit of its window, and its configuration."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata

from ...badger_app.plugin_files import plugin_names
from ...badger_app.qt_check import display_problem, qt_problem
from ...badger_app.window_config import plugin_problem, read_config
from ...core.errors import SettingsError
from . import Finding, Subject, bad, good, is_writable, note

#: The versions of Badger that badger-k2eg is tested with: from the first, up to but not including the second. The same
#: pin stands in pyproject.toml; a test compares them.
TESTED = ("1.6", "1.7")

_ARCHIVE = "BADGER_ARCHIVE_ROOT"


def check(subject: Subject) -> Iterator[Finding]:
    """Check Badger, its window and its configuration."""
    yield version()
    yield from window()
    yield from configuration(subject)


def version() -> Finding:
    """Check that Badger is installed, in a version that is tested."""
    try:
        installed = metadata.version("badger-opt")
    except metadata.PackageNotFoundError:
        return bad("Badger", "is not installed: pip install 'badger-k2eg[badger]'")
    lower, upper = TESTED
    if _numbers(lower) <= _numbers(installed) < _numbers(upper):
        return good("Badger", f"{installed}; tested with {lower} up to, not including, {upper}")
    return bad("Badger", f"{installed} was not tested with badger-k2eg: pip install 'badger-opt>={lower},<{upper}'")


def window() -> Iterator[Finding]:
    """Check that Badger's window toolkit loads, and that there is a display for the window."""
    if problem := qt_problem():
        # Badger itself loads Qt, also where it opens no window.
        yield bad("Qt", problem)
        return
    yield good("Qt", "loads")
    problem = display_problem()
    yield note("display", problem) if problem else good("display", "a window can be opened")


def configuration(subject: Subject) -> Iterator[Finding]:
    """Check Badger's configuration file and the folders that it names."""
    try:
        config = read_config(subject.config)
    except (SettingsError, OSError) as error:
        yield bad("configuration", str(error))
        return
    if config.exists:
        yield good("configuration", str(config.file))
    else:
        yield note("configuration", f"none yet; badger-k2eg gui writes {config.file}")
    if problem := plugin_problem(config.plugin_root):
        yield bad("plugin root", f"{problem}; badger-k2eg plugin-root names one")
    else:
        yield good("plugin root", str(config.plugin_root))
        for kind in ("interfaces", "environments"):
            yield good(kind, ", ".join(plugin_names(kind, config.plugin_root)))
    archive = config.folders[_ARCHIVE]
    if not is_writable(archive):
        yield bad("archive", f"runs cannot be archived: {archive} cannot be written; see {_ARCHIVE} in {config.file}")
    elif not archive.is_dir():
        yield note("archive", f"{archive} does not exist yet; it can be created")
    else:
        yield good("archive", str(archive))


def _numbers(text: str) -> tuple[int, ...]:
    parts = (part for part in text.split(".")[:2])
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in parts)
