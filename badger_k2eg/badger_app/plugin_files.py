"""The plugins of a plugin root; a mistake in the files of one is reported in one line, with file and line.

Badger itself raises whatever the file raised. ``session.open_badger`` comes first, except for ``plugin_names``.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import ControlError, SettingsError
from ..plugins import plugin_root as our_plugin_root


def plugin_names(kind: str, plugin_root: Path | None = None) -> list[str]:
    """List plugins without loading one, or Badger.

    :param kind: ``interfaces`` or ``environments``.
    :param plugin_root: ours by default.
    """
    folder = (plugin_root or our_plugin_root()) / kind
    return sorted(path.parent.name for path in folder.glob("*/configs.yaml"))


def environment_class(name: str) -> tuple[Any, Mapping[str, Any]]:
    """Load an environment of the plugin root.

    :param name: one of ``badger.factory.list_env``.
    :returns: its class, and its ``configs.yaml``.
    :raises SettingsError: when its files cannot be loaded, or contradict each other.
    """
    from badger.factory import get_env

    try:
        found, configs = get_env(name)
    except Exception as error:
        # Any exception: the file is its author's program.
        raise SettingsError(f"environment {name}: {_described(error, f'/environments/{name}/')}") from None
    declared = configs.get("interface") or []
    if not isinstance(declared, list):
        # Badger itself would take its first letter.
        raise SettingsError(f"environment {name}: configs.yaml: interface must be a list: [{declared}]")
    if configs.get("name") != name:
        raise SettingsError(f"environment {name}: configs.yaml: name is {configs.get('name')!r}, not the folder's")
    return found, configs


def _described(error: Exception, folder: str) -> str:
    """Describe in one line what went wrong in a folder."""
    if isinstance(error.__context__, ImportError):
        # Badger takes every ImportError for a package that is not installed.
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
