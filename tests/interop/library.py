"""The Python that has the client library k2eg: an environment of its own, kept in the user's cache between sessions."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import filelock
import platformdirs
import pytest

# With a newer confluent-kafka this version of the library hangs in every call that adds a topic.
REQUIREMENTS = ["k2eg==0.3.2", "confluent-kafka==2.6.1"]
SECONDS = 300


def library_python() -> Path:
    """Give it; where it cannot be made, the test is skipped with the reason."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    place = platformdirs.user_cache_path("badger-k2eg") / f"{'-'.join(REQUIREMENTS)}-python{version}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{place}.lock", timeout=SECONDS):
        if not (place / "complete").exists():
            _make(place)
    return place / "bin" / "python"


def _make(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    pip = [place / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    try:
        for command in ([sys.executable, "-m", "venv", place], [*pip, *REQUIREMENTS]):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"pip install {' '.join(REQUIREMENTS)} into {place} failed: {error.stderr.strip()[-300:]}")
    except subprocess.TimeoutExpired:
        pytest.skip(f"pip install {' '.join(REQUIREMENTS)} into {place} was not done within {SECONDS} s")
    (place / "complete").touch()
