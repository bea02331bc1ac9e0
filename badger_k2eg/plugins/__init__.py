"""Badger's plugin root: the folder that holds ``interfaces/`` and ``environments/``, and where it is.

In an installed package it is this folder: a wheel puts both next to this file. In a clone it is the clone itself, and
this folder holds nothing else. Badger reads the path from its own configuration, as BADGER_PLUGIN_ROOT.
"""

from __future__ import annotations

from pathlib import Path


def plugin_root() -> Path:
    """Return the absolute path of the folder to give to Badger as its plugin root.

    A wheel keeps it inside the package, so that nothing called ``interfaces`` or ``environments`` is installed at the
    top level, where another package could use the same name. For a clone (an editable install) it is the clone.

    :raises FileNotFoundError: if neither place holds plugins: the installation is incomplete.
    """
    return _find(Path(__file__).resolve().parents[1])


def _find(package: Path) -> Path:
    # The copy inside comes first: the folder around an installed package is site-packages, where a folder called
    # `interfaces` belongs to another package.
    inside = package / "plugins"
    if (inside / "interfaces").is_dir():
        return inside
    clone = package.parent
    if (clone / "pyproject.toml").is_file() and (clone / "__init__.py").is_file():
        return clone
    raise FileNotFoundError(f"no plugins in {inside}, and {clone} is not a clone of badger-k2eg: install it again")
