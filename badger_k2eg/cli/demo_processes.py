"""Child processes of ``badger-k2eg demo`` and ``ioc`` on loopback: an IOC, and a gateway to it.

While they run, the environment variables of this process let it and its children find these and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from ..core.errors import ControlError
from . import demo_ioc, main
from .signals import Ended, exit_with_parent

_START_TIMEOUT = 60.0
#: The beginning of the line by which a gateway says that it serves.
_GATEWAY_READY = "ready bootstrap="


@contextlib.contextmanager
def machine(command: Sequence[str]) -> Iterator[None]:
    """Run an IOC that this process and its children find."""
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
    with running("the demo's IOC", command, server, ready=demo_ioc.READY):
        os.environ.update(
            EPICS_PVA_ADDR_LIST=f"127.0.0.1:{udp}", EPICS_PVA_AUTO_ADDR_LIST="NO", EPICS_PVA_BROADCAST_PORT=udp
        )
        yield


@contextlib.contextmanager
def gateway(interface: str, prefix: str) -> Iterator[None]:
    """Run a development gateway with an embedded broker, which may write PREFIX:*, if the interface is k2eg."""
    if interface != "k2eg":
        yield
        return
    with tempfile.TemporaryDirectory(prefix="badger-k2eg-demo-") as folder:
        file = Path(folder) / "demo.ini"
        options = ["--embedded-broker", "--write-environment", str(file), "--allow-write", f"{prefix}:*"]
        command = [sys.executable, "-m", __name__, "gateway", *options]
        with running("the demo's gateway", command, ready=_GATEWAY_READY):
            here = {"K2EG_PYTHON_CONFIGURATION_PATH_FOLDER": folder, "K2EG_CLI_DEFAULT_ENVIRONMENT": "demo"}
            before = {name: os.environ.get(name) for name in here}
            os.environ.update(here)
            try:
                yield
            finally:
                for name, value in before.items():
                    os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def running(
    what: str,
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    ready: str,
    ended: Ended | None = None,
    hear: Callable[[str], object] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Run a process; it is ready inside of the block, and ends with it.

    :param what: what runs, for an error message.
    :param environment: variables besides those of this process.
    :param ready: the beginning of the line by which it says that it is ready.
    :param ended: once set, it ends the wait until the process is ready.
    :param hear: called, in another thread, with each line that it prints after that one.
    :raises ControlError: when it does not become ready, with the last line that it printed.
    """
    with subprocess.Popen(
        command,
        # Closes with this process, however that ends: the child then ends too.
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(environment or {})},
        # A group of its own: Ctrl-C at the terminal is for this process, which ends its children in order.
        process_group=0,
    ) as process:
        try:
            assert process.stdout is not None  # noqa: S101 - a pipe was asked for
            said: list[str] = []
            is_ready = threading.Event()
            reader = threading.Thread(target=_read, args=(process.stdout, ready, is_ready, said, hear), daemon=True)
            reader.start()
            until = time.monotonic() + _START_TIMEOUT
            while not (is_ready.wait(0.05) or (ended is not None and ended.is_set())):
                if process.poll() is None and time.monotonic() < until:
                    continue
                why = f"was not ready in {_START_TIMEOUT:g} s"
                if process.poll() is not None:
                    why = "ended at once"
                    # It has written all that it ever will.
                    reader.join(1.0)
                last = [line for line in said if line][-1:] or ["nothing"]
                raise ControlError(f"{what} {why}; the last line it printed: {last[0]}")
            yield process
        finally:
            process.kill()


def _read(
    output: IO[str], ready: str, is_ready: threading.Event, said: list[str], hear: Callable[[str], object] | None
) -> None:
    """Read all output, so that a full pipe never blocks the child; keep what comes before it is ready."""
    for line in output:
        if is_ready.is_set():
            if hear is not None:
                hear(line.rstrip("\n"))
        elif line.startswith(ready):
            is_ready.set()
        else:
            said.append(line.strip())


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as sockets:
        ports = []
        for _ in range(count):
            probe = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            probe.bind(("127.0.0.1", 0))
            ports.append(int(probe.getsockname()[1]))
    return ports


if __name__ == "__main__":
    # A command that a demo has started: it ends with the demo, even when that is killed.
    exit_with_parent()
    main()
