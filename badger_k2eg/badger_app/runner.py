"""Badger without its window: a private configuration, a routine for an environment, evaluations with a callback.

Owns the order in which Badger must be started: its factory, archive and routine read the configuration while they are
imported, so ``open_badger`` comes first, and every such import here is inside a function. Knows no PV and no window.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..errors import ControlError, SettingsError
from ..plugin_root import plugin_root as our_plugin_root

if TYPE_CHECKING:
    from badger.environment import Environment
    from badger.routine import Routine

_ROOTS = {
    "BADGER_TEMPLATE_ROOT": "templates",
    "BADGER_LOGBOOK_ROOT": "logbook",
    "BADGER_ARCHIVE_ROOT": "archive",
    # Without it a folder `logs` appears wherever the user happens to be.
    "BADGER_LOG_DIRECTORY": "logs",
}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation of a run.

    :ivar number: from 1 on.
    :ivar best: whether it is the best so far.
    """

    number: int
    variables: dict[str, float]
    objectives: dict[str, float]
    best: bool


def open_badger(folder: Path, *, plugin_root: Path | None = None) -> Path:
    """Configure Badger for this process alone: the user's own configuration is neither read nor written.

    :param folder: for Badger's archive, logs and so on; made if it is not there.
    :param plugin_root: ours by default.
    :returns: the configuration file, as for ``badger -cf``.
    :raises ControlError: when Badger does not load, or has another configuration in this process already.
    """
    root = plugin_root or our_plugin_root()
    file = folder / "badger.yaml"
    for name in _ROOTS.values():
        (folder / name).mkdir(parents=True, exist_ok=True)
    roots = {key: str(folder / name) for key, name in _ROOTS.items()}
    file.write_text(yaml.safe_dump({"BADGER_PLUGIN_ROOT": str(root), **roots}), encoding="utf-8")
    # Badger imports its window toolkit, and so may a plotting one; neither must look for a display.
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    os.environ.setdefault("MPLBACKEND", "Agg")

    try:
        from badger.settings import init_settings
    except ImportError as error:
        # Mostly a library of the system that Qt needs.
        raise ControlError(f"Badger is installed, but does not load: {error}") from error
    in_force = init_settings(str(file)).config_path
    if in_force != str(file):
        raise ControlError(f"Badger is already configured in this process, by {in_force}")
    return file


def plugin_names(kind: str, plugin_root: Path | None = None) -> list[str]:
    """List plugins without loading one, or Badger.

    :param kind: ``interfaces`` or ``environments``.
    """
    folder = (plugin_root or our_plugin_root()) / kind
    return sorted(path.parent.name for path in folder.glob("*/configs.yaml"))


def load_environment(
    name: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    interface: str | None = None,
    interface_options: Mapping[str, Any] | None = None,
) -> Environment:
    """Build an environment of the plugin root with its interface; ``open_badger`` first.

    :param interface: its name; by default the one that the environment's ``configs.yaml`` names first.
    :raises SettingsError: for an unknown name, option or parameter.
    """
    from badger.factory import get_env, get_intf, list_env, list_intf

    environment_class, configs = get_env(_known("environment", name, list_env()))
    wanted = interface or next(iter(configs.get("interface", [])), None)
    if wanted is None:
        raise SettingsError(f"environment {name} names no interface: say which")
    interface_class, _ = get_intf(_known("interface", wanted, list_intf()))
    built = interface_class(**(interface_options or {}))
    environment: Environment = environment_class(interface=built, **(parameters or {}))
    return environment


def _known(kind: str, name: str, names: Sequence[str]) -> str:
    if name not in names:
        raise SettingsError(f"there is no {kind} {name!r}; there {_are(names)}")
    return name


def _are(names: Sequence[str]) -> str:
    return f"is {names[0]}" if len(names) == 1 else f"are {', '.join(names) or 'none'}"


def make_routine(
    environment: Environment,
    objectives: Mapping[str, str],
    *,
    variables: Mapping[str, Sequence[float]] | None = None,
    generator: str = "neldermead",
    generator_options: Mapping[str, Any] | None = None,
    initial_points: Sequence[Mapping[str, float]] | None = None,
    name: str = "headless",
) -> Routine:
    """Make a routine, as Badger's window does. Reads the environment's variables where no initial points are given.

    :param objectives: ``{observable: "MINIMIZE" or "MAXIMIZE"}``.
    :param variables: ``{variable: (low, high)}``; by default all of the environment, with its bounds.
    :param initial_points: by default where the machine is.
    """
    from badger.routine import Routine
    from badger.utils import curr_ts_to_str
    from pandas import DataFrame
    from xopt import VOCS

    ranges = dict(variables or environment.get_bounds(list(environment.variables)))
    points = initial_points if initial_points is not None else [environment.get_variables(list(ranges))]
    return Routine(
        name=name,
        environment=environment,
        generator={"name": generator, **(generator_options or {})},
        vocs=VOCS(
            variables={variable: list(limits) for variable, limits in ranges.items()}, objectives=dict(objectives)
        ),
        initial_points=DataFrame([dict(point) for point in points]),
        # The archive makes its file's name of it.
        creation_ts=curr_ts_to_str("lcls-fname"),
    )


def first_simplex(environment: Environment, fraction: float) -> dict[str, Any]:
    """Give the generator options by which Nelder-Mead begins where the machine is, with one step of each variable.

    Its own first steps are five per cent of the value: nothing at all for one that is near zero. Nelder-Mead evaluates
    these points itself, so its routine takes ``initial_points=[]``.

    :param fraction: the step, of the variable's range; towards its middle.
    """
    bounds = environment.get_bounds(list(environment.variables))
    here = environment.get_variables(list(bounds))
    points = [here]
    for variable, (low, high) in bounds.items():
        step = math.copysign(fraction * (high - low), (low + high) / 2 - here[variable])
        points.append({**here, variable: here[variable] + step})
    return {
        "initial_point": here,
        "initial_simplex": {variable: [point[variable] for point in points] for variable in bounds},
    }


def run(
    routine: Routine, evaluations: int, on_evaluation: Callable[[Evaluation], object] | None = None
) -> list[Evaluation]:
    """Run a routine by Badger's own loop, in this process.

    :param evaluations: after which it ends, the initial points among them.
    :param on_evaluation: called after each.
    :raises ControlError: what a set or a read raised, itself, and not packed into an error of Xopt's.
    """
    from badger.core import run_routine
    from badger.errors import BadgerRunTerminated

    done: list[Evaluation] = []

    def evaluated(data: Any) -> None:
        done.append(_evaluation(len(done) + 1, data, routine))
        if on_evaluation is not None:
            on_evaluation(done[-1])

    watched = _Watched(routine.evaluator.function)
    routine.evaluator.function = watched
    try:
        run_routine(
            routine,
            active_callback=lambda: 2 if len(done) >= evaluations else 0,
            generate_callback=lambda candidates: None,
            evaluate_callback=evaluated,
            states_callback=lambda states: None,
            verbose=0,
        )
    except BadgerRunTerminated:
        pass
    except Exception:
        if watched.error is None:
            raise
        raise watched.error from None
    finally:
        routine.evaluator.function = watched.function
    return done


class _Watched:
    """Remembers what the evaluation raised: Xopt keeps its text alone, and loses Ctrl-C altogether."""

    def __init__(self, function: Callable[[dict[str, float]], dict[str, Any]]) -> None:
        self.function = function
        self.error: BaseException | None = None

    def __call__(self, point: dict[str, float]) -> dict[str, Any]:
        try:
            return self.function(point)
        except BaseException as error:
            self.error = error
            raise


def _evaluation(number: int, data: Any, routine: Routine) -> Evaluation:
    # An observable that is an array makes several rows of one evaluation.
    row = data.iloc[0]
    vocs = routine.vocs
    return Evaluation(
        number=number,
        variables={name: float(row[name]) for name in vocs.variable_names},
        objectives={name: float(row[name]) for name in vocs.objective_names},
        best=_is_best(routine),
    )


def _is_best(routine: Routine) -> bool:
    """Whether the last evaluation is the best so far; there is no best one of several objectives."""
    from xopt.errors import FeasibilityError
    from xopt.vocs import select_best

    try:
        index, _, _ = select_best(routine.vocs, routine.sorted_data, n=1)
    except (NotImplementedError, FeasibilityError, IndexError):
        return False
    return bool(len(index)) and int(index[0]) == len(routine.data) - 1
