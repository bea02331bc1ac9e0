"""The options: where their values come from, and the frozen ``Settings`` that result.

Precedence: keyword or field > ``BADGER_K2EG_<OPTION>`` > ``[badger_k2eg]`` of the ini file > default. Restrictions
(read_only, allow, limits, max_step, put_interval, put_rate, max_failures) only tighten: the strictest source wins, and
a system-wide policy file applies to these too. No file is read before ``load``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import platformdirs
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from . import config_files
from .errors import SettingsError
from .model import Limits, PvAddress
from .pv_names import covers, fits, own_name
from .suggestions import did_you_mean
from .units import FILE_VARIABLE as UNITS_VARIABLE

M = TypeVar("M", bound=BaseModel)

PREFIX = "BADGER_K2EG_"
SECTION = "badger_k2eg"
#: Names a further policy file, which can add restrictions to the system-wide ones, not lift them.
POLICY_VARIABLE = PREFIX + "POLICY"
#: Names the ini file to use in place of the user's.
CONFIG_VARIABLE = PREFIX + "CONFIG"
SYSTEM_POLICY = Path("/etc/badger-k2eg/policy.ini")
#: Prefixes of the options of other parts of the package, which are not options of an interface; see ``family``.
FAMILIES = ("journal_", "lock_", "replay_", "run_", "status_")


def _words(text: str) -> list[str]:
    """Split ``"QUAD:*, SOL:1"`` into its words; in a file each may be on its own line."""
    return [word for part in re.split("[,\n]", text) if (word := part.strip())]


def _pattern(word: str) -> str:
    if len(word.split()) > 1:
        raise ValueError(f"{word!r} matches no PV: a name has no blanks; write a comma between two patterns")
    return word


def _patterns(value: Any) -> Any:
    return tuple(map(_pattern, _words(value))) if isinstance(value, str) else value


def _pairs(value: Any, parse: Callable[[str], Any]) -> Any:
    """Return ``"QUAD:*=0.5, SOL:1=2"`` as a dict; a value without a pattern applies to every PV."""
    if not isinstance(value, str):
        return {"*": value} if isinstance(value, int | float) else value
    pairs = {}
    for word in _words(value):
        before, equals, text = word.rpartition("=")
        pattern = _pattern(before.strip()) if equals else "*"
        if pattern in pairs:
            # The last one would win, which may not be the stricter one.
            raise ValueError(f"{pattern} appears twice")
        pairs[pattern] = parse(text.strip())
    return pairs


def _range(text: str) -> tuple[str, str]:
    low, dots, high = text.partition("..")
    if not dots:
        raise ValueError(f"{text!r} is not a range; write PATTERN=LOW..HIGH")
    return low, high


def _limits(value: Any) -> Any:
    if isinstance(value := _pairs(value, _range), Mapping):
        return {
            pattern: limits if isinstance(limits, Limits) else _ordered(pattern, limits)
            for pattern, limits in value.items()
        }
    return value


def _ordered(pattern: str, pair: Any) -> Limits:
    try:
        low, high = (None if end in (None, "") else _exact(end) for end in pair)
        if low != low or high != high:
            raise ValueError("NaN is not a limit")
    except (TypeError, ValueError):
        raise ValueError(f"the limits of {pattern} are two numbers, not {pair!r}") from None
    if low is not None and high is not None and not low <= high:
        raise ValueError(f"the limits of {pattern} are reversed: {low:g} is above {high:g}")
    return Limits(low, high)


def _exact(end: Any) -> float:
    """Return a number; an integer stays one, because beyond 2**53 a float would be another number."""
    try:
        return end if isinstance(end, int) else int(str(end))
    except ValueError:
        return float(end)


Seconds = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Patterns = Annotated[tuple[str, ...], BeforeValidator(_patterns)]
Steps = Annotated[
    dict[str, Annotated[float, Field(gt=0.0, allow_inf_nan=False)]], BeforeValidator(lambda v: _pairs(v, str))
]
Tolerances = Annotated[
    dict[str, Annotated[float, Field(ge=0.0, allow_inf_nan=False)]], BeforeValidator(lambda v: _pairs(v, str))
]
Ranges = Annotated[dict[str, Limits], BeforeValidator(_limits)]


class Options(BaseModel):
    """The options of one source; None for those that it does not set."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    read_only: bool | None = Field(default=None, description="log what would be set, and set nothing")
    parallel: bool | None = Field(default=None, description="send all setpoints of a call at once")
    timeout: float | None = Field(default=None, description="seconds for one attempt; -1 waits for ever")
    put_attempts: int | None = Field(default=None, ge=1, le=10, description="how often a put is sent at most")
    retry_delay: Seconds | None = Field(default=None, description="seconds before a put is sent again")
    on_read_error: Literal["raise", "nan"] | None = Field(default=None, description="what a failed read gives")
    reject_severity: Literal["none", "minor", "major", "invalid"] | None = Field(
        default=None, description="alarm severity from which on a value is not a valid reading"
    )
    wait: Patterns | None = Field(default=None, description="PVs whose put waits for the record to finish processing")
    relative: Patterns | None = Field(default=None, description="command and tweak PVs: never sent twice")
    put_tolerance: Tolerances | None = Field(
        default=None, description="how far from the value asked a setpoint may be, for records that quantise"
    )
    ramp: bool | None = Field(
        default=None, description="go further than max_step in several steps, instead of refusing"
    )
    allow: Patterns | None = Field(default=None, description="the only PVs that may be set")
    limits: Ranges | None = Field(default=None, description="own limits, within those of the record")
    max_step: Steps | None = Field(default=None, description="the largest change of one put, in the PV's unit")
    put_interval: Seconds | None = Field(default=None, description="least seconds between two puts to one PV")
    put_rate: Annotated[float, Field(gt=0.0)] | None = Field(default=None, description="most puts per second in all")
    max_failures: int | None = Field(
        default=None, ge=1, description="failed evaluations in a row before setting pauses"
    )

    @field_validator("timeout")
    @classmethod
    def _positive_or_forever(cls, value: float | None) -> float | None:
        if value is not None and value != -1 and not value > 0:
            raise ValueError("a timeout is a positive number of seconds, or -1 to wait for ever")
        return value


_RESTRICTIONS = ("read_only", "allow", "limits", "max_step", "put_interval", "put_rate", "max_failures")


class Settings(BaseModel):
    """The options in force. Restrictions are the strictest of all sources."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    read_only: bool = False
    parallel: bool = False
    timeout: float = 3.0
    put_attempts: int = 2
    retry_delay: float = 1.0
    on_read_error: Literal["raise", "nan"] = "raise"
    reject_severity: Literal["none", "minor", "major", "invalid"] = "invalid"
    wait: tuple[str, ...] = ()
    relative: tuple[str, ...] = ()
    put_tolerance: tuple[tuple[str, float], ...] = ()
    ramp: bool = False
    #: A PV must be allowed by every one of these lists.
    allow: tuple[tuple[str, ...], ...] = ()
    limits: tuple[tuple[str, Limits], ...] = ()
    max_step: tuple[tuple[str, float], ...] = ()
    put_interval: float = 0.0
    put_rate: float | None = None
    max_failures: int | None = None

    @property
    def depend_on_names(self) -> bool:
        """Whether any option applies to some PVs and not to others."""
        options = (
            *self.allow,
            self.wait,
            self.relative,
            *([p] for p, _ in (*self.limits, *self.max_step, *self.put_tolerance)),
        )
        return any(pattern != "*" for patterns in options for pattern in patterns) or self.put_interval > 0.0

    def limits_of(self, pv: str | PvAddress) -> Limits:
        """Return the configured limits of a PV: the range that every matching line allows."""
        found, names = Limits(), _names(pv)
        for pattern, limits in self.limits:
            if any(covers(name, pattern) for name in names):
                found = found.tightened(limits)
        return found

    def step_of(self, pv: str | PvAddress) -> float | None:
        """Return the largest change of one put to a PV."""
        names = _names(pv)
        steps = (step for pattern, step in self.max_step if any(covers(name, pattern) for name in names))
        return min(steps, default=None)

    def tolerance_of(self, pv: str | PvAddress) -> float:
        """Return how far from the value asked a setpoint may be: 0 unless configured."""
        names = _names(pv)
        return min((wide for pattern, wide in self.put_tolerance if _fit(names, pattern)), default=0.0)

    def allows(self, pv: str | PvAddress) -> bool:
        """Return whether every allow-list has the PV."""
        names = _names(pv)
        return all(any(_fit(names, pattern) for pattern in patterns) for patterns in self.allow)


def matches(pv: str | PvAddress, patterns: Iterable[str]) -> bool:
    """Return whether a restriction on patterns applies to a PV by any of its names; see ``pv_names.covers``."""
    names = _names(pv)
    return any(covers(name, pattern) for pattern in patterns for name in names)


def _names(pv: str | PvAddress) -> tuple[str, ...]:
    return pv.names if isinstance(pv, PvAddress) else (own_name(pv),)


def _fit(names: tuple[str, ...], pattern: str) -> bool:
    # Nearly always by the first name.
    return fits(names[0], pattern) or any(fits(name, pattern) for name in names[1:])


def resolve(sources: Iterable[Options], defaults: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings that sources combine to, given the strongest first.

    :param defaults: an interface's own defaults, weaker than every source.
    """
    chosen: dict[str, Any] = dict(defaults or {})
    given = list(sources)
    for options in reversed(given):
        chosen.update({k: v for k, v in options.model_dump(exclude_none=True).items() if k not in _RESTRICTIONS})
    if isinstance(tolerances := chosen.get("put_tolerance"), Mapping):
        chosen["put_tolerance"] = tuple(tolerances.items())
    intervals = [o.put_interval for o in given if o.put_interval is not None]
    rates = [o.put_rate for o in given if o.put_rate is not None]
    failures = [o.max_failures for o in given if o.max_failures is not None]
    return Settings(
        **chosen,
        read_only=any(o.read_only for o in given),
        allow=tuple(o.allow for o in given if o.allow is not None),
        limits=tuple(item for o in given for item in (o.limits or {}).items()),
        max_step=tuple(item for o in given for item in (o.max_step or {}).items()),
        put_interval=max(intervals, default=0.0),
        put_rate=min(rates, default=None),
        max_failures=min(failures, default=None),
    )


def parse(values: Mapping[str, Any], source: Callable[[str], str], besides: Collection[str] = ()) -> Options:
    """Return the options of one source.

    :param source: returns how to show an option's name to the user (``environment variable BADGER_K2EG_TIMEOUT``).
    :param besides: names of other options, for suggestions.
    :raises SettingsError: one line for the first wrong name or value.
    """
    return _validated(Options, values, source, besides)


def _validated(
    model: type[M], values: Mapping[str, Any], source: Callable[[str], str], besides: Collection[str] = ()
) -> M:
    for name in values:
        if name not in model.model_fields:
            hint = did_you_mean(name, [*model.model_fields, *besides], "options")
            raise SettingsError(f"{source(name)}: there is no option {name!r}; {hint}")
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        reason = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{source(name)} = {values[name]!r}: {reason}") from None


def from_environment(environ: Mapping[str, str] | None = None) -> Options:
    """Return the options of the ``BADGER_K2EG_*`` variables; an empty one counts as not set.

    :raises SettingsError: also for an unknown name: a misspelt restriction must not be without effect.
    """
    environ = os.environ if environ is None else environ
    values = {name: text for name, text in _variables(environ).items() if not name.startswith(FAMILIES)}
    return parse(values, _variable)


def _variables(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        key.removeprefix(PREFIX).lower(): text
        for key, text in environ.items()
        if key.startswith(PREFIX) and key not in (POLICY_VARIABLE, CONFIG_VARIABLE, UNITS_VARIABLE) and text
    }


def _variable(name: str) -> str:
    return f"environment variable {PREFIX}{name.upper()}"


def from_file(path: Path, *, required: bool) -> Options:
    """Return the options in the section ``[badger_k2eg]`` of the user's ini file.

    :param required: whether a missing file is an error, because the user named it.
    :raises SettingsError: if the file cannot be read, or anything in it would be without effect.
    """
    values = {name: text for name, text in _lines(path, required=required).items() if not name.startswith(FAMILIES)}
    return parse(values, _line_of(path))


def _line_of(path: Path) -> Callable[[str], str]:
    return lambda name: f"{path} [{SECTION}] {name}"


def _lines(path: Path, *, required: bool, may_be_empty: bool = True) -> Mapping[str, str]:
    values = config_files.read_only_section(path, SECTION, may_be_empty=may_be_empty)
    if values is None and required:
        raise SettingsError(f"{path}: no such file")
    for name, text in (values or {}).items():
        # A value may have several lines: an option among them would be a part of it, and without effect.
        for line in text.splitlines()[1:]:
            if _is_option(swallowed := re.split("[=:]", line)[0].strip().lower()):
                raise SettingsError(
                    f"{path} [{SECTION}]: {swallowed} is indented, and so a part of {name} above it; "
                    "remove the indentation"
                )
    return values or {}


def _is_option(name: str) -> bool:
    return name in Options.model_fields or name.startswith(FAMILIES)


def load(keywords: Mapping[str, Any] | None = None, defaults: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings of all sources together.

    :param keywords: the options given to the interface by name.
    :raises SettingsError: naming the option, its source and what is wrong.
    """
    environ = os.environ
    ini, named = _ini()
    sources = [
        parse(keywords or {}, lambda name: f"option {name}"),
        from_environment(environ),
        from_file(ini, required=named),
        _policy(SYSTEM_POLICY, required=False),
    ]
    if extra := environ.get(POLICY_VARIABLE):
        sources.append(_policy(Path(extra), required=True))
    return resolve(sources, defaults)


def _ini() -> tuple[Path, bool]:
    """Return the path of the ini file, and whether the user named it."""
    named = os.environ.get(CONFIG_VARIABLE)
    return (Path(named) if named else platformdirs.user_config_path("badger-k2eg") / "badger-k2eg.ini"), bool(named)


def family(prefix: str, model: type[M]) -> M:
    """Return the options of a part of the package: ``BADGER_K2EG_JOURNAL_DIR``, or ``journal_dir`` in the ini file.

    :param prefix: one of ``FAMILIES``.
    :param model: has the options without their prefix, and their defaults.
    :raises SettingsError: one line for the first wrong name or value.
    """
    path, named = _ini()
    sources: list[tuple[Mapping[str, str], Callable[[str], str]]] = [
        (_lines(path, required=named), _line_of(path)),
        (_variables(os.environ), _variable),
    ]
    chosen: dict[str, str] = {}
    for values, source in sources:
        own = {name.removeprefix(prefix): text for name, text in values.items() if name.startswith(prefix)}
        _validated(model, own, lambda name, source=source: source(prefix + name))  # type: ignore[misc]
        chosen |= own
    return model.model_validate(chosen)


def _policy(path: Path, *, required: bool) -> Options:
    values = _lines(path, required=required, may_be_empty=False)
    for name in values:
        if _is_option(name) and name not in _RESTRICTIONS:
            raise SettingsError(f"{path} [{SECTION}] {name}: a policy file holds restrictions only")
    return parse(values, _line_of(path))
