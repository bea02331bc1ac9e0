"""``badger-k2eg run ROUTINE.yaml``: a routine file, run without Badger's window.

Owns the options, what is said of a run while it goes on and at its end, and its exit code; the run itself is
``badger_app.headless``. Signals only set a mark: an exception out of a handler would leave the machine and Xopt in the
middle of something.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..errors import SetpointBlocked, SettingsError
from . import FAILED, INTERRUPTED, REFUSED, TERMINATED, USAGE

if TYPE_CHECKING:
    from ..badger_app.headless import HeadlessRun, State
    from ..badger_app.runner import Evaluation

_SIGNALS = {signal.SIGINT: ("Ctrl-C", INTERRUPTED), signal.SIGTERM: ("SIGTERM", TERMINATED)}


def _assignments(context: click.Context, parameter: click.Parameter, words: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise click.BadParameter(f"{word!r} is not NAME=VALUE", context, parameter)
        pairs[name.strip()] = value.strip()
    return pairs


def _png(context: click.Context, parameter: click.Parameter, file: Path | None) -> Path | None:
    if file is not None and file.suffix.lower() != ".png":
        raise click.BadParameter(f"{file} does not end in .png", context, parameter)
    return file


@click.command()
@click.argument("routine", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--evaluations", type=click.IntRange(min=1), help="end after so many, the initial points among them")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="begin no evaluation after so long")
@click.option("--target", type=float, help="end when the one objective is as good as this")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("badger-runs"),
    show_default=True,
    help="folder for archive and plot",
)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), callback=_png, help="the plot, FILE.png")
@click.option("--no-plot", is_flag=True, help="make no plot")
@click.option(
    "--set",
    "parameters",
    multiple=True,
    callback=_assignments,
    metavar="NAME=VALUE",
    help="a parameter of the environment, in place of the file's; may be repeated",
)
@click.option("--read-only", is_flag=True, help="set nothing on the machine")
@click.option("--go-to-best", "at_end", flag_value="best", help="leave the machine at the best point")
@click.option("--restore", "at_end", flag_value="restore", help="leave the machine where it was before")
@click.option(
    "--plugin-root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="where interfaces/ and environments/ are; by default those of badger-k2eg",
)
@click.option("--quiet", is_flag=True, help="say nothing but what went wrong")
@click.option("--json", "as_json", is_flag=True, help="write the outcome to standard output as JSON")
def run(
    routine: Path,
    evaluations: int | None,
    seconds: float | None,
    target: float | None,
    output: Path,
    plot: Path | None,
    no_plot: bool,
    parameters: Mapping[str, str],
    read_only: bool,
    at_end: str | None,
    plugin_root: Path | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Run a routine file, as Badger's window saves it or written by hand, without the window.

    The first end to come true ends it: of the options, and of the file's stopping_condition. The machine is left where
    the last evaluation put it. Exit code: 0 done, 1 failed, 2 a mistake in the command or the file, 3 refused by a
    guard, 130 Ctrl-C, 143 SIGTERM; archive and plot are written in each of these cases, once something was evaluated.
    """
    if plot is not None and no_plot:
        raise click.UsageError("--plot and --no-plot exclude each other")
    output = output.resolve()
    console = Console(highlight=False, quiet=quiet, stderr=as_json, soft_wrap=True)
    with warnings.catch_warnings():
        # Of Badger's and Xopt's own libraries; nothing that a user could act upon.
        warnings.simplefilter("ignore")
        with _removed_after_a_mistake(output):
            ours = _prepare(routine, output, plugin_root, parameters, read_only, (evaluations, seconds, target), at_end)
        _announce(ours, console)
        code, error = _run(ours, console)
        drawn = None
        if ours.evaluations and not no_plot and ours.archive is not None:
            drawn, wrong = _draw(ours, plot or output / f"{ours.archive.stem}.png")
            code, error = (code or FAILED, error or wrong) if wrong else (code, error)
    _show(ours, console, output, drawn)
    if as_json:
        click.echo(json.dumps(_outcome(ours, code, error, drawn), indent=2))
    if error is not None:
        click.echo(f"badger-k2eg run: {error}", err=True)
    return code


def _prepare(
    file: Path,
    output: Path,
    plugin_root: Path | None,
    parameters: Mapping[str, str],
    read_only: bool,
    ends: tuple[int | None, float | None, float | None],
    at_end: str | None,
) -> HeadlessRun:
    from ..badger_app.routine_file import read_routine_file

    # Badger takes seconds to load: what is no routine file at all is told before.
    read_routine_file(file)
    from ..badger_app import headless

    headless.open_badger(output, plugin_root=plugin_root)
    routine = headless.load_routine(file, parameters, read_only=read_only)
    evaluations, seconds, target = ends
    return headless.HeadlessRun(
        routine, evaluations=evaluations, seconds=seconds, target=target, at_end=at_end or headless.AtEnd.STAY
    )


@contextlib.contextmanager
def _removed_after_a_mistake(folder: Path) -> Iterator[None]:
    """Remove what Badger was configured in, if it is new, and the run does not even begin."""
    is_new = not folder.exists()
    try:
        yield
    except BaseException:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise


# -- the run ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _signals(ours: HeadlessRun) -> Iterator[list[int]]:
    """Stop the run by signals; gives the exit codes of those that came."""
    codes: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        name, code = _SIGNALS[signal.Signals(number)]
        codes.append(code)
        ours.stop(f"stopped by {name}")

    # What is ignored (a job of a script in the background) stays so.
    previous = {number: old for number in _SIGNALS if (old := signal.getsignal(number)) is not signal.SIG_IGN}
    for number in previous:
        signal.signal(number, handle)
    try:
        yield codes
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


class _Standing(ProgressColumn):
    """The best so far, or that it is about to stop."""

    # Not only once in a while, as columns are drawn that cost more.
    max_refresh = None

    def __init__(self, ours: HeadlessRun) -> None:
        self._run = ours
        super().__init__()

    def render(self, task: Task) -> Text:
        if self._run.stopping:
            return Text(f"{self._run.stopping}: ends after this evaluation", style="bold red")
        if (best := self._run.best) is None:
            return Text("")
        return Text(f"best {_values(best.objectives)}", style="bold green")


def _run(ours: HeadlessRun, console: Console) -> tuple[int, str | None]:
    """Run, with a line for each evaluation.

    :returns: exit code, and what went wrong in one line.
    """
    from ..badger_app.headless import first_line

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        _Standing(ours),
        console=console,
    )
    task = progress.add_task("evaluations", total=ours.most)

    def show(evaluation: Evaluation) -> None:
        progress.update(task, completed=evaluation.number)
        progress.console.print(_line(evaluation, ours.most))

    code, error = 0, None
    with _signals(ours) as codes:
        try:
            with progress:
                ours.run(show)
        except Exception as problem:
            # Whatever the environment raises is a failed run: told in one line, after what was done before it.
            code, error = _code(problem), first_line(problem)
            if ours.reason.endswith("failed"):
                error = f"{ours.reason}: {error}"
    return (codes[0] if codes else code), error


def _code(error: Exception) -> int:
    if isinstance(error, SetpointBlocked):
        return REFUSED
    return USAGE if isinstance(error, SettingsError) else FAILED


def _draw(ours: HeadlessRun, file: Path) -> tuple[Path | None, str | None]:
    from ..badger_app.plot import plot_run

    vocs = ours.routine.vocs
    domains = {name: getattr(vocs.variables[name], "domain", None) for name in vocs.variable_names}
    ranges = {name: domain for name, domain in domains.items() if domain is not None}
    try:
        return plot_run(ours.evaluations, file, title=ours.routine.name, ranges=ranges, target=ours.target), None
    except OSError as error:
        return None, f"no plot: {file}: {error.strerror or error}"


# -- what is said -----------------------------------------------------------------------------------------------------


def _announce(ours: HeadlessRun, console: Console) -> None:
    routine = ours.routine
    interface = getattr(routine.environment.interface, "name", "no interface")
    console.print(f"{routine.name}: {routine.generator.name} on {routine.environment.name} through {interface}")
    console.print(f"ends {ours.ends}{' (nothing else was said)' if ours.is_default else ''}")
    if ours.read_only:
        console.print("[bold]read-only[/]: nothing is set on the machine")
    if routine.critical_constraint_names:
        names = ", ".join(routine.critical_constraint_names)
        console.print(f"critical constraints pause a run in Badger's window; here they do not: {names}")


def _values(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.5g}" for name, value in values.items())


def _line(evaluation: Evaluation, most: int | None) -> Text:
    number = f"{evaluation.number:{len(str(most))}d}/{most}" if most else f"{evaluation.number:3d}"
    shown = {**evaluation.variables, **evaluation.objectives, **evaluation.others}
    text = Text(f"{number}  {_values(shown)}")
    if evaluation.best:
        text.append("  best", "bold green")
    elif not evaluation.feasible:
        text.append("  a constraint does not hold", "yellow")
    return text


def _show(ours: HeadlessRun, console: Console, output: Path, plot: Path | None) -> None:
    console.print(ours.reason)
    if ours.moved:
        console.print(ours.moved, style="bold red" if ours.move_failed else None, markup=False)
    if ours.end_error:
        console.print(f"the machine could not be read at the end: {ours.end_error}", style="red", markup=False)
    if ours.start is not None:
        console.print(_table(ours))
    if ours.archive is not None:
        console.print(f"archive: {ours.archive}", markup=False)
        console.print(f"         in Badger's window: badger -g -cf {output / 'badger.yaml'}", markup=False)
    if plot is not None:
        console.print(f"plot: {plot}", markup=False)


def _table(ours: HeadlessRun) -> Table:
    table = Table(title=ours.routine.name)
    best = ours.best
    columns: dict[str, Mapping[str, float]] = {"start": _flat(ours.start)}
    if best is not None:
        columns[f"best ({best.number})"] = {**best.variables, **best.objectives, **best.others}
    columns["end"] = _flat(ours.end)
    table.add_column("")
    for heading in columns:
        table.add_column(heading, justify="right")
    vocs = ours.routine.vocs
    for names in (vocs.variable_names, vocs.objective_names, [*vocs.constraint_names, *vocs.observable_names]):
        for name in names:
            values = [column.get(name) for column in columns.values()]
            table.add_row(Text(name), *("?" if value is None else f"{value:.5g}" for value in values))
        table.add_section()
    return table


def _flat(state: State | None) -> dict[str, float]:
    return {} if state is None else {**state.variables, **state.outputs}


def _outcome(ours: HeadlessRun, code: int, error: str | None, plot: Path | None) -> dict[str, Any]:
    best = ours.best
    outcome = {
        "routine": ours.routine.name,
        "environment": ours.routine.environment.name,
        "generator": ours.routine.generator.name,
        "read_only": ours.read_only,
        "exit_code": code,
        "ended": ours.reason,
        "error": error,
        "machine": ours.moved,
        "start": _flat(ours.start),
        "best": None if best is None else best.number,
        "end": _flat(ours.end),
        "evaluations": [
            {
                "number": each.number,
                "variables": each.variables,
                "objectives": each.objectives,
                "others": each.others,
                "feasible": each.feasible,
            }
            for each in ours.evaluations
        ],
        "archive": None if ours.archive is None else str(ours.archive),
        "plot": None if plot is None else str(plot),
    }
    cleaned: dict[str, Any] = _finite(outcome)
    return cleaned


def _finite(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
