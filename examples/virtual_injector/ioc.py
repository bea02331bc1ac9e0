"""The IOC of the virtual injector: `python examples/virtual_injector/ioc.py [PREFIX] [--seed N]`.

Owns the command line and the start. It serves on this host alone, unless EPICS_PVAS_* and EPICS_CAS_* in the
environment say otherwise, and prints READY when a client can connect.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__" and not __package__:
    # Run by its path: this folder becomes a package of its own name, in the place where Python has put the folder
    # itself (PEP 366). So the folder can be copied anywhere.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    __package__ = Path(__file__).resolve().parent.name

from badger_k2eg.testing.ports import wait_for_ca, wait_for_pva
from badger_k2eg.testing.processes import announce_ready, exit_with_parent, skip_build_tools

PREFIX = "INJ"
"""Of the PVs, unless another one is given."""

_LOOPBACK = "127.0.0.1"
_PROBE = "QUAD:1:BCTRL"
_PREFIX = re.compile(r"[A-Za-z0-9_:-]{1,30}")


def _prefix(text: str) -> str:
    text = text.rstrip(":")
    if not _PREFIX.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no prefix: 1 to 30 letters, digits, _ - :")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="virtual_injector", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prefix", type=_prefix, default=PREFIX, help=f"of the PVs' names (default: {PREFIX})")
    # All our parts take it so.
    parser.add_argument("positional", metavar="PREFIX", type=_prefix, nargs="?", help="the same")
    parser.add_argument("--seed", type=int, default=None, help="of the noise (default: another one each time)")
    parser.add_argument("--exit-with-parent", action="store_true", help="end when standard input closes")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until ended.

    :param argv: what follows the program's name; of this process by default.
    :returns: the exit code.
    """
    options = _parser().parse_args(argv)
    if options.exit_with_parent:
        exit_with_parent()
    skip_build_tools()  # before softioc and p4p
    try:
        import p4p  # noqa: F401
        import softioc  # noqa: F401
    except ImportError as error:
        print(f"{error.name} is not installed: pip install 'badger-k2eg[demo]'", file=sys.stderr)
        return 1
    server = _start(options.positional or options.prefix, options.seed)
    announce_ready()
    with contextlib.suppress(KeyboardInterrupt), server:
        while True:
            time.sleep(3600)
    return 0


def _start(prefix: str, seed: int | None) -> contextlib.AbstractContextManager[object]:
    # Nobody else's client shall find this machine, unless somebody says so.
    for protocol in ("PVAS", "CAS"):
        os.environ.setdefault(f"EPICS_{protocol}_INTF_ADDR_LIST", _LOOPBACK)
    from softioc import builder, softioc
    from softioc.asyncio_dispatcher import AsyncioDispatcher

    from .engine import Engine

    builder.SetDeviceName(prefix)
    engine = Engine(prefix, seed)
    builder.LoadDatabase()
    softioc.iocInit(AsyncioDispatcher())
    server: contextlib.AbstractContextManager[object] = engine.pulses.serve()
    engine.start()
    _prove(f"{prefix}:{_PROBE}")
    return server


def _prove(name: str) -> None:
    # Ports that somebody chose must be the ones that are served; where nobody chose, any will do.
    udp, tcp = (os.environ.get(f"EPICS_PVAS_{which}_PORT") for which in ("BROADCAST", "SERVER"))
    if udp and tcp:
        wait_for_pva(name, int(udp), int(tcp))
    if channel_access := os.environ.get("EPICS_CAS_SERVER_PORT"):
        wait_for_ca(name, int(channel_access))


if __name__ == "__main__":
    sys.exit(main())
