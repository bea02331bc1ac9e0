"""Badger without its window: a private configuration, a routine for an environment, evaluations with a callback.

Owns the order in which Badger must be started: its factory, archive and routine read the configuration while they are
imported, so ``open_badger`` comes first, and every such import here is inside a function. Knows no PV and no window.
``routine_file`` makes the routine of a file, ``headless`` is all that belongs to a run.
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

    :param folder: for Badger's archive, logs and so on; made if it is not there.
    :param plugin_root: ours by default.
    :returns: the configuration file, as for ``badger -cf``.
    :raises SettingsError: for a plugin root that is none.
    :raises ControlError: when Badger does not load, or has another configuration in this process already.
    """
    root = plugin_root or our_plugin_root()
    for kind in ("interfaces", "environments"):
        if not (root / kind).is_dir():
            ours = our_plugin_root() / kind
            raise SettingsError(f"plugin root {root}: there is no folder {kind}/ in it; a copy of {ours} will do")
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
        # Mostly a library of the system that Qt needs.
        raise ControlError(f"Badger is installed, but does not load: {error}") from error
    in_force = init_settings(str(file)).config_path
    if in_force != str(file):
        raise ControlError(f"Badger is already configured in this process, by {in_force}")
    # Badger appends it to the path: where a package or a clone has a plugin of the same name, that one would be taken.
    sys.path.insert(0, str(root))
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
    from badger.factory import get_intf, list_env, list_intf

    found, configs = environment_class(_known("environment", name, list_env()))
    wanted = interface or next(iter(configs.get("interface") or []), None)
    if wanted is None:
        raise SettingsError(f"environment {name} names no interface: say which")
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
    begin, points = beginning(generator, points)
    return Routine(
        name=name,
        environment=environment,
        generator={"name": generator, **begin, **(generator_options or {})},
        vocs=VOCS(
            variables={variable: list(limits) for variable, limits in ranges.items()}, objectives=dict(objectives)
        ),
        initial_points=DataFrame([dict(point) for point in points]),
        # The archive makes its file's name of it.
        creation_ts=curr_ts_to_str("lcls-fname"),
    )


def beginning(generator: str, points: Sequence[Mapping[str, float]]) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Let a run begin at its one initial point without measuring that twice.

    Nelder-Mead takes the last point that was measured for the first of its simplex, and asks for it again.

    :returns: options of the generator, and the points that are still to be evaluated before it.
    """
    given = [dict(point) for point in points]
    if generator == "neldermead" and len(given) == 1:
        return {"initial_point": given[0]}, []
    return {}, given


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
    routine: Routine,
    evaluations: int | None = None,
    on_evaluation: Callable[[Evaluation], object] | None = None,
    *,
    ended: Callable[[Sequence[Evaluation]], object] | None = None,
    witness: Witness | None = None,
) -> list[Evaluation]:
    """Run a routine in this process.

    Badger's own loop for this evaluates every initial point, whatever happens meanwhile, and breaks off where no point
    fulfils the constraints yet.

    :param evaluations: after which it ends, the initial points among them; None leaves it to ``ended``.
    :param on_evaluation: called after each.
    :param ended: asked before each with those made so far; it ends when the answer is true.
    :param witness: of the routine, for a caller that wants to know what it has seen.
    :raises SetpointBlocked: in read-only, before the second evaluation of an environment that goes past its interface.
    :raises ControlError: what a set or a read raised, itself, and not packed into an error of Xopt's.
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
        # Xopt packs what an evaluation raised into an error of its own, and turns Ctrl-C into a mistake of its own.
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
    """Give the initial points and then the generator's, as long as it is not over."""
    from pandas import DataFrame

    if routine.initial_points is not None:
        for _, row in routine.initial_points.iterrows():
            if over():
                return
            yield row.to_dict()
    while not over():
        candidate = routine.generator.generate(1)[0]
        # A generator may think for seconds.
        if over():
            return
        yield DataFrame(candidate, index=[0])


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


#: What says where the PVs of an interface are.
_ADDRESSES = {"pva": "EPICS_PVA_ADDR_LIST", "ca": "EPICS_CA_ADDR_LIST"}


@contextmanager
def reaching(environment: Environment) -> Iterator[None]:
    """Say what to look at, where not one PV of an environment answers.

    :raises ReadError: what was raised inside, with that hint.
    """
    try:
        yield
    except ReadError as error:
        from .k2eg import K2egInterface

        if isinstance(environment.interface, K2egInterface):
            # Its gateway searches, not this host; the error names broker, gateway or PV.
            raise
        where = _ADDRESSES.get(getattr(environment.interface, "scheme", ""))
        silent = error.errors and all(isinstance(each, PvNotConnected) for each in error.errors.values())
        if where is None or error.partial or not silent:
            raise
        hint = f"none of the PVs answers: does {where} say where they are? `badger-k2eg ioc` starts a machine to try"
        raise read_failure(error.errors, error.partial, f"{error}\n{hint}") from None
