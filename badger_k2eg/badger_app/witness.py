"""``Witness``: finds out whether the setpoints of an evaluation come through its interface.

Guard, locks, baseline, restore and read-only are in the interface. An environment with a client of its own
(``epics.PV``, a Tango proxy) bypasses all of them; that shows only after an evaluation that set nothing through it.
Imports no Badger: the window's child has it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .. import run
from ..core.errors import SetpointBlocked
from . import run_frames
from .evaluation import is_read_only

if TYPE_CHECKING:
    from badger.environment import Environment
    from badger.routine import Routine

logger = logging.getLogger("badger_k2eg")


class Witness:
    """A witness of the evaluations of one run.

    :ivar unguarded: what is missing, in one line; None until an evaluation shows it, and again after a set.
    :ivar refused: whether an evaluation was refused for that reason.
    """

    def __init__(self, routine: Routine) -> None:
        """Count from here."""
        self.routine = routine
        self.unguarded: str | None = None
        self.refused = False
        self._before = _sets(routine.environment)

    def evaluate(self, evaluate: Callable[[Any], Any], point: Any) -> Any:
        """Evaluate a point, and check whether its setpoints came through the interface.

        :param evaluate: Badger's own method of the routine.
        :returns: Xopt's table.
        :raises SetpointBlocked: in read-only, after an evaluation whose setpoints did not come through the interface.
        """
        environment = self.routine.environment
        if self.unguarded is not None and is_read_only(environment):
            self.refused = True
            raise SetpointBlocked(f"read-only does not hold: {_seen(environment)}")
        data = evaluate(point)
        if not self.routine.vocs.variable_names:
            return data
        if _sets(environment) == self._before:
            self._tell(data)
        elif self.unguarded is not None:
            # Its first point may have been the present values, which need no set.
            self.unguarded = None
            if (present := run.current()) is not None:
                present.outcome.pop("unguarded", None)
        return data

    def _tell(self, data: Any) -> None:
        environment, vocs = self.routine.environment, self.routine.vocs
        if self.unguarded is None:
            missing = "baseline, guard, lock and restore"
            self.unguarded = f"{_seen(environment)}: its setpoints bypass the interface, without {missing}"
            if is_read_only(environment):
                self.unguarded += ", and read-only does not hold"
            logger.warning("unguarded: %s", self.unguarded)
        # An observable that is an array makes several rows of one evaluation.
        row: Mapping[str, Any] = data.iloc[0]
        point, measured = ({name: row[name] for name in names} for names in (vocs.variable_names, vocs.output_names))
        attachment = getattr(environment.interface, "attachment", None)
        if not isinstance(attachment, run.Attachment):
            attachment = run.Attachment()
        attachment.about.setdefault("environment", lambda: {"environment": run_frames.described(environment)})
        attachment.unguarded(self.unguarded, point, measured)


def _sets(environment: Environment) -> int:
    """Return the number of sets through the interface; 0 for an interface of another package."""
    sets = getattr(environment.interface, "sets", 0)
    return sets if isinstance(sets, int) else 0


def _seen(environment: Environment) -> str:
    interface = environment.interface
    if interface is None:
        return f"environment {environment.name} has no interface"
    if not isinstance(getattr(interface, "attachment", None), run.Attachment):
        return f"environment {environment.name} has the interface {interface.name}, which is not one of badger-k2eg"
    return f"environment {environment.name} set nothing through its interface {interface.name}"


def witness_evaluations(routine_class: type[Routine]) -> None:
    """Add a witness to what Badger's window evaluates: it calls this method, in a forked child."""
    original = routine_class.evaluate_data
    present: list[Witness] = []

    def evaluate_data(self: Routine, input_data: Any) -> Any:
        if not present or present[0].routine is not self:
            present[:] = [Witness(self)]
        return present[0].evaluate(lambda point: original(self, point), input_data)

    routine_class.evaluate_data = evaluate_data
