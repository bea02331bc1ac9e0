"""Routine files as texts: what Badger's window saves, or a few lines written by hand.

Owns the reading of one, and how a mistake in it is told: one line that names the file and the key. Imports no Badger
and asks no machine; ``routine_loading`` makes the routine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..core.errors import ControlError, SettingsError
from ..core.suggestions import close_to

#: Keys that are needed, or may stand beside them; none of them is a misspelt other one.
_KEYS = {"environment", "generator", "vocs", "interface"}


@dataclass(slots=True)
class RoutineFile:
    """A routine file, read but not yet understood.

    :ivar path: named in every complaint.
    :ivar content: the whole of it, taken apart in making the routine.
    """

    path: Path
    content: dict[str, Any]

    def wrong(self, key: str, what: object) -> SettingsError:
        """Make the one line about a key."""
        return SettingsError(f"{self.path}: {key}: {what}")

    def mapping(self, holder: dict[str, Any], key: str, where: str) -> dict[str, Any]:
        """Take a part that holds keys itself; an absent one is empty."""
        part = holder.pop(key, None)
        if not isinstance(part, Mapping | None):
            raise self.wrong(where, f"this is {part!r}, where names with values are expected")
        return {str(name): value for name, value in (part or {}).items()}

    @contextmanager
    def complaints(self, key: str) -> Iterator[None]:
        """Say in one line what pydantic, Xopt or Badger find wrong with a key."""
        try:
            yield
        except ValidationError as error:
            first = error.errors()[0]
            place = ": ".join([key, *(str(part) for part in first["loc"])])
            raise self.wrong(place, _plain(first["msg"])) from None
        except SettingsError as error:
            text = str(error)
            raise (error if text.startswith(f"{self.path}: ") else SettingsError(f"{self.path}: {text}")) from None
        except (ControlError, OSError):
            # Of the machine, which may be asked here: not the file's fault.
            raise
        except Exception as error:
            # Anything at all: options of generators are checked in as many ways as there are generators.
            raise self.wrong(key, _plain(str(error)) or type(error).__name__) from None


def read_routine_file(path: Path) -> RoutineFile:
    """Read a routine file; needs no Badger, and asks no machine.

    :raises SettingsError: one line, where it is no routine file or was made for nothing that is here.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise SettingsError(f"{path}: not a YAML file: {getattr(error, 'problem', None) or error}{where}") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: not a routine file: it holds no names with values")
    file = RoutineFile(path, {str(key): value for key, value in content.items()})
    for key in ("environment", "generator"):
        if not file.content.get(key):
            if misspelt := close_to(key, file.content.keys() - _KEYS):
                raise file.wrong(misspelt, f"no such key; did you mean {key!r}?")
            raise file.wrong(key, "missing")
    return file


def _plain(message: str) -> str:
    lines = message.strip().removeprefix("Value error, ").splitlines()
    return lines[0] if lines else ""


def check_range(file: RoutineFile, key: str, domain: list[Any]) -> None:
    """Refuse what is no range.

    :raises SettingsError: naming the key.
    """
    try:
        low, high = map(float, domain)
    except (TypeError, ValueError):
        raise file.wrong(key, f"a range is two numbers, not {domain!r}") from None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise file.wrong(key, f"a range is two finite numbers, not {domain!r}")
    if low > high:
        raise file.wrong(key, f"bounds reversed: {low:g} is above {high:g}")
    if low == high:
        raise file.wrong(key, f"nothing lies between {low:g} and {high:g}")
