"""Routine files: what Badger's window saves, or a few lines written by hand; and the routine that one describes.

Badger's own loading forgets the interface, accepts unknown names, and reports other mistakes in pages. So Badger is
given objects that are made and checked here against the environment; a mistake is one line that names file and key.
``session.open_badger`` comes first, except for ``read_routine_file``; Badger is imported inside functions only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from ..core.errors import ControlError, SettingsError
from ..core.suggestions import close_to, did_you_mean
from . import session
from .evaluation import is_read_only
from .plugin_files import environment_class

if TYPE_CHECKING:
    from badger.environment import Environment
    from badger.routine import Routine

#: What a sequential generator has saved of its run; a new run begins without it.
_PROGRESS = ("current_state", "future_state", "is_active", "manual_data_cnt", "x", "y", "data", "model")
#: The same for the trust region of a Bayesian one; Badger's window drops these too.
_TRUST_REGION_PROGRESS = ("center_x", "best_value", "tkwargs")


#: Keys that are required, or may stand beside these; none of them is a misspelling of another.
_KEYS = {"environment", "generator", "vocs", "interface"}


# -- the file, without Badger ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class RoutineFile:
    """A routine file that has been read, but not yet checked.

    :ivar path: named in every error.
    :ivar content: all of it; making the routine removes what it has used.
    """

    path: Path
    content: dict[str, Any]

    def wrong(self, key: str, what: object) -> SettingsError:
        """Return the error for a key, in one line."""
        return SettingsError(f"{self.path}: {key}: {what}")

    def mapping(self, holder: dict[str, Any], key: str, where: str) -> dict[str, Any]:
        """Remove and return a part that holds keys itself; an absent one is empty."""
        part = holder.pop(key, None)
        if not isinstance(part, Mapping | None):
            raise self.wrong(where, f"names with values are expected, not {part!r}")
        return {str(name): value for name, value in (part or {}).items()}

    @contextmanager
    def errors_of(self, key: str) -> Iterator[None]:
        """Turn what pydantic, Xopt or Badger raise for a key into an error in one line."""
        try:
            yield
        except ValidationError as error:
            first = error.errors()[0]
            place = ": ".join([key, *(str(part) for part in first["loc"])])
            raise self.wrong(place, _plain(first["msg"])) from None
        except SettingsError as error:
            text = str(error)
            raise (error if text.startswith(f"{self.path}: ") else SettingsError(f"{self.path}: {text}")) from None
        except (ControlError, OSError):
            # From the machine, which may be read here: not a mistake in the file.
            raise
        except Exception as error:
            # Any exception: every generator checks its options in its own way.
            raise self.wrong(key, _plain(str(error)) or type(error).__name__) from None


def read_routine_file(path: Path) -> RoutineFile:
    """Read a routine file; needs no Badger, and no machine.

    :raises SettingsError: in one line, if it is not a routine file.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise SettingsError(f"{path}: not a YAML file: {getattr(error, 'problem', None) or error}{where}") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: not a routine file: it has no keys with values")
    file = RoutineFile(path, {str(key): value for key, value in content.items()})
    for key in ("environment", "generator"):
        if not file.content.get(key):
            if misspelt := close_to(key, file.content.keys() - _KEYS):
                raise file.wrong(misspelt, f"no such key; did you mean {key!r}?")
            raise file.wrong(key, "missing")
    return file


def _plain(message: str) -> str:
    lines = message.strip().removeprefix("Value error, ").splitlines()
    return lines[0] if lines else ""


def check_range(file: RoutineFile, key: str, domain: list[Any]) -> None:
    """Check a range.

    :raises SettingsError: unless it is two finite numbers, the lower one first.
    """
    try:
        low, high = map(float, domain)
    except (TypeError, ValueError):
        raise file.wrong(key, f"a range must be two numbers, not {domain!r}") from None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise file.wrong(key, f"a range must be two finite numbers, not {domain!r}")
    if low > high:
        raise file.wrong(key, f"bounds reversed: {low:g} is above {high:g}")
    if low == high:
        raise file.wrong(key, f"the range is empty: {low:g} to {high:g}")


# -- its routine -------------------------------------------------------------------------------------------------------


def load_routine(
    path: Path | str, parameters: Mapping[str, Any] | None = None, *, read_only: bool = False, context: Any = None
) -> Routine:
    """Return the routine of a file, with the environment and the interface that it names.

    The interface's parameters in the file hold as well, if they differ from its defaults; restrictions only tighten.
    Data of an earlier run in the file are left out. If the file has no initial points, or wants them and the ranges
    relative to the present values, the machine is read.

    :param parameters: of the environment, in place of the file's.
    :param read_only: set nothing, whatever the file says.
    :param context: for the interface, in place of our own client: a simulated machine.
    :raises SettingsError: in one line that names file and key.
    :raises ControlError: when the machine cannot be read.
    """
    file = read_routine_file(Path(path))
    _check_keys(file, file.content)
    environment = _environment(file, dict(parameters or {}), read_only, context)
    with session.reaching(environment):
        return _checked(file, environment)


def _checked(file: RoutineFile, environment: Environment) -> Routine:
    content, vocs = file.content, _vocs(file)
    _extend(environment, file, vocs)
    _check_names(file, vocs, environment)
    if content.get("relative_to_current"):
        _around_the_present(file, vocs, environment)
    _check_ranges(file, vocs, environment)
    generator = _generator(file, vocs)
    points = _initial_points(file, vocs, generator, environment)
    return _routine(file, environment, generator, points)


def _routine(file: RoutineFile, environment: Environment, generator: Any, points: Any) -> Routine:
    from badger.routine import Routine
    from badger.utils import curr_ts_to_str, get_badger_version, get_xopt_version

    rest = {name: value for name, value in file.content.items() if value is not None}
    rest.setdefault("name", file.path.stem)
    if (most := rest.pop("max_evaluations", None)) is not None:
        # Written by hand; Xopt has a condition for it.
        rest.setdefault("stopping_condition", {"name": "MaxEvaluationsCondition", "max_evaluations": most})
    for name in ("data", "id", "creation_ts", "evaluator"):
        rest.pop(name, None)
    rest |= {"badger_version": get_badger_version(), "xopt_version": get_xopt_version()}
    with file.errors_of("routine"):
        return Routine(
            environment=environment,
            generator=generator,
            initial_points=points,
            creation_ts=curr_ts_to_str("lcls-fname"),
            **rest,
        )


def _check_keys(file: RoutineFile, content: Mapping[str, Any]) -> None:
    from badger.routine import Routine

    known = {*Routine.model_fields, "vocs", "interface", "max_evaluations", "dump_file"}
    for name in content:
        if name not in known:
            raise file.wrong(name, f"no such key; {did_you_mean(name, known)}")


# -- environment and interface ----------------------------------------------------------------------------------------


def _environment(file: RoutineFile, parameters: dict[str, Any], read_only: bool, context: Any) -> Environment:
    from badger.factory import list_env

    if isinstance(name := file.content["environment"], str):
        file.content["environment"] = {"name": name}
    given = file.mapping(file.content, "environment", "environment")
    name = str(given.pop("name", None) or "")
    if name not in list_env():
        raise file.wrong("environment", f"there is no environment {name!r}; {did_you_mean(name, list_env())}")
    interface = file.mapping(given, "interface", "environment: interface")
    interface |= file.mapping(file.content, "interface", "interface")
    fields = environment_class(name)[0].model_fields
    chosen = _interface_name(given | parameters, interface)
    if "interface_name" not in fields:
        # An environment that is not derived from ours: the choice is not one of its parameters, but holds all the same.
        parameters.pop("interface_name", None)
    with file.errors_of("environment"):
        for parameter in (*given, *parameters):
            if parameter not in fields:
                raise SettingsError(
                    f"environment {name}: there is no parameter {parameter!r}; {did_you_mean(parameter, fields)}"
                )
        given |= parameters
        if read_only and "read_only" in fields:
            given["read_only"] = "yes"
        environment = session.load_environment(
            name,
            given,
            interface=chosen,
            interface_options=_interface_options(chosen, interface, read_only, context),
        )
    if read_only and not is_read_only(environment):
        raise SettingsError(f"the interface of environment {name} has no read-only mode")
    environment.reset_environment()
    return environment


def _interface_name(parameters: Mapping[str, Any], interface: Mapping[str, Any]) -> str | None:
    """Return the interface of the parameter, or of the file; None for the first one of configs.yaml."""
    wanted = str(parameters.get("interface_name") or "").strip()
    if wanted and wanted.lower() != "as configured":
        return wanted
    return interface.get("name")


def _interface_options(chosen: str | None, interface: dict[str, Any], read_only: bool, context: Any) -> dict[str, Any]:
    """Return the options of the file's interface that were changed: Badger saves all, untouched ones too.

    If another interface is chosen, the options that both have count: limits hold on every way to the machine.
    """
    from badger.factory import get_intf, list_intf

    own = interface.get("name") or chosen
    options = {**interface, **(interface.get("params") or {})}
    for name in ("name", "params"):
        options.pop(name, None)
    if own in list_intf():
        fields = get_intf(own)[0].model_fields
        # A default that is written out would take precedence over an operator's environment variable.
        options = {
            name: value
            for name, value in options.items()
            if name not in fields or not _same(value, fields[name].get_default(call_default_factory=True))
        }
    if chosen != own and chosen in list_intf():
        known = get_intf(chosen)[0].model_fields
        options = {name: value for name, value in options.items() if name in known}
    if read_only:
        options["read_only"] = True
    if context is not None:
        options["context"] = context
    return options


def _same(value: Any, default: Any) -> bool:
    return bool(
        (list(value) if isinstance(default, tuple) and isinstance(value, list) else value)
        == (list(default) if isinstance(default, tuple) else default)
    )


# -- variables, objectives, constraints -------------------------------------------------------------------------------


def _vocs(file: RoutineFile) -> Any:
    """Return the VOCS; Badger saves it within the generator, older versions beside it."""
    from xopt import VOCS

    generator = file.content["generator"]
    if isinstance(generator, str):
        generator = file.content["generator"] = {"name": generator}
    if not isinstance(generator, dict):
        raise file.wrong("generator", f"a name is expected, or names with values, not {generator!r}")
    inner = file.mapping(generator, "vocs", "generator: vocs")
    vocs = file.mapping(file.content, "vocs", "vocs") or inner
    for part in vocs:
        if part not in VOCS.model_fields:
            raise file.wrong(f"vocs: {part}", f"no such key; {did_you_mean(part, VOCS.model_fields)}")
    if not vocs.get("variables"):
        raise file.wrong("vocs: variables", "missing; at least one is needed")
    if not vocs.get("objectives"):
        raise file.wrong("vocs: objectives", "missing; at least one is needed")
    for part in ("variables", "objectives", "constraints"):
        if not isinstance(vocs.get(part) or {}, Mapping):
            raise file.wrong(f"vocs: {part}", f"names with values are expected, not {vocs[part]!r}")
    for name, given in vocs["variables"].items():
        domain = given.get("domain") if isinstance(given, Mapping) else given
        if isinstance(domain, list) and len(domain) == 2:
            check_range(file, f"vocs: variables: {name}", domain)
        elif domain is not None or not isinstance(given, Mapping):
            raise file.wrong(f"vocs: variables: {name}", f"a range must be two numbers, not {domain!r}")
    _check_rules(file, vocs)
    with file.errors_of("vocs"):
        # Xopt does not like empty parts.
        return VOCS(**{part: value for part, value in vocs.items() if value})


def _check_rules(file: RoutineFile, vocs: Mapping[str, Any]) -> None:
    """Check the rules ``MINIMIZE``, ``LESS_THAN`` and so on; Xopt's own error does not list them."""
    from gest_api.vocs import CONSTRAINT_CLASSES, OBJECTIVE_CLASSES

    for part, rules in (("objectives", OBJECTIVE_CLASSES), ("constraints", CONSTRAINT_CLASSES)):
        for name, rule in (vocs.get(part) or {}).items():
            word = rule[0] if isinstance(rule, list) and rule else rule
            # A mapping is what Badger's window saves.
            if not isinstance(word, Mapping) and str(word).upper() not in rules:
                hint = did_you_mean(str(word), rules, "rules")
                raise file.wrong(f"vocs: {part}: {name}", f"there is no rule {word!r}; {hint}")


def _extend(environment: Environment, file: RoutineFile, vocs: Any) -> None:
    """Add the variables and hard limits of the window to the environment."""
    hard = file.mapping(dict(file.content), "vrange_hard_limit", "vrange_hard_limit")
    for name, limits in hard.items():
        check_range(file, f"vrange_hard_limit: {name}", list(limits) if isinstance(limits, list | tuple) else [limits])
    # Badger itself changes the class in the same way.
    environment.variables.update(hard)
    for name in file.content.get("additional_variables") or []:
        if name in vocs.variables and name not in environment.variables:
            environment.variables[name] = list(vocs.variables[name].domain)


def _check_names(file: RoutineFile, vocs: Any, environment: Environment) -> None:
    for name in vocs.variable_names:
        if name not in environment.variables:
            known = did_you_mean(name, environment.variables)
            raise file.wrong(
                f"vocs: variables: {name}", f"environment {environment.name} has no such variable; {known}"
            )
    for part in ("objectives", "constraints", "observables"):
        for name in getattr(vocs, part) or {}:
            # A name with ` is a formula of observables.
            if name not in environment.observables and "`" not in name:
                known = did_you_mean(name, environment.observables)
                raise file.wrong(
                    f"vocs: {part}: {name}", f"environment {environment.name} has no such observable; {known}"
                )


def _check_ranges(file: RoutineFile, vocs: Any, environment: Environment) -> None:
    """Compare ranges with the environment's bounds, which would refuse a point beyond them in mid-run."""
    for name, (low, high) in environment.get_bounds(list(vocs.variable_names)).items():
        domain = getattr(vocs.variables[name], "domain", None)
        if domain is not None and (domain[0] < low or domain[1] > high):
            bounds = f"the bounds of environment {environment.name}, {low:g} to {high:g}"
            raise file.wrong(f"vocs: variables: {name}", f"{domain[0]:g} to {domain[1]:g} exceeds {bounds}")


def _around_the_present(file: RoutineFile, vocs: Any, environment: Environment) -> None:
    """Set ranges and initial points around the present values, as the window does."""
    from badger.routine import calculate_variable_bounds
    from xopt.vocs import get_local_region, random_inputs

    options = file.mapping(dict(file.content), "vrange_limit_options", "vrange_limit_options")
    with file.errors_of("vrange_limit_options"):
        for name, domain in calculate_variable_bounds(options, vocs, environment).items():
            check_range(file, f"vrange_limit_options: {name}", domain)
            vocs.variables[name].domain = [float(each) for each in domain]
    points: list[dict[str, float]] = []
    with file.errors_of("initial_point_actions"):
        here = environment.get_variables(list(vocs.variable_names))
        for action in file.content.get("initial_point_actions") or [{"type": "add_curr"}]:
            if action["type"] == "add_curr":
                points.append(here)
            elif action["type"] == "add_rand":
                region = get_local_region(vocs, here, fraction=action["config"]["fraction"])
                points += random_inputs(vocs, action["config"]["n_points"], region, include_constants=False)
    file.content["initial_points"] = points


# -- generator and initial points -------------------------------------------------------------------------------------


def _generator(file: RoutineFile, vocs: Any) -> Any:
    from xopt.generators import all_generator_names, get_generator

    options = file.mapping(file.content, "generator", "generator")
    name = str(options.pop("name", None) or "")
    known = {"random"}.union(*all_generator_names.values())
    if name not in known:
        raise file.wrong("generator", f"there is no generator {name!r}; {did_you_mean(name, known)}")
    with file.errors_of(f"generator {name}"):
        generator_class = get_generator(name)
        for option in (*_PROGRESS, *(field for field, info in generator_class.model_fields.items() if info.frozen)):
            options.pop(option, None)
        for option in options:
            if option not in generator_class.model_fields:
                raise ValueError(f"there is no option {option!r}; {did_you_mean(option, generator_class.model_fields)}")
        if isinstance(turbo := options.get("turbo_controller"), dict):
            options["turbo_controller"] = {k: v for k, v in turbo.items() if k not in _TRUST_REGION_PROGRESS}
        return generator_class.model_validate({**options, "vocs": vocs})


def _initial_points(file: RoutineFile, vocs: Any, generator: Any, environment: Environment) -> Any:
    """Return the table of initial points: the file's, or the present values if the generator has none either."""
    from pandas import DataFrame

    names = list(vocs.variable_names)
    given = file.content.pop("initial_points", None)
    begun = any(getattr(generator, name, None) is not None for name in ("initial_point", "initial_simplex"))
    if given is None:
        given = [] if begun else [environment.get_variables(names)]
    with file.errors_of("initial_points"):
        if isinstance(given, Mapping):
            # As Badger saves it: {variable: {row: value}}.
            given = {name: list(v.values()) if isinstance(v, Mapping) else v for name, v in given.items()}
        points = DataFrame(given, columns=None if len(given) else names)
        if set(points.columns) != set(names):
            raise ValueError(f"a point must have {', '.join(names)}, not {', '.join(map(str, points.columns))}")
        points = points[names].astype(float)
    for name in names:
        domain = getattr(vocs.variables[name], "domain", None) or (-math.inf, math.inf)
        for value in points[name]:
            if not domain[0] <= value <= domain[1]:
                raise file.wrong(
                    "initial_points", f"{name} = {value:g} is outside its range, {domain[0]:g} to {domain[1]:g}"
                )
    if not begun:
        begin, rest = session.beginning(generator.name, points.to_dict("records"))
        for option, value in begin.items():
            setattr(generator, option, value)
        points = DataFrame(rest, columns=names)
    return points
