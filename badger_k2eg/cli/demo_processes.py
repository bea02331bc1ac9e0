"""What a demo stands on, each in a process of its own on loopback: an IOC, and the way to it through K2EG.

Owns starting them, the environment variables by which this process and its children find them and nothing else, and
ending them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..core.errors import ControlError
from . import demo_ioc, main
from .signals import exit_with_parent

_START_TIMEOUT = 60.0
#: How a gateway says that it serves.
_GATEWAY_READY = "ready bootstrap="


@contextlib.contextmanager
def machine(command: Sequence[str]) -> Iterator[None]:
    """Run an IOC, and let this process and its children find it."""
    udp, tcp, ca = (str(port) for port in _free_ports(3))
    for name in [name for name in os.environ if name.startswith("EPICS_")]:
        del os.environ[name]
    server = {
        "EPICS_PVAS_INTF_ADDR_LIST": "127.0.0.1",
        "EPICS_PVAS_BROADCAST_PORT": udp,
        "EPICS_PVAS_SERVER_PORT": tcp,
        "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
        "EPICS_PVAS_BEACON_ADDR_LIST": "",
        "EPICS_CAS_INTF_ADDR_LIST": "127.0.0.1",
        "EPICS_CAS_SERVER_PORT": ca,
        "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
        "EPICS_CAS_BEACON_ADDR_LIST": "127.0.0.1",
    }
    with _running("IOC", command, server, demo_ioc.READY):
        os.environ.update(
            EPICS_PVA_ADDR_LIST=f"127.0.0.1:{udp}", EPICS_PVA_AUTO_ADDR_LIST="NO", EPICS_PVA_BROADCAST_PORT=udp
        )
        yield


@contextlib.contextmanager
def gateway(interface: str, prefix: str) -> Iterator[None]:
    """Where the interface is k2eg, run a development gateway with an embedded broker; it may write PREFIX:*."""
    if interface != "k2eg":
        yield
        return
    with tempfile.TemporaryDirectory(prefix="badger-k2eg-demo-") as folder:
        file = Path(folder) / "demo.ini"
        options = ["--embedded-broker", "--write-environment", str(file), "--allow-write", f"{prefix}:*"]
        with _running("gateway", [sys.executable, "-m", __name__, "gateway", *options], {}, _GATEWAY_READY):
            here = {"K2EG_PYTHON_CONFIGURATION_PATH_FOLDER": folder, "K2EG_CLI_DEFAULT_ENVIRONMENT": "demo"}
            before = {name: os.environ.get(name) for name in here}
            os.environ.update(here)
            try:
                yield
            finally:
                for name, value in before.items():
                    os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def _running(what: str, command: Sequence[str], environment: Mapping[str, str], ready: str) -> Iterator[None]:
    with (
        tempfile.TemporaryFile() as output,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            # A group of its own: Ctrl-C at the terminal is for us, who stop it in order.
            process_group=0,
        ) as process,
    ):
        try:
            _wait_ready(what, process, output.fileno(), ready)
            yield
        finally:
            process.kill()


def _wait_ready(what: str, process: subprocess.Popen[bytes], output: int, ready: str) -> None:
    until = time.monotonic() + _START_TIMEOUT
    while True:
        # Asked first: what has ended has written all that it will.
        ended = process.poll() is not None
        text = os.pread(output, 65536, 0).decode(errors="replace")
        if any(line.startswith(ready) for line in text.splitlines()):
            return
        if ended or time.monotonic() > until:
            why = "ended at once" if ended else f"was not ready in {_START_TIMEOUT:g} s"
            last = text.strip().splitlines()[-1:] or ["nothing"]
            raise ControlError(f"the demo's {what} {why}; the last it said: {last[0]}")
        time.sleep(0.02)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as sockets:
        ports = []
        for _ in range(count):
            probe = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            probe.bind(("127.0.0.1", 0))
            ports.append(int(probe.getsockname()[1]))
    return ports


if __name__ == "__main__":
    # A command that a demo has started: killed or not, it takes it along.
    exit_with_parent()
    main()
