"""``badger-k2eg ioc NAME``: an example IOC in the foreground, until Ctrl-C or SIGTERM.

The IOCs are programs of their own, each in a child process: one that does not end cannot hold up this process.
"""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from ..core.errors import ControlError, MissingExtra
from . import demo_ioc
from .console import say
from .demo_processes import running
from .signals import ended_by_signals

_LOOPBACK = "127.0.0.1"
_PREFIX = re.compile(r"[A-Za-z0-9_:-]{1,30}")
_VIRTUAL_INJECTOR = Path("examples") / "virtual_injector" / "ioc.py"

#: Name -> prefix by default, and a PV to try.
_IOCS = {"demo": ("FIRST", "BEAM:SIZE"), "virtual_injector": ("INJ", "QUAD:1:BCTRL")}


@click.command()
@click.argument("name", type=click.Choice(sorted(_IOCS)))
@click.option("--prefix", help="of the PVs' names; by default FIRST (demo) or INJ (virtual_injector)")
def ioc(name: str, prefix: str | None) -> int:
    """Start an example IOC, and show how a client reaches it; ends with Ctrl-C or SIGTERM.

    It serves on this host alone, unless EPICS_PVAS_* and EPICS_CAS_* say otherwise.
    """
    if prefix is not None and not _PREFIX.fullmatch(prefix.rstrip(":")):
        raise click.UsageError(f"{prefix!r} is not a prefix: 1 to 30 letters, digits, _ - :")
    if importlib.util.find_spec("softioc") is None:
        raise MissingExtra(f"the IOC {name}", "demo")
    used = (prefix or _IOCS[name][0]).rstrip(":")
    if _served(int(os.environ.get("EPICS_PVAS_SERVER_PORT", "5075"))):
        # Two servers with the same names would answer in turn, and it would be open which machine was moved.
        say(f"warning: another PVAccess server runs on this host; if it serves {used}:* too, stop it first", err=True)
    with (
        ended_by_signals() as ended,
        running(f"the IOC {name}", command(name, used), ready=demo_ioc.READY, ended=ended, hear=say) as process,
    ):
        if not ended.is_set():
            say(*_how_to_reach(name, used, os.environ))
        while not ended.wait(0.2):
            if process.poll() is not None:
                raise ControlError(f"the IOC {name} ended by itself, with code {process.returncode}")
    say(f"the IOC {name} has ended")
    return 0


def _served(port: int) -> bool:
    """Return whether a server already listens on a port of this host."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex((_LOOPBACK, port)) == 0


def command(name: str, prefix: str) -> list[str]:
    """Return the command of an IOC, which prints READY, and ends when its standard input closes.

    :raises ControlError: when it is not part of this installation.
    """
    if name == "demo":
        return [sys.executable, "-m", demo_ioc.__name__, prefix, "--exit-with-parent"]
    program = Path(__file__).resolve().parents[2] / _VIRTUAL_INJECTOR
    if not program.is_file():
        raise ControlError(f"the IOC {name} is an example of the repository, in {_VIRTUAL_INJECTOR}; a wheel has none")
    return [sys.executable, str(program), prefix, "--exit-with-parent"]


def _how_to_reach(name: str, prefix: str, environ: Mapping[str, str]) -> list[str]:
    """Return lines that can be pasted into the shell of a client."""
    udp = environ.get("EPICS_PVAS_BROADCAST_PORT", "5076")
    ca = environ.get("EPICS_CAS_SERVER_PORT", "5064")
    pva_at = (environ.get("EPICS_PVAS_INTF_ADDR_LIST") or _LOOPBACK).split()[0]
    ca_at = (environ.get("EPICS_CAS_INTF_ADDR_LIST") or _LOOPBACK).split()[0]
    return [
        f"the IOC {name} serves {prefix}:* (try {prefix}:{_IOCS[name][1]}); Ctrl-C ends it. For a client:",
        f"  export EPICS_PVA_ADDR_LIST={pva_at}:{udp} EPICS_PVA_AUTO_ADDR_LIST=NO",
        f"  export EPICS_CA_ADDR_LIST={ca_at}:{ca} EPICS_CA_AUTO_ADDR_LIST=NO",
    ]
