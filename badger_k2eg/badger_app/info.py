"""What Badger's window shows of a PV by right-click > Info: texts alone, or it fails. No I/O; imports model, errors."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np

from ..core.backend import Update
from ..core.errors import ControlError, PvInvalid
from ..core.model import Limits, Reading


def describe_all(updates: Mapping[str, Update]) -> dict[str, dict[str, str]]:
    """Describe each PV in a few texts."""
    return {name: describe(update) for name, update in updates.items()}


def describe(update: Reading | ControlError) -> dict[str, str]:
    """Describe one PV in a few texts, or say why nothing is known of it."""
    if isinstance(update, Reading):
        return {
            "connected": "yes",
            "value": _value(update),
            "units": update.units or "none",
            "limits": _limits(update.limits),
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


def _limits(limits: Limits) -> str:
    return str(limits) if limits else "none"


def _alarm(reading: Reading) -> str:
    name = reading.severity.name.replace("_", " ").lower()
    return f"{name} ({reading.message})" if reading.message else name


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return datetime.fromtimestamp(seconds, UTC).astimezone().isoformat(sep=" ", timespec="milliseconds")
