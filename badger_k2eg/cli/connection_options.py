"""The options by which a command says how PVs are reached, and the control that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from ..backends import ThroughK2eg, Way
from ..control import Control, connect
from ..core import settings
from ..k2eg.environment import default_app_name, default_environment

F = TypeVar("F", bound=Callable[..., Any])

# Above the ten seconds that a gateway itself waits for a PV.
_K2EG_TIMEOUT = 12.0


def reached(command: F) -> F:
    """Add the options ``via``, ``environment``, ``app_name`` and ``timeout``."""
    for option in (
        click.option("--timeout", type=click.FloatRange(min=0.0, min_open=True), help="seconds for one attempt"),
        click.option("--app-name", metavar="NAME", help="with K2EG: replies come on the topic NAME-reply"),
        click.option("--environment", metavar="NAME", help="the K2EG environment (NAME.ini); means --via k2eg"),
        click.option("--via", type=click.Choice(["k2eg"]), help="go through a K2EG gateway, not directly"),
    ):
        command = option(command)
    return command


def chosen_way(via: str | None = None, environment: str | None = None, app_name: str | None = None, **_: Any) -> Way:
    """Tell the way to PVs that the options stand for."""
    if via is not None or environment is not None:
        return ThroughK2eg(environment or default_environment(), app_name or default_app_name())
    if app_name is not None:
        raise click.UsageError("--app-name is for --via k2eg")
    return "pva"


def control_by(options: Mapping[str, Any], **words: Any) -> Control:
    """Make the control that the options stand for; its user closes it, and its backend.

    :param words: options of an interface.
    """
    way = chosen_way(**options)
    defaults = {"timeout": _K2EG_TIMEOUT} if isinstance(way, ThroughK2eg) else None
    given = words if options["timeout"] is None else {**words, "timeout": options["timeout"]}
    return Control(connect(way), settings.load(given, defaults=defaults))
