"""One evaluation of a run, and which of several is the best or in the front. Touches no machine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from badger.environment import Environment
    from badger.routine import Routine


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation of a run.

    :ivar number: from 1 on.
    :ivar best: whether it is the best so far; False with several objectives.
    :ivar others: the constraints and the further observables.
    :ivar feasible: whether every constraint holds.
    :ivar was_set: whether the machine was set to this point. False in read-only: what is measured belongs to another
        point, and none is the best. None if unknown: in read-only, of an environment that bypasses its interface.
    """

    number: int
    variables: dict[str, float]
    objectives: dict[str, float]
    best: bool
    others: dict[str, float] = field(default_factory=dict)
    feasible: bool = True
    was_set: bool | None = True


def evaluation_of(data: Any, routine: Routine, before: Sequence[Evaluation], *, unguarded: bool = False) -> Evaluation:
    """Return the evaluation that Xopt's table holds.

    :param data: its rows.
    :param before: the evaluations before it.
    :param unguarded: whether none of its setpoints came through the interface.
    """
    from xopt.vocs import get_feasibility_data

    vocs = routine.vocs
    # An observable that is an array makes several rows of one evaluation.
    first = data.iloc[:1]
    row = first.iloc[0]
    feasible = bool(get_feasibility_data(vocs, first)["feasible"].iloc[0])
    objectives = {name: float(row[name]) for name in vocs.objective_names}
    was_set = True if not is_read_only(routine.environment) else None if unguarded else False
    return Evaluation(
        number=len(before) + 1,
        variables={name: float(row[name]) for name in vocs.variable_names},
        objectives=objectives,
        best=feasible and bool(was_set) and _is_best(objectives, routine, before),
        others={name: float(row[name]) for name in (*vocs.constraint_names, *vocs.observable_names)},
        feasible=feasible,
        was_set=was_set,
    )


def _is_best(objectives: Mapping[str, float], routine: Routine, before: Sequence[Evaluation]) -> bool:
    if (sign := direction(routine)) is None:
        return False
    (name,) = objectives
    value = sign * objectives[name]
    best = next((each for each in reversed(before) if each.best), None)
    return not math.isnan(value) and (best is None or value > sign * best.objectives[name])


def is_read_only(environment: Environment) -> bool:
    """Return whether the environment's interface is in read-only mode."""
    settings = getattr(environment.interface, "settings", None)
    return bool(getattr(settings, "read_only", False))


def directions(routine: Routine) -> dict[str, int]:
    """Return 1 for each objective that is maximized, and -1 for each that is minimized."""
    signs = {"MaximizeObjective": 1, "MinimizeObjective": -1}
    kinds = {name: type(objective).__name__ for name, objective in routine.vocs.objectives.items()}
    return {name: signs[kind] for name, kind in kinds.items() if kind in signs}


def direction(routine: Routine) -> int | None:
    """Return 1 if the one objective is maximized, -1 if it is minimized, None with several objectives."""
    return next(iter(directions(routine).values()), None) if len(routine.vocs.objectives) == 1 else None


def front(routine: Routine, evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return, for several objectives, the evaluations that no other beats in all of them; sorted by the first."""
    signs = directions(routine)
    if len(signs) < 2:
        return []
    values = {
        each.number: [sign * each.objectives[name] for name, sign in signs.items()]
        for each in evaluations
        if each.feasible and each.was_set and not any(map(math.isnan, each.objectives.values()))
    }

    def is_beaten(mine: list[float]) -> bool:
        others = (other for other in values.values() if other != mine)
        return any(all(a >= b for a, b in zip(other, mine, strict=True)) for other in others)

    unbeaten = [each for each in evaluations if each.number in values and not is_beaten(values[each.number])]
    return sorted(unbeaten, key=lambda each: each.objectives[next(iter(signs))])
