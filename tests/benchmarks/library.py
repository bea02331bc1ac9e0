"""The k2eg library in a process of its own: it needs another confluent-kafka than ours."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any

from tests.interop.library import library_python

from .board import ROOT

if TYPE_CHECKING:
    from badger_k2eg.testing.broker import Broker
    from badger_k2eg.testing.gateway import GatewayProcess


class Library:
    """The library in a process of its own, which does one thing after another (see `library_program`)."""

    def __init__(self, gateway: GatewayProcess, broker: Broker) -> None:
        self._broker = broker
        self._numbers = itertools.count()
        self._errors = tempfile.TemporaryFile("w+")
        program = ROOT / "tests" / "benchmarks" / "library_program.py"
        environment = {**os.environ, "K2EG_PYTHON_CONFIGURATION_PATH_FOLDER": str(gateway.folder)}
        environment.pop("PYTHONPATH", None)
        self._process = subprocess.Popen(
            [library_python(), program, gateway.environment_name],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def prepare(self) -> str:
        """Make a reply topic, as an operator would, and give the name of its application."""
        app_name = f"bench-library-{next(self._numbers)}"
        self._broker.create_topic(f"{app_name}-reply")
        return app_name

    def do(self, method: str, *arguments: Any) -> list[float]:
        """Let it do something; give the seconds of each call."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([method, *arguments]) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("answer "):
                return list(json.loads(line.removeprefix("answer ")))
        self._errors.seek(0)
        raise AssertionError(f"the library failed in {method}: {self._errors.read()[-3000:]}")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()
