"""``badger-k2eg gui``, ``plugin-root``: Badger's own window on our plugins, and the folder that has them.

The window is ``badger_app.gui``. Whatever is missing is told in one line before Badger is loaded.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import click

from .. import plugins as place
from ..core.errors import ControlError, MissingExtra, SettingsError
from .console import say


@click.command()
@click.option(
    "--plugin-root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="folder of interfaces/ and environments/ for this session; by default the configuration's",
)
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Badger's configuration file; by default Badger's own. Written if there is none, never changed",
)
def gui(plugin_root: Path | None, config: Path | None) -> int:
    """Open Badger's window with the plugins of badger-k2eg, so that runs start, stop and start again.

    If Badger has no configuration yet, one is written, with these plugins and Badger's usual folders; an existing one
    is used as it is. Exit code: 0 closed, 1 no window can be opened, 2 a mistake.
    """
    from ..badger_app import qt_check, window_config
    from .doctor_checks import Status
    from .doctor_checks import badger as badger_check

    if importlib.util.find_spec("badger") is None:
        raise MissingExtra("Badger's window", "badger")
    if (finding := badger_check.version()).status == Status.BAD:
        say(f"warning: {finding.what} {finding.text}", err=True)
    found = window_config.read_config(config, plugin_root)
    root = found.plugin_root if plugin_root is None else plugin_root.resolve()
    if problem := window_config.plugin_problem(root):
        hint = f"; {found.file} says so, --plugin-root names another for one session" if plugin_root is None else ""
        raise SettingsError(problem + hint)
    if problem := qt_check.qt_problem() or qt_check.display_problem():
        raise ControlError(problem)
    if not found.exists:
        window_config.write_config(found)
        say(f"wrote Badger's configuration: {found.file}")
    from ..badger_app.gui import open_window

    if root == found.plugin_root:
        return open_window(found)
    with tempfile.TemporaryDirectory(prefix="badger-k2eg-gui-") as folder:
        return open_window(window_config.with_plugin_root(found, root, Path(folder)))


@click.command("plugin-root")
def plugin_root() -> None:
    """Print the folder to give to Badger as BADGER_PLUGIN_ROOT."""
    try:
        say(place.plugin_root())
    except FileNotFoundError as error:
        raise click.ClickException(str(error)) from None
