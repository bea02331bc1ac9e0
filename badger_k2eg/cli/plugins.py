"""``badger-k2eg plugin-root``: where Badger finds our plugins. Imports no Badger."""

from __future__ import annotations

import click

from .. import plugins as place
from .console import say


@click.command("plugin-root")
def plugin_root() -> None:
    """Print the folder to give to Badger as BADGER_PLUGIN_ROOT."""
    try:
        say(place.plugin_root())
    except FileNotFoundError as error:
        raise click.ClickException(str(error)) from None
