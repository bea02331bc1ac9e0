"""Options that several commands share: how PVs are reached (``--via``), and assignments (``--set NAME=VALUE``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from ..backends import ThroughK2eg, Way
from ..control import Control, connect
from ..core import settings
from ..k2eg.environment import default_app_name, default_environment

F = TypeVar("F", bound=Callable[..., Any])

# Longer than the ten seconds that a gateway itself waits for a PV.
_K2EG_TIMEOUT = 12.0


def reached(command: F) -> F:
    """Add the options ``via``, ``environment``, ``app_name`` and ``timeout``."""
    for option in (
        click.option(
            "--timeout", type=click.FloatRange(min=0.0, min_open=True), help="seconds that one attempt may take"
        ),
        click.option("--app-name", metavar="NAME", help="with K2EG: replies arrive on the topic NAME-reply"),
        click.option("--environment", metavar="NAME", help="the K2EG environment (NAME.ini); implies --via k2eg"),
        click.option("--via", type=click.Choice(["k2eg"]), help="reach PVs through a K2EG gateway, not directly"),
    ):
        command = option(command)
    return command


def chosen_way(via: str | None = None, environment: str | None = None, app_name: str | None = None, **_: Any) -> Way:
    """Return the way to PVs that the options ask for."""
    if via is not None or environment is not None:
        return ThroughK2eg(environment or default_environment(), app_name or default_app_name())
    if app_name is not None:
        raise click.UsageError("--app-name needs --via k2eg")
    return "pva"


def control_by(options: Mapping[str, Any], **words: Any) -> Control:
    """Return a control over the way that the options ask for; the caller closes it, and its backend.

    :param words: options of an interface.
    """
    way = chosen_way(**options)
    defaults = {"timeout": _K2EG_TIMEOUT} if isinstance(way, ThroughK2eg) else None
    given = words if options["timeout"] is None else {**words, "timeout": options["timeout"]}
    return Control(connect(way), settings.load(given, defaults=defaults))


def assignments(context: click.Context, parameter: click.Parameter, words: Sequence[str]) -> dict[str, str]:
    """Parse the words of an option that may be repeated.

    :raises click.BadParameter: for a word that is not NAME=VALUE.
    """
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise click.BadParameter(f"{word!r} is not NAME=VALUE", context, parameter)
        pairs[name.strip()] = value.strip()
    return pairs
