"""``badger-k2eg procedure MODULE:FUNCTION``: a procedure, run with record, locks, guards and a safe stop."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import SetpointBlocked, SettingsError
from ..core.suggestions import did_you_mean, in_lines
from . import FAILED, REFUSED
from .connection_options import assignments, chosen_way, control_by, reached
from .console import Console, say
from .signals import stopped_by_signals

if TYPE_CHECKING:
    from .. import run
    from ..procedures import Step


@click.command()
@click.argument("function", metavar="MODULE:FUNCTION")
@click.option(
    "--param",
    "parameters",
    multiple=True,
    callback=assignments,
    metavar="NAME=VALUE",
    help="a parameter of the function; a number, true, false, null, a JSON list, or a text; may be repeated",
)
@reached
@click.option("--read-only", is_flag=True, help="set nothing on the machine")
@click.option("--force", is_flag=True, help="also set what another process has locked; this is recorded")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="plot the result to FILE.png")
@click.option("--quiet", is_flag=True, help="print errors only")
@click.option("--json", "as_json", is_flag=True, help="write the result to standard output as JSON")
def procedure(
    function: str,
    parameters: Mapping[str, str],
    read_only: bool,
    force: bool,
    plot: Path | None,
    quiet: bool,
    as_json: bool,
    **way: Any,
) -> int:
    """Run a procedure: a Python function whose first parameter is the control.

    The module is also searched for in the working directory. Options come from the environment and the ini file, as for
    an interface. What the procedure sets is locked until its end, and recorded as a run; a PV that another process has
    locked is refused. Exit code: 0 done, 1 failed, 2 a mistake in the command, 3 refused by a guard, 130 Ctrl-C, 143
    SIGTERM.
    """
    call = _bound(_found(function), function, parameters)
    console = Console(quiet=quiet, stderr=as_json)
    from ..run.manifest import recorded_way

    manifest = {"what": "procedure", "procedure": function, "parameters": dict(parameters), "read_only": read_only}
    manifest["way"] = recorded_way(chosen_way(**way))
    if force:
        manifest["force"] = True
    with _Run(manifest, way, read_only=read_only, force=force) as ours:
        code, result, error = _run(ours, call, console)
    if ours.run.began:
        console.print(f"run {ours.run.id}, recorded in {ours.run.place or 'no journal'}")
    if error is None:
        code, error = _show(result, plot, as_json, console)
    if error is not None:
        say(*f"badger-k2eg procedure: {error}".split("\n"), err=True)
    return code


# -- the function -----------------------------------------------------------------------------------------------------


def _found(text: str) -> Callable[..., Any]:
    module_name, colon, name = text.partition(":")
    if not colon or not module_name or not name:
        raise click.UsageError(f"{text!r} is not MODULE:FUNCTION, such as badger_k2eg.procedures:degauss")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise click.UsageError(f"{module_name} cannot be imported: {error}") from None
    functions = [each for each, _ in inspect.getmembers(module, inspect.isfunction) if not each.startswith("_")]
    found = getattr(module, name, None)
    if not callable(found):
        raise click.UsageError(f"{module_name} has no function {name!r}; {did_you_mean(name, functions, 'functions')}")
    call: Callable[..., Any] = found
    return call


def _bound(call: Callable[..., Any], text: str, parameters: Mapping[str, str]) -> Callable[..., Any]:
    """Bind the parameters, and return a function of the control alone."""
    signature = inspect.signature(call)
    names = list(signature.parameters)[1:]
    if not signature.parameters:
        raise click.UsageError(f"{text} takes no control: a procedure is a function name(control, ...)")
    takes_any = any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values())
    for name in parameters:
        if name not in names and not takes_any:
            raise click.UsageError(f"{text} has no parameter {name!r}; {did_you_mean(name, names, 'parameters')}")
    values = {name: _value(word) for name, word in parameters.items()}
    try:
        signature.bind(None, **values)
    except TypeError as error:
        raise click.UsageError(f"{text}: {error}") from None
    return lambda control: call(control, **values)


def _value(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError:
        return word


# -- the run ----------------------------------------------------------------------------------------------------------


class _Run:
    """The run of the procedure, with its Control. Ctrl-C and SIGTERM stop it: every call of it ends at once."""

    run: run.Run

    def __init__(self, manifest: Mapping[str, Any], way: Mapping[str, Any], *, read_only: bool, force: bool) -> None:
        self._manifest, self._way, self._force = manifest, way, force
        self._options: dict[str, Any] = {"read_only": True} if read_only else {}
        self.codes: list[int] = []

    def __enter__(self) -> _Run:
        from .. import run

        attachment = run.Attachment(lambda: self._manifest, force=self._force)
        self.control = attachment.attach(control_by(self._way, **self._options))
        self.run = run.begin(self._manifest, signals=False)
        self._signals = stopped_by_signals(self._stop)
        self._signals.__enter__()
        return self

    def _stop(self, signal: str, code: int) -> None:
        self.codes.append(code)
        self.run.stop(f"stopped by {signal}")

    def __exit__(self, *ended: Any) -> None:
        self._signals.__exit__(*ended)
        self.control.close()
        self.control.backend.close()


def _run(ours: _Run, call: Callable[..., Any], console: Console) -> tuple[int, Any, str | None]:
    """Call the procedure, and end its run.

    :returns: exit code, result, and what went wrong in one line.
    """
    from .. import procedures, run

    def show(step: Step) -> None:
        of = "" if step.total is None else f"/{step.total}"
        console.print(f"{step.done}{of} {step.text}")

    try:
        with run.inside(ends=False), procedures.reported_to(show):
            result = call(ours.control)
    except CancelledError:
        run.end(run.Reason.STOPPED, ours.run.message or "cancelled")
        return (ours.codes[0] if ours.codes else FAILED), None, ours.run.message or "cancelled"
    except Exception as problem:
        # Whatever a procedure raises is a failed run, reported in one line.
        ours.run.failure = problem
        run.end(run.Reason.FAILED, str(problem))
        code = REFUSED if isinstance(problem, SetpointBlocked) else FAILED
        if isinstance(problem, SettingsError):
            raise
        kind = "" if str(problem) else type(problem).__name__
        return code, None, f"{kind}{in_lines(problem)}"
    run.end(run.Reason.SUCCESS)
    return 0, result, None


# -- the result -------------------------------------------------------------------------------------------------------


def _show(result: Any, plot: Path | None, as_json: bool, console: Console) -> tuple[int, str | None]:
    if as_json:
        click.echo(json.dumps(_plain(result), indent=2))
    elif result is not None and not hasattr(result, "rows"):
        console.print(*_lines(result), sep="\n")
    if plot is None:
        return 0, None
    if not hasattr(result, "plot"):
        return FAILED, f"no plot: the procedure returns {type(result).__name__}, which cannot be plotted"
    try:
        result.plot(plot)
    except OSError as error:
        return FAILED, f"no plot: {plot}: {error.strerror or error}"
    console.print(f"plot: {plot}")
    return 0, None


def _lines(result: Any) -> list[str]:
    from ..core.model import Reading

    if isinstance(result, Reading):
        shown = result.label if result.label is not None else result.plain
        return [f"{shown} {result.units}".rstrip()]
    if isinstance(result, Mapping):
        return [
            f"{name}: {first}" if not number else first
            for name, item in result.items()
            for number, first in enumerate(_lines(item) or [""])
        ]
    return str(result).split("\n")


def _plain(value: Any) -> Any:
    """Return a result in the types of JSON."""
    from ..core.model import Reading, plain

    value = plain(value)
    if hasattr(value, "rows"):
        return _plain(value.rows)
    if isinstance(value, Reading):
        return {"value": value.plain, "units": value.units, "timestamp": value.timestamp}
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | None) else str(value)
