"""The run of a routine in this process: its manifest, its beginning and end, and the calls of an environment in it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import run
from ..core.errors import ControlError

if TYPE_CHECKING:
    from badger.environment import Environment
    from badger.routine import Routine

#: What Badger calls in an evaluation: a run that is stopped ends when such a call returns.
_CALLS = ("get_variables", "set_variables", "get_observables")


def framed(cls: type) -> None:
    """Make the calls that a class itself defines frames of the run."""
    for name in _CALLS:
        if callable(method := vars(cls).get(name)):
            setattr(cls, name, _framed(method))


def _framed(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def inside(self: Any, *arguments: Any, **words: Any) -> Any:
        with run.inside():
            return method(self, *arguments, **words)

    return inside


def described(environment: Environment) -> dict[str, Any]:
    """Return the part of a run's manifest that describes an environment."""
    names = list(environment.variables)
    variables = pvs_of(environment, names) if hasattr(environment, "pv") else dict(zip(names, names, strict=True))
    return {
        "name": environment.name,
        "parameters": _dumped(environment, exclude={"interface"}),
        "variables": variables,
        "observables": list(environment.observables),
    }


def begin(routine: Routine, *, keeps_policy: bool) -> run.Run:
    """Open the run of a routine in this process; the caller ends it, and handles signals.

    :param keeps_policy: False if the caller itself decides where the machine is left.
    """
    environment, vocs = routine.environment, routine.vocs
    attachment = getattr(environment.interface, "attachment", None)
    policies = dict(attachment.policies) if isinstance(attachment, run.Attachment) else {}
    if not keeps_policy:
        policies = {"on_cancelled": "leave", "on_exception": "leave"}
    return run.begin(
        {
            "routine": routine.name,
            "environment": described(environment),
            "generator": routine.generator.name,
            "objectives": {name: _direction(objective) for name, objective in vocs.objectives.items()},
            "vocs": _dumped(vocs),
            "file": {key: value for key, value in json.loads(routine.json()).items() if key != "data"},
        },
        policies,
        signals=False,
    )


def _direction(objective: Any) -> str:
    return type(objective).__name__.removesuffix("Objective").upper()


def end(ours: run.Run, reason: str, failure: BaseException | None, archive: Path | None) -> None:
    """End the run of a routine."""
    if archive is not None:
        ours.outcome["archive"] = str(archive)
    ours.failure = failure
    if ours.reason is None and isinstance(failure, KeyboardInterrupt):
        ours.stop(reason)
    run.end(run.Reason.SUCCESS if failure is None else run.Reason.FAILED, reason)


def _dumped(model: Any, **options: Any) -> dict[str, Any]:
    try:
        dumped: dict[str, Any] = model.model_dump(mode="json", **options)
    except Exception as error:  # a field of the author's own class; it must not keep a run from beginning
        return {"error": f"{type(error).__name__}: {error}"}
    return dumped


def pvs_of(environment: Any, variables: Iterable[str]) -> dict[str, str]:
    """Return the PVs of variables, without those whose parameter is empty."""
    found = {}
    for name in variables:
        try:
            found[name] = environment.pv(name)
        except ControlError:
            # Its parameter is empty: it is not in use, or the set itself will say so.
            continue
    return found
