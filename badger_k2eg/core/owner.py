"""``Owner``: the user, host, process and run that hold a lock or wrote a record."""

from __future__ import annotations

import getpass
import os
import socket
import time
from dataclasses import dataclass

from . import clock


@dataclass(frozen=True, slots=True)
class Owner:
    """The holder of a lock.

    :ivar run: the run that it is held for; empty if none.
    :ivar since: seconds since the Unix epoch.
    """

    user: str = "unknown user"
    host: str = ""
    pid: int = 0
    run: str = ""
    since: float = 0.0

    def __str__(self) -> str:
        about = [f"process {self.pid}"] if self.pid else []
        about += [f"run {self.run}"] if self.run else []
        about.append(f"since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self.since))}")
        return f"{self.user}{'@' if self.host else ''}{self.host} ({', '.join(about)})"


def this_owner(run: str = "") -> Owner:
    """Return this process as an owner."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # in a container the user may have no name
        user = str(os.getuid())
    return Owner(user, socket.gethostname(), os.getpid(), run, clock.time())
