"""What is shown of an interface: its options as fields, and its PVs as texts for Badger's window. Touches no PV.

Owns how an option is described, checked and simplified, and the one warning about a wrong one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
from pydantic import Field, ValidationError

from ..core.errors import ControlError, PvInvalid, SettingsError
from ..core.model import Reading
from ..core.settings import Options, Settings, parse

logger = logging.getLogger("badger_k2eg")

_warned: set[str] = set()


def option(name: str) -> Any:
    """Return an option as a field, with its effective default and its one description."""
    default = Settings.model_fields[name].default
    # In force, a restriction is a list of what every source says; as an option it is there or it is not.
    absent = name in ("allow", "limits", "max_step", "put_tolerance")
    return Field(None if absent else default, description=Options.model_fields[name].description)


def normalised(options: Mapping[str, Any], besides: Collection[str] = ()) -> dict[str, Any]:
    """Check options, and convert them into the simple types of the fields; None is left out.

    :param besides: the options that only this kind of interface has; suggested too for a misspelt name.
    :raises SettingsError: for the first unknown option or wrong value, in one line.
    """
    given = {name: value for name, value in options.items() if value is not None or name not in Options.model_fields}
    parsed = parse(given, lambda name: f"option {name}", besides)
    values = {name: getattr(parsed, name) for name in given}
    if "limits" in values:
        values["limits"] = {pattern: (limits.low, limits.high) for pattern, limits in values["limits"].items()}
    return values


def warn_of(read: Callable[[], object]) -> None:
    """Warn once of a wrong option in a source: while plugins are listed it must not be an error."""
    try:
        read()
    except SettingsError as error:
        if (text := str(error)) not in _warned:
            _warned.add(text)
            logger.warning("%s", text)


def first_line(error: ValidationError) -> str:
    """Return a pydantic error in one line: the name, and what is wrong with its value."""
    first = error.errors()[0]
    return ": ".join([*map(str, first["loc"]), str(first["msg"]).removeprefix("Value error, ")])


# -- a PV, for right-click > Info of Badger's window, which shows texts only -------------------------------------------


def describe(update: Reading | ControlError) -> dict[str, str]:
    """Describe a PV in a few texts, or why nothing is known of it."""
    if isinstance(update, Reading):
        return {
            "connected": "yes",
            "value": _value(update),
            "units": update.units or "none",
            "limits": str(update.limits) if update.limits else "none",
            "alarm": _alarm(update),
            "time": _time(update.timestamp),
        }
    connected = "yes" if isinstance(update, PvInvalid) else "no"
    return {"connected": connected, "value": "unknown", "units": "", "limits": "", "alarm": str(update), "time": ""}


def _value(reading: Reading) -> str:
    value = reading.value
    if reading.label is not None:
        return f"{reading.label} ({value})"
    if isinstance(value, np.ndarray):
        return f"{value.size} elements of {reading.type}"
    if isinstance(value, Mapping):
        return f"table with columns {', '.join(map(str, value))}"
    if isinstance(value, float) and reading.precision:
        return f"{value:.{reading.precision}f}"
    return str(value)


def _alarm(reading: Reading) -> str:
    name = reading.severity.name.replace("_", " ").lower()
    return f"{name} ({reading.message})" if reading.message else name


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return datetime.fromtimestamp(seconds, UTC).astimezone().isoformat(sep=" ", timespec="milliseconds")
