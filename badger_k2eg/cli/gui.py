"""``badger-k2eg gui``: Badger's own window on our plugins.

Owns the options and what is looked at beforehand; the window is ``badger_app.gui``. Each thing that is missing ends in
one line before Badger is loaded.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import click

from ..core.errors import ControlError, MissingExtra, SettingsError
from . import doctor_checks
from .console import say
from .doctor_checks import badger as badger_check


@click.command()
@click.option(
    "--plugin-root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="where interfaces/ and environments/ are, for this session; by default what the configuration says",
)
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Badger's configuration file; by default Badger's own place. Written where there is none, never changed",
)
def gui(plugin_root: Path | None, config: Path | None) -> int:
    """Open Badger's window on our plugins, so that runs start, stop and start again.

    The window is Badger's own. Where Badger has no configuration yet, one is written: our plugins, and Badger's usual
    folders. An existing one is used as it is. Exit code: 0 closed, 1 no window can be opened, 2 a mistake.
    """
    from ..badger_app import qt_check as display
    from ..badger_app import window_config

    if importlib.util.find_spec("badger") is None:
        raise MissingExtra("Badger's window", "badger")
    for finding in badger_check.check(doctor_checks.Subject()):
        if finding.status == doctor_checks.Status.BAD:
            say(f"warning: {finding.what} {finding.text}", err=True)
    found = window_config.read_config(config, plugin_root)
    root = found.plugin_root if plugin_root is None else plugin_root.resolve()
    if problem := window_config.plugin_problem(root):
        hint = f"; {found.file} says so, --plugin-root names another for one session" if plugin_root is None else ""
        raise SettingsError(problem + hint)
    if problem := display.qt_problem() or display.display_problem():
        raise ControlError(problem)
    if not found.exists:
        window_config.write_config(found)
        say(f"wrote Badger's configuration: {found.file}")
    from ..badger_app.gui import open_window

    if root == found.plugin_root:
        return open_window(found)
    with tempfile.TemporaryDirectory(prefix="badger-k2eg-gui-") as folder:
        return open_window(window_config.with_plugin_root(found, root, Path(folder)))
