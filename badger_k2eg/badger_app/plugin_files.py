"""The files of an environment as Badger loads them, and how a mistake in them is told: one line, with file and line.

Badger itself raises whatever the file raised, in as many ways. ``open_badger`` of ``runner`` comes first.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import ControlError, SettingsError
from ..plugin_root import plugin_root as our_plugin_root


def plugin_names(kind: str, plugin_root: Path | None = None) -> list[str]:
    """List plugins without loading one, or Badger.

    :param kind: ``interfaces`` or ``environments``.
    :param plugin_root: ours by default.
    """
    folder = (plugin_root or our_plugin_root()) / kind
    return sorted(path.parent.name for path in folder.glob("*/configs.yaml"))


def environment_class(name: str) -> tuple[Any, Mapping[str, Any]]:
    """Load an environment of the plugin root.

    :param name: one that ``badger.factory.list_env`` has.
    :returns: its class, and its ``configs.yaml``.
    :raises SettingsError: when its files do not load, or do not fit each other.
    """
    from badger.factory import get_env

    try:
        found, configs = get_env(name)
    except Exception as error:
        # Anything at all: the file is a program of its author's.
        raise SettingsError(f"environment {name}: {_told(error, f'/environments/{name}/')}") from None
    declared = configs.get("interface") or []
    if not isinstance(declared, list):
        # Badger itself would take its first letter.
        raise SettingsError(f"environment {name}: configs.yaml: interface is a list: [{declared}]")
    if configs.get("name") != name:
        raise SettingsError(f"environment {name}: configs.yaml: name is {configs.get('name')!r}, not as the folder")
    return found, configs


def _told(error: Exception, folder: str) -> str:
    if isinstance(error.__context__, ImportError):
        # Badger takes every one of them for a package that is not installed.
        error = error.__context__
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if folder in frame.filename]
    where = f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""
    text = next(iter(str(error).splitlines()), "")
    if isinstance(error, ControlError):
        return where + text.split(": ", 1)[-1] if text.startswith("environment ") else where + text
    if isinstance(error, AttributeError) and text.endswith("has no attribute 'Environment'"):
        return "there is no class Environment in its __init__.py"
    return f"{where}{type(error).__name__}: {text}"
