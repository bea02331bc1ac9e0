"""``StatusPvs``: PVs that tell operator panels what a run does; and a PV that stops it.

A PVAccess server in the run's own process, for as long as the run; off unless a prefix is set. It is stopped around
every fork, as a live one hangs the child. Imports p4p's server, inside functions only; independent of ``Run``.

==================  ======  ==========================================================
PREFIX:OWNER        string  user, host and process; empty once the run has ended
PREFIX:RUN          string  the id of the run
PREFIX:EVALUATION   int     number of the present evaluation, from 1
PREFIX:BEST         double  the best objective so far; NaN where none is known
PREFIX:HEARTBEAT    int     seconds that the run has lasted, counted up once a second
PREFIX:STOP         int     put 1 to stop the run, safely, as Stop in Badger's window does
==================  ======  ==========================================================
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ..core import clock, fork, settings

logger = logging.getLogger("badger_k2eg")

_TYPES = {"OWNER": "s", "RUN": "s", "EVALUATION": "i", "BEST": "d", "HEARTBEAT": "i", "STOP": "i"}
# What was inherited from a parent: kept, as destroying it in the child hangs.
_inherited: list[Any] = []


class StatusSettings(BaseModel):
    """Options of the status PVs: ``BADGER_K2EG_STATUS_*``, or ``status_*`` in the ini file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix: str | None = Field(default=None, description="of the PVs that a run serves; none by default")

    @property
    def name(self) -> str | None:
        """The prefix without a colon at its end; None where nothing is served."""
        return (self.prefix or "").strip().rstrip(":") or None


def load() -> StatusSettings:
    """Return the options.

    :raises SettingsError: naming the wrong one and its source.
    """
    return settings.family("status_", StatusSettings)


class StatusPvs:
    """The PVs of one run.

    :param prefix: without a colon at its end.
    :param owner: user, host and process.
    :param run: id of the run.
    :param stop: called with a message that names the client when STOP is put; must return at once.
    """

    def __init__(self, prefix: str, owner: str, run: str, stop: Callable[[str], object]) -> None:
        """Start the server."""
        self._prefix = prefix
        self._stop = stop
        self._conf: dict[str, str] = {}
        self._ended = clock.event()
        self._pvs = self._make(owner, run)
        self._server: Any = None
        self._serve()
        fork.register(self)
        threading.Thread(target=self._beat, name=f"heartbeat {prefix}", daemon=True).start()

    def _make(self, owner: str, run: str) -> dict[str, Any]:
        """Return the PVs, with their first values."""
        from p4p.nt import NTScalar
        from p4p.server.thread import SharedPV

        first = {"OWNER": owner, "RUN": run, "EVALUATION": 0, "BEST": math.nan, "HEARTBEAT": 0, "STOP": 0}
        pvs = {name: SharedPV(nt=NTScalar(code), initial=first[name]) for name, code in _TYPES.items()}

        def put(pv: Any, operation: Any) -> None:
            wanted = operation.value()
            pv.post(wanted)
            operation.done()
            if wanted:
                self._stop(f"{self._prefix}:STOP by {operation.account() or 'an unknown user'} at {operation.peer()}")

        pvs["STOP"].put(put)
        return pvs

    def _serve(self) -> None:
        """Start a server of the PVs."""
        from p4p.server import Server

        provider = {f"{self._prefix}:{name}": pv for name, pv in self._pvs.items()}
        self._server = Server(providers=[provider], conf=self._conf, useenv=not self._conf)
        # The same ports after a fork: clients reconnect by themselves.
        self._conf = self._conf or dict(self._server.conf())

    def evaluation(self, number: int) -> None:
        """Show the number of the present evaluation."""
        self._pvs["EVALUATION"].post(number)

    def best(self, value: float) -> None:
        """Show the best objective."""
        self._pvs["BEST"].post(value)

    def _beat(self) -> None:
        """Count the seconds until the end."""
        seconds = 0
        while not self._ended.wait(1.0):
            seconds += 1
            self._pvs["HEARTBEAT"].post(seconds)

    def close(self) -> None:
        """Clear OWNER, and stop the server."""
        self._ended.set()
        fork.unregister(self)
        if self._server is not None:
            self._pvs["OWNER"].post("")
            self._server.stop()
            self._server = None

    def before_fork(self) -> None:
        """Stop the server."""
        if self._server is not None:
            self._server.stop()

    def after_fork_in_parent(self) -> None:
        """Start the server again."""
        if self._server is not None and not self._ended.is_set():
            self._serve()

    def after_fork_in_child(self) -> None:
        """Serve nothing: the run stays with the parent."""
        _inherited.append((self._server, self._pvs))
        self._server = None
        self._ended.set()
