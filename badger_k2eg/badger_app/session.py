"""Badger without its window: a private configuration, a routine for an environment, evaluations with a callback.

Owns the order in which Badger must be started: its factory, archive and routine read the configuration while they are
imported, so ``open_badger`` comes first, and every such import here is inside a function. ``build_routine`` makes the
routine of a file; ``headless`` has all that belongs to a run.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..core.errors import ControlError, PvNotConnected, ReadError, SettingsError, read_failure
from ..core.suggestions import did_you_mean
from ..plugins import plugin_root as our_plugin_root
from .evaluation import Evaluation, evaluation_of
from .plugin_files import environment_class
from .witness import Witness

if TYPE_CHECKING:
    from badger.environment import Environment
    from badger.routine import Routine

#: Badger's folders: setting -> name of the folder.
ROOTS = {
    "BADGER_TEMPLATE_ROOT": "templates",
    "BADGER_LOGBOOK_ROOT": "logbook",
    "BADGER_ARCHIVE_ROOT": "archive",
    # Without it a folder `logs` appears wherever the user happens to be.
    "BADGER_LOG_DIRECTORY": "logs",
}


def open_badger(folder: Path, *, plugin_root: Path | None = None) -> Path:
    """Configure Badger for this process alone: the user's own configuration is neither read nor written.

    :param folder: for Badger's archive, logs and so on; made if it does not exist.
    :param plugin_root: ours by default.
    :returns: the configuration file, as for ``badger -cf``.
    :raises SettingsError: for a folder that is not a plugin root.
    :raises ControlError: when Badger cannot be loaded, or has another configuration in this process already.
    """
    root = plugin_root or our_plugin_root()
    for kind in ("interfaces", "environments"):
        if not (root / kind).is_dir():
            ours = our_plugin_root() / kind
            raise SettingsError(f"plugin root {root}: it has no folder {kind}/; copy {ours} into it")
    file = folder / "badger.yaml"
    for name in ROOTS.values():
        (folder / name).mkdir(parents=True, exist_ok=True)
    roots = {key: str(folder / name) for key, name in ROOTS.items()}
    file.write_text(yaml.safe_dump({"BADGER_PLUGIN_ROOT": str(root), **roots}), encoding="utf-8")
    # Badger imports its window toolkit, and so may a plotting one; neither must look for a display.
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    os.environ.setdefault("MPLBACKEND", "Agg")

    try:
        from badger.settings import init_settings
    except ImportError as error:
        # Mostly a system library that Qt needs.
        raise ControlError(f"Badger is installed, but cannot be loaded: {error}") from error
    in_force = init_settings(str(file)).config_path
    if in_force != str(file):
        raise ControlError(f"Badger is already configured in this process, by {in_force}")
    # Badger appends it to the path: a plugin of the same name in an installed package or a clone would be taken.
    sys.path.insert(0, str(root))
    return file


def load_environment(
    name: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    interface: str | None = None,
    interface_options: Mapping[str, Any] | None = None,
) -> Environment:
    """Return an environment of the plugin root with its interface; ``open_badger`` comes first.

    :param interface: its name; by default the one that the environment's ``configs.yaml`` names first.
    :raises SettingsError: for an unknown name, option or parameter.
    """
    from badger.factory import get_intf, list_env, list_intf

    found, configs = environment_class(_known("environment", name, list_env()))
    wanted = interface or next(iter(configs.get("interface") or []), None)
    if wanted is None:
        raise SettingsError(f"environment {name} names no interface in its configs.yaml; choose one")
    interface_class, _ = get_intf(_known("interface", wanted, list_intf()))
    built = interface_class(**(interface_options or {}))
    environment: Environment = found(interface=built, **(parameters or {}))
    return environment


def _known(kind: str, name: str, names: Sequence[str]) -> str:
    if name not in names:
        raise SettingsError(f"there is no {kind} {name!r}; {did_you_mean(name, names, f'{kind}s')}")
    return name


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
    """Return a routine as Badger's window makes it. Reads the environment's variables if no initial points are given.

    :param objectives: ``{observable: "MINIMIZE" or "MAXIMIZE"}``.
    :param variables: ``{variable: (low, high)}``; by default all of the environment, with its bounds.
    :param initial_points: by default the present values of the variables.
    """
    from badger.routine import Routine
    from badger.utils import curr_ts_to_str
    from pandas import DataFrame
    from xopt import VOCS

    ranges = dict(variables or environment.get_bounds(list(environment.variables)))
    points = initial_points if initial_points is not None else [environment.get_variables(list(ranges))]
    begin, points = beginning(generator, points)
    return Routine(
        name=name,
        environment=environment,
        generator={"name": generator, **begin, **(generator_options or {})},
        vocs=VOCS(
            variables={variable: list(limits) for variable, limits in ranges.items()}, objectives=dict(objectives)
        ),
        initial_points=DataFrame([dict(point) for point in points]),
        # The archive names its file after it.
        creation_ts=curr_ts_to_str("lcls-fname"),
    )


def beginning(generator: str, points: Sequence[Mapping[str, float]]) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Return how a run begins at its one initial point without measuring that twice.

    Nelder-Mead takes the last point that was measured for the first of its simplex, and asks for it again.

    :returns: options of the generator, and the points that are to be evaluated before it.
    """
    given = [dict(point) for point in points]
    if generator == "neldermead" and len(given) == 1:
        return {"initial_point": given[0]}, []
    return {}, given


def first_simplex(environment: Environment, fraction: float) -> dict[str, Any]:
    """Return the options by which Nelder-Mead begins at the present values, with one step of each variable.

    Its own first steps are five per cent of the value: nothing for a value near zero. As Nelder-Mead evaluates these
    points itself, its routine takes ``initial_points=[]``.

    :param fraction: the step as a fraction of the variable's range; it goes towards the middle.
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
    routine: Routine,
    evaluations: int | None = None,
    on_evaluation: Callable[[Evaluation], object] | None = None,
    *,
    ended: Callable[[Sequence[Evaluation]], object] | None = None,
    witness: Witness | None = None,
) -> list[Evaluation]:
    """Run a routine in this process.

    Badger's own loop evaluates every initial point, whatever happens meanwhile, and breaks off if no point fulfils the
    constraints yet.

    :param evaluations: the number after which it ends, initial points included; None leaves it to ``ended``.
    :param on_evaluation: called after each.
    :param ended: called before each with those made so far; the run ends when it returns true.
    :param witness: of the routine, for a caller that wants to know what it has seen.
    :raises SetpointBlocked: in read-only, before the second evaluation of an environment that bypasses its interface.
    :raises ControlError: what a set or a read raised, not wrapped in an error of Xopt's.
    """
    done: list[Evaluation] = []
    witness = witness or Witness(routine)
    watched = _Watched(routine.evaluator.function)
    routine.evaluator.function = watched
    try:
        for point in _points(routine, lambda: _is_over(done, evaluations, ended)):
            data = witness.evaluate(routine.evaluate_data, point)
            done.append(evaluation_of(data, routine, done, unguarded=witness.unguarded is not None))
            if on_evaluation is not None:
                on_evaluation(done[-1])
    except Exception:
        # Xopt wraps what an evaluation raised in an error of its own, and turns Ctrl-C into an UnboundLocalError.
        if watched.error is None:
            raise
        raise watched.error from None
    finally:
        routine.evaluator.function = watched.function
    return done


def _is_over(
    done: Sequence[Evaluation], most: int | None, ended: Callable[[Sequence[Evaluation]], object] | None
) -> bool:
    return (most is not None and len(done) >= most) or bool(ended is not None and ended(done))


def _points(routine: Routine, over: Callable[[], bool]) -> Iterator[Any]:
    """Yield the initial points and then the generator's, until the run is over."""
    from pandas import DataFrame

    if routine.initial_points is not None:
        for _, row in routine.initial_points.iterrows():
            if over():
                return
            yield row.to_dict()
    while not over():
        candidate = routine.generator.generate(1)[0]
        # A generator may take seconds.
        if over():
            return
        yield DataFrame(candidate, index=[0])


class _Watched:
    """An evaluation function that remembers what it raised: Xopt keeps only the text, and loses Ctrl-C."""

    def __init__(self, function: Callable[[dict[str, float]], dict[str, Any]]) -> None:
        self.function = function
        self.error: BaseException | None = None

    def __call__(self, point: dict[str, float]) -> dict[str, Any]:
        try:
            return self.function(point)
        except BaseException as error:
            self.error = error
            raise


@contextmanager
def reaching(environment: Environment) -> Iterator[None]:
    """Add a hint to an error when none of the PVs of an environment answers.

    :raises ReadError: the error raised inside, with that hint.
    """
    try:
        yield
    except ReadError as error:
        where = getattr(environment.interface, "address_variable", None)
        silent = error.errors and all(isinstance(each, PvNotConnected) for each in error.errors.values())
        if where is None or error.partial or not silent:
            raise
        hint = f"none of the PVs answers: check {where}, or start a simulated machine with `badger-k2eg ioc`"
        raise read_failure(error.errors, error.partial, f"{error}\n{hint}") from None
