"""`GatewayProcess`: the development gateway in a child process, as a user starts it.

Run as `python -m badger_k2eg.testing.gateway OPTION...`, this module is the child's program: the command `badger-k2eg
gateway`, ended with its parent.
"""

from __future__ import annotations

import re
import runpy
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .broker import Broker
from .processes import ChildProcess, clean_environment, exit_with_parent
from .soft_ioc import random_prefix

_READY_LINE = re.compile(r"^ready bootstrap=(\S+) cmd_topic=(\S+)$", re.MULTILINE)
_FOLDER_VARIABLE = "K2EG_PYTHON_CONFIGURATION_PATH_FOLDER"


class GatewayProcess(ChildProcess):
    """A gateway on `broker`, or with a broker of its own.

    :param options: of `badger-k2eg gateway`, e.g. `"--revision", "A"`.
    :param epics: the EPICS_* variables with which it reaches its PVs.
    :param broker: by default the gateway starts an embedded one.
    :param command_topic: a new one by default; name it for gateways that share one.
    :param group: name of the group of gateways that share a command topic; a new one by default.
    :raises ChildFailed: if it does not start; the message contains its output.
    """

    #: Name of the ini file, without `.ini`.
    environment_name = "gateway"

    def __init__(
        self,
        *options: str,
        epics: Mapping[str, str],
        broker: Broker | None = None,
        command_topic: str | None = None,
        group: str | None = None,
    ) -> None:
        """Start the gateway; return when it takes commands."""
        #: The folder of the ini file by which clients reach it.
        self.folder = Path(tempfile.mkdtemp(prefix="badger-k2eg-"))
        path = self.folder / f"{self.environment_name}.ini"
        if broker is None:
            arguments = ["--embedded-broker", "--write-environment", str(path)]
        else:
            path.write_text(_environment(broker, command_topic or f"cmd-{random_prefix()}"))
            arguments = ["--environment", self.environment_name, "--group", group or f"group-{random_prefix()}"]
        try:
            super().__init__(
                ["-m", __name__, *arguments, *options],
                environment=clean_environment({**epics, _FOLDER_VARIABLE: str(self.folder)}),
                name="gateway",
                ready="ready",
                ready_timeout=60.0,
            )
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    @property
    def bootstrap(self) -> str:
        """`HOST:PORT` of its broker."""
        return self._announced(1)

    @property
    def command_topic(self) -> str:
        """The topic on which it takes commands."""
        return self._announced(2)

    def end(self, number: signal.Signals, timeout: float = 15.0) -> int:
        """End the gateway as a user does, by SIGTERM or SIGINT.

        :returns: its exit code.
        :raises subprocess.TimeoutExpired: if it does not end.
        """
        process = self._process
        assert process is not None  # noqa: S101 - of a running one
        process.send_signal(number)
        return process.wait(timeout)

    def close(self) -> None:
        """End the gateway and remove its files. Idempotent."""
        super().close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _announced(self, group: int) -> str:
        match = _READY_LINE.search(self.output)
        if match is None:
            raise RuntimeError("the gateway is not running")
        return match[group]


def _environment(broker: Broker, command_topic: str) -> str:
    connection = broker.connection
    lines = ["[DEFAULT]", f"kafka_broker_url = {connection.bootstrap}", f"k2eg_cmd_topic = {command_topic}"]
    lines += [f"kafka.{name} = {value}" for name, value in connection.options.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Serve until the parent has ended."""
    exit_with_parent()
    # As `python -m badger_k2eg.cli gateway OPTION...` does.
    sys.argv[1:1] = ["gateway"]
    runpy.run_module("badger_k2eg.cli", run_name="__main__")


if __name__ == "__main__":
    main()
