"""The client library k2eg, driven through steps in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from badger_k2eg.testing.broker import Broker
from badger_k2eg.testing.gateway import GatewayProcess

from .library import library_python as python_of_library

DRIVER = Path(__file__).with_name("driver.py")

Steps = list[list[Any]]


@pytest.fixture(scope="session")
def library_python() -> Path:
    """The Python that has the library."""
    return python_of_library()


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
