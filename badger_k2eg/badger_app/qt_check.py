"""Whether Qt can be loaded and finds a display here, and which Debian package is missing if not.

Owns the list of system libraries that Badger's Qt needs. Tries in a process of its own: a Qt that finds no display ends
its process. Imports no Badger, and Qt in that process only.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

#: System libraries that ``import badger`` needs, and their Debian packages. The Makefile names the same ones: it needs
#: them before there is a Python.
QT_LIBRARIES = {
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libfontconfig.so.1": "libfontconfig1",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libdbus-1.so.3": "libdbus-1-3",
}
#: What a real window needs as well.
WINDOW_LIBRARIES = {
    "libX11-xcb.so.1": "libx11-xcb1",
    "libxkbcommon-x11.so.0": "libxkbcommon-x11-0",
    "libxcb-icccm.so.4": "libxcb-icccm4",
    "libxcb-image.so.0": "libxcb-image0",
    "libxcb-keysyms.so.1": "libxcb-keysyms1",
    "libxcb-randr.so.0": "libxcb-randr0",
    "libxcb-render-util.so.0": "libxcb-render-util0",
    "libxcb-shape.so.0": "libxcb-shape0",
    "libxcb-xinerama.so.0": "libxcb-xinerama0",
    "libxcb-xkb.so.1": "libxcb-xkb1",
}

_ASK = {
    "libraries": "import PyQt5.QtWidgets",
    "window": "from PyQt5.QtWidgets import QApplication; application = QApplication([])",
}
_PATIENCE = 30.0


def qt_problem() -> str | None:
    """Return in one line why Qt cannot be loaded here; None if it can."""
    if (said := _ask("libraries")) is None:
        return None
    return _missing(QT_LIBRARIES) or f"Badger's window toolkit Qt cannot be loaded: {said}"


def display_problem() -> str | None:
    """Return in one line why no window can be opened here; None if one can. ``qt_problem`` comes first."""
    has_choice = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"))
    if sys.platform.startswith("linux") and not has_choice:
        return "there is no display: DISPLAY is not set (over ssh: ssh -X; without a window: badger-k2eg run)"
    if (said := _ask("window")) is None:
        return None
    if missing := _missing(QT_LIBRARIES | WINDOW_LIBRARIES):
        return missing
    where = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or "here"
    return f"no window can be opened on the display {where}: {said}"


def _ask(what: str) -> str | None:
    """Try in another process; return its message if it fails."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ASK[what]],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=_PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {_PATIENCE:g} s"
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"it ended with code {done.returncode}"]
    # A traceback says what was wrong in its last line, Qt itself in its first.
    return lines[-1 if lines[0].startswith("Traceback") else 0]


def _missing(libraries: dict[str, str]) -> str | None:
    packages = [package for library, package in libraries.items() if not _loads(library)]
    if not packages:
        return None
    needs = "Badger's window toolkit Qt needs system libraries that are missing"
    return f"{needs}; on Debian: apt install {' '.join(packages)}"


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
