"""Where Badger finds our plugins: the folder that holds ``interfaces/`` and ``environments/``.

Owns that one answer and imports nothing of ours. Badger learns the folder from its own configuration file, where it is
called BADGER_PLUGIN_ROOT.
"""

from __future__ import annotations

from pathlib import Path


def plugin_root() -> Path:
    """Find the folder to give to Badger as its plugin root; an absolute path.

    From a wheel it lies inside the package, so that nothing called ``interfaces`` or ``environments`` is ever installed
    at the top level, where another package could use the same name. From a clone (an editable install) it is the clone.

    :raises FileNotFoundError: when neither place holds plugins: the installation is incomplete.
    """
    return _find(Path(__file__).resolve().parent)


def _find(package: Path) -> Path:
    # The copy inside comes first: around an installed package is site-packages, where `interfaces` is a stranger's.
    inside = package / "plugins"
    if (inside / "interfaces").is_dir():
        return inside
    clone = package.parent
    if (clone / "pyproject.toml").is_file() and (clone / "__init__.py").is_file():
        return clone
    raise FileNotFoundError(f"no plugins in {inside}, and {clone} is not a clone of badger-k2eg: install it again")
