"""Options of an interface as its fields: those of every interface, and those that a kind of interface has besides.

Owns how an option is shown, checked and simplified, and the one warning about a wrong one. Imports settings; touches
no PV, and reads no file but at the word of its caller.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pydantic import Field, ValidationError

from ..core.errors import SettingsError
from ..core.settings import Options, Settings, parse

logger = logging.getLogger("badger_k2eg")

_warned: set[str] = set()


def option(name: str) -> Any:
    """Show an option as a field: its effective default, and its one description."""
    default = Settings.model_fields[name].default
    # In force, a restriction is a list of what every source says; as an option it is there or it is not.
    absent = name in ("allow", "limits", "max_step", "put_tolerance")
    return Field(None if absent else default, description=Options.model_fields[name].description)


def normalised(options: Mapping[str, Any], besides: Collection[str] = ()) -> dict[str, Any]:
    """Check options, and bring them into the simple types that the fields have; None says nothing.

    :param besides: the options that this kind of interface alone has; one may be meant by a misspelt word.
    :raises SettingsError: for the first unknown option or wrong value, in one line.
    """
    given = {name: value for name, value in options.items() if value is not None or name not in Options.model_fields}
    parsed = parse(given, lambda name: f"option {name}", besides)
    values = {name: getattr(parsed, name) for name in given}
    if "limits" in values:
        values["limits"] = {pattern: (limits.low, limits.high) for pattern, limits in values["limits"].items()}
    return values


def warn_of(read: Callable[[], object]) -> None:
    """Say once what is wrong with the options of a source: while listing it must not be an error."""
    try:
        read()
    except SettingsError as error:
        if (text := str(error)) not in _warned:
            _warned.add(text)
            logger.warning("%s", text)


def first_line(error: ValidationError) -> str:
    """Tell a pydantic error in one line: the name, and what is wrong with its value."""
    first = error.errors()[0]
    return ": ".join([*map(str, first["loc"]), str(first["msg"]).removeprefix("Value error, ")])
