"""The configuration of Badger's window: found, or written where there is none; an existing one is never changed.

Badger reads it from ``~/.config/config.yaml`` (on Linux; not even a folder of its own) or from the file of ``-cf``; it
asks questions where there is none, and does not read a plugin root from the environment (measured on 1.6). Imports no
Badger.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..core.errors import SettingsError
from ..plugins import plugin_root as our_plugin_root
from .session import ROOTS, plugin_names

PLUGIN_ROOT = "BADGER_PLUGIN_ROOT"


@dataclass(frozen=True, slots=True)
class WindowConfig:
    """What Badger's window will find.

    :ivar file: the configuration file; it need not exist.
    :ivar exists: whether it does.
    :ivar folders: what it says of each folder, or what will be written: the plugin root and those of ``runner.ROOTS``.
    """

    file: Path
    exists: bool
    folders: dict[str, Path]

    @property
    def plugin_root(self) -> Path:
        """Where Badger looks for plugins."""
        return self.folders[PLUGIN_ROOT]

    def content(self) -> str:
        """Give the text of a file that says this."""
        text: str = yaml.safe_dump({name: str(folder) for name, folder in self.folders.items()})
        return text


def default_file() -> Path:
    """Give the place where Badger itself looks for its configuration."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "Badger" / "config.yaml"
    return Path.home() / ".config" / "config.yaml"


def read_config(file: Path | None = None, new_root: Path | None = None) -> WindowConfig:
    """Read a configuration; where there is none, tell what will be written.

    :param file: Badger's own place by default.
    :param new_root: the plugin root of one that is to be written; ours by default. Its other folders are Badger's own.
    :raises SettingsError: for one that Badger could not use, in one line.
    """
    place = (file or default_file()).expanduser().resolve()
    if not place.exists():
        data = _data_folder()
        root = our_plugin_root() if new_root is None else new_root.resolve()
        folders = {PLUGIN_ROOT: root} | {name: data / folder for name, folder in ROOTS.items()}
        return WindowConfig(place, False, folders)
    try:
        content = yaml.safe_load(place.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{place} is no configuration of Badger: {str(error).splitlines()[0]}") from None
    if not isinstance(content, Mapping):
        raise SettingsError(f"{place} is no configuration of Badger: it has no settings; remove it, or say --config")
    folders = {}
    for name in (PLUGIN_ROOT, *ROOTS):
        value = _value(content, name)
        if value is None and name == "BADGER_LOG_DIRECTORY":
            # The only one that Badger has a default for.
            value = "logs"
        if not isinstance(value, str) or not value:
            raise SettingsError(f"{place}: {name} is not set; Badger's window would ask for it at the terminal")
        folders[name] = Path(value).expanduser()
    return WindowConfig(place, True, folders)


def with_plugin_root(config: WindowConfig, root: Path, folder: Path) -> WindowConfig:
    """Make a configuration for one session that differs in the plugin root alone.

    :param folder: where it is written.
    """
    content: dict[str, Any] = {}
    if config.exists:
        content = yaml.safe_load(config.file.read_text(encoding="utf-8"))
    folders = config.folders | {PLUGIN_ROOT: root.resolve()}
    content |= {name: str(place) for name, place in folders.items()}
    session = WindowConfig(folder / "badger.yaml", True, folders)
    session.file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return session


def write_config(config: WindowConfig) -> None:
    """Write a configuration where there is none, and make its folders.

    :raises OSError: also when a file has come there meanwhile: it is not touched.
    """
    config.file.parent.mkdir(parents=True, exist_ok=True)
    for name in ROOTS:
        config.folders[name].mkdir(parents=True, exist_ok=True)
    with config.file.open("x", encoding="utf-8") as file:
        file.write(config.content())


def plugin_problem(root: Path) -> str | None:
    """Say in one line why our plugins cannot be used from a plugin root; None where they can."""
    if not root.is_dir():
        return f"the plugin root {root} is not there"
    ours = plugin_names("interfaces")
    if not any((root / "interfaces" / name / "__init__.py").is_file() for name in ours):
        return f"the plugin root {root} has none of the interfaces of badger-k2eg ({', '.join(ours)})"
    if not plugin_names("environments", root):
        return f"the plugin root {root} has no environments"
    if not (root / "__init__.py").is_file() and not os.access(root, os.W_OK):
        return f"the plugin root {root} has no __init__.py, and Badger cannot write one there"
    return None


def _value(content: Mapping[str, Any], name: str) -> Any:
    # Badger writes each setting with its description, and reads a plain value too.
    setting = content.get(name)
    return setting.get("value") if isinstance(setting, Mapping) else setting


def _data_folder() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "Badger"
    return Path.home() / ".local" / "share" / "Badger"
