"""``badger-k2eg ioc NAME``: an example IOC in the foreground, until Ctrl-C or SIGTERM.

Owns its start and end and what a client must know; the IOCs are programs of their own, each in a child process, so that
an IOC that does not let itself be ended cannot hold up this one.
"""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import click

from ..core.errors import ControlError, MissingExtra
from . import demo_ioc
from .console import say
from .signals import ended_by_signals

_LOOPBACK = "127.0.0.1"
_READY_TIMEOUT = 30.0
_PREFIX = re.compile(r"[A-Za-z0-9_:-]{1,30}")
_VIRTUAL_INJECTOR = Path("examples") / "virtual_injector" / "ioc.py"

#: Name -> prefix by default, and a PV to try.
_IOCS = {"demo": ("FIRST", "BEAM:SIZE"), "virtual_injector": ("INJ", "QUAD:1:BCTRL")}


@click.command()
@click.argument("name", type=click.Choice(sorted(_IOCS)))
@click.option("--prefix", help="of the PVs' names; by default FIRST (demo) or INJ (virtual_injector)")
def ioc(name: str, prefix: str | None) -> int:
    """Start an example IOC, and say how a client reaches it; ends with Ctrl-C or SIGTERM.

    It serves on this host alone, unless EPICS_PVAS_* and EPICS_CAS_* say otherwise.
    """
    if prefix is not None and not _PREFIX.fullmatch(prefix.rstrip(":")):
        raise click.UsageError(f"{prefix!r} is no prefix: 1 to 30 letters, digits, _ - :")
    if importlib.util.find_spec("softioc") is None:
        raise MissingExtra(f"the IOC {name}", "demo")
    used = (prefix or _IOCS[name][0]).rstrip(":")
    if _served(int(os.environ.get("EPICS_PVAS_SERVER_PORT", "5075"))):
        # Two with the same names would answer in turn, and nobody could say which machine was moved.
        say(f"warning: another PVAccess server runs on this host; if it serves {used}:* too, end it", err=True)
    with ended_by_signals() as ended, _started(name, used, ended) as process:
        if not ended.is_set():
            say(*_how_to_reach(name, used, os.environ))
        while not ended.wait(0.2):
            if process.poll() is not None:
                raise ControlError(f"the IOC {name} has ended by itself, with code {process.returncode}")
    say(f"the IOC {name} is ended")
    return 0


def _served(port: int) -> bool:
    """Whether somebody listens on a port of this host already."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex((_LOOPBACK, port)) == 0


def command(name: str, prefix: str) -> list[str]:
    """Give the command that runs an IOC: it says READY, and ends when its standard input closes.

    :raises ControlError: when it is not part of this installation.
    """
    if name == "demo":
        return [sys.executable, "-m", demo_ioc.__name__, prefix, "--exit-with-parent"]
    program = Path(__file__).resolve().parents[2] / _VIRTUAL_INJECTOR
    if not program.is_file():
        raise ControlError(f"the IOC {name} is an example of the clone, in {_VIRTUAL_INJECTOR}: a wheel has none")
    return [sys.executable, str(program), prefix, "--exit-with-parent"]


@contextmanager
def _started(name: str, prefix: str, ended: threading.Event) -> Iterator[subprocess.Popen[str]]:
    """Run the IOC; gives it when it is ready, or is no longer wanted."""
    with subprocess.Popen(
        command(name, prefix),
        # Closes with this process, however that ends: the IOC then ends too.
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A group of its own: Ctrl-C at the terminal is for us, who end it.
        process_group=0,
    ) as process:
        try:
            assert process.stdout is not None  # noqa: S101 - a pipe was asked for
            said: list[str] = []
            ready = threading.Event()
            reader = threading.Thread(target=_read, args=(process.stdout, said, ready), daemon=True)
            reader.start()
            _wait_ready(name, process, said, ready, ended)
            yield process
        finally:
            process.kill()


def _read(output: IO[str], said: list[str], ready: threading.Event) -> None:
    """Read all that it says, lest it block; what comes before READY is kept, what comes after is passed on."""
    for line in output:
        if ready.is_set():
            say(line.rstrip("\n"))
        elif line.strip() == demo_ioc.READY:
            ready.set()
        else:
            said.append(line.strip())


def _wait_ready(
    name: str, process: subprocess.Popen[str], said: Sequence[str], ready: threading.Event, ended: threading.Event
) -> None:
    for _ in range(int(_READY_TIMEOUT / 0.1)):
        if ready.wait(0.1) or ended.is_set():
            return
        if process.poll() is not None:
            break
    why = "ended at once" if process.poll() is not None else f"was not ready in {_READY_TIMEOUT:g} s"
    last = [line for line in said if line][-1:] or ["nothing"]
    raise ControlError(f"the IOC {name} {why}; the last it said: {last[0]}")


def _how_to_reach(name: str, prefix: str, environ: Mapping[str, str]) -> list[str]:
    """Say it in lines that can be pasted into the shell of a client."""
    udp = environ.get("EPICS_PVAS_BROADCAST_PORT", "5076")
    ca = environ.get("EPICS_CAS_SERVER_PORT", "5064")
    pva_at = (environ.get("EPICS_PVAS_INTF_ADDR_LIST") or _LOOPBACK).split()[0]
    ca_at = (environ.get("EPICS_CAS_INTF_ADDR_LIST") or _LOOPBACK).split()[0]
    return [
        f"the IOC {name} serves {prefix}:* (try {prefix}:{_IOCS[name][1]}); Ctrl-C ends it. For a client:",
        f"  export EPICS_PVA_ADDR_LIST={pva_at}:{udp} EPICS_PVA_AUTO_ADDR_LIST=NO",
        f"  export EPICS_CA_ADDR_LIST={ca_at}:{ca} EPICS_CA_AUTO_ADDR_LIST=NO",
    ]
