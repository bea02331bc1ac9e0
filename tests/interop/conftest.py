"""The client library k2eg in an environment of its own, kept in the user's cache between sessions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import platformdirs
import pytest

from badger_k2eg.testing.broker import Broker
from badger_k2eg.testing.gateway import GatewayProcess

# With a newer confluent-kafka this version of the library hangs in every call that adds a topic.
REQUIREMENTS = ["k2eg==0.3.2", "confluent-kafka==2.6.1"]
DRIVER = Path(__file__).with_name("driver.py")
SECONDS = 300

Steps = list[list[Any]]


@pytest.fixture(scope="session")
def library_python() -> Path:
    """The Python that has the library."""
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


@pytest.fixture
def library(library_python: Path, gateway: GatewayProcess, broker: Broker) -> Callable[..., list[dict[str, Any]]]:
    """Drives the library through steps (see `driver`), in a new process; gives the answer to each."""

    def drive(*steps: list[Any], seconds: float = 50.0) -> list[dict[str, Any]]:
        app_name = f"interop-{uuid.uuid4().hex[:8]}"
        # As an operator would: the library makes no topic.
        broker.create_topic(f"{app_name}-reply")
        environment = {**os.environ, "K2EG_PYTHON_CONFIGURATION_PATH_FOLDER": str(gateway.folder)}
        environment.pop("PYTHONPATH", None)
        with tempfile.TemporaryFile("w+") as errors:
            command = [library_python, DRIVER, app_name, json.dumps(steps)]
            ended = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, check=False, timeout=seconds
            )
            errors.seek(0)
            assert ended.returncode == 0 and ended.stdout, errors.read()[-3000:]
        # The library prints, too.
        return list(json.loads(ended.stdout.splitlines()[-1]))

    return drive
