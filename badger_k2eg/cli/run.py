"""``badger-k2eg run ROUTINE.yaml``: a routine file, run without Badger's window.

Owns the options, the signals and the exit code; the words are ``report``, the run itself is ``badger_app.headless``.
While something is set, signals only set a mark: an exception out of a handler would leave the machine and Xopt in the
middle of something.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import SetpointBlocked, SettingsError
from ..core.settings import load
from . import FAILED, REFUSED, USAGE
from . import run_report as report
from .assignments import assignments
from .console import Console, bar, say
from .signals import stopped_by_signals

if TYPE_CHECKING:
    from ..badger_app.evaluation import Evaluation
    from ..badger_app.headless import HeadlessRun


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
    callback=assignments,
    metavar="NAME=VALUE",
    help="a parameter of the environment, in place of the file's; may be repeated",
)
@click.option("--read-only", is_flag=True, help="set nothing on the machine")
@click.option("--go-to-best", is_flag=True, help="leave the machine at the best point")
@click.option("--restore", is_flag=True, help="leave the machine where it was before")
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
    go_to_best: bool,
    restore: bool,
    plugin_root: Path | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Run a routine file, as Badger's window saves it or written by hand, without the window.

    The first end to come true ends it: of the options, and of the file's stopping_condition. The machine is left where
    the last evaluation put it. Exit code: 0 done, 1 failed, 2 a mistake in the command or the file, 3 refused by a
    guard, 130 Ctrl-C, 143 SIGTERM; archive and plot are written in each of these cases, once something was evaluated.
    """
    for first, second, both in (
        ("--plot", "--no-plot", plot is not None and no_plot),
        ("--go-to-best", "--restore", go_to_best and restore),
    ):
        if both:
            raise click.UsageError(f"{first} and {second} exclude each other")
    at_end = "best" if go_to_best else "restore" if restore else "stay"
    output = output.resolve()
    console = Console(quiet=quiet, stderr=as_json)
    with warnings.catch_warnings(), _Signals(output) as signals:
        # Of Badger's and Xopt's own libraries; nothing that a user could act upon.
        warnings.simplefilter("ignore")
        with _removed_after_a_mistake(output):
            ours = _prepare(routine, output, plugin_root, parameters, read_only, (evaluations, seconds, target), at_end)
        signals.run = ours
        report.announce(ours, console)
        code, error = _run(ours, console)
        code = signals.codes[0] if signals.codes else code
        drawn = None
        if ours.evaluations and not no_plot and ours.archive is not None:
            drawn, wrong = _draw(ours, plot or output / f"{ours.archive.stem}.png")
            code, error = (code or FAILED, error or wrong) if wrong else (code, error)
    report.show(ours, console, output, drawn)
    if as_json:
        click.echo(json.dumps(report.outcome(ours, code, error, drawn), indent=2))
    if error is not None:
        say(f"badger-k2eg run: {error}", err=True)
    return code


def _prepare(
    file: Path,
    output: Path,
    plugin_root: Path | None,
    parameters: Mapping[str, str],
    read_only: bool,
    ends: tuple[int | None, float | None, float | None],
    at_end: str,
) -> HeadlessRun:
    from ..badger_app.build_routine import read_routine_file

    # Badger takes seconds to load: what is no routine file at all, and a wrong option around it, is told before.
    read_routine_file(file)
    load()
    from ..badger_app import headless

    headless.open_badger(output, plugin_root=plugin_root)
    routine = headless.load_routine(file, parameters, read_only=read_only)
    evaluations, seconds, target = ends
    return headless.HeadlessRun(routine, evaluations=evaluations, seconds=seconds, target=target, at_end=at_end)


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


class _Signals:
    """Ctrl-C and SIGTERM: while Badger loads they end the process, and later the run after its present evaluation.

    :ivar run: what is to be stopped; None as long as nothing can have been set.
    :ivar codes: the exit codes of those that came.
    """

    def __init__(self, output: Path) -> None:
        self.run: HeadlessRun | None = None
        self.codes: list[int] = []
        self._tidy = contextlib.ExitStack()
        if not output.exists():
            self._tidy.callback(shutil.rmtree, output, ignore_errors=True)

    def __enter__(self) -> _Signals:
        self._signals = stopped_by_signals(self._stop)
        self._signals.__enter__()
        return self

    def __exit__(self, *ended: Any) -> None:
        self._signals.__exit__(*ended)

    def _stop(self, name: str, code: int) -> None:
        self.codes.append(code)
        if self.run is not None:
            self.run.stop(f"stopped by {name}")
            return
        # Not by an exception: Badger and its libraries catch whatever comes while they are imported.
        self._tidy.close()
        os.write(2, f"badger-k2eg run: stopped by {name}, before anything was set\n".encode())
        os._exit(code)


def _run(ours: HeadlessRun, console: Console) -> tuple[int, str | None]:
    """Run, with a line for each evaluation.

    :returns: exit code, and what went wrong in one line.
    """
    from ..badger_app.headless import first_line

    progress = bar(console, report.Standing(ours))
    task = progress.add_task("evaluations", total=ours.most)

    def show(evaluation: Evaluation) -> None:
        progress.update(task, completed=evaluation.number)
        progress.console.print(report.line(evaluation, ours.most))

    try:
        with progress:
            ours.run(show)
    except Exception as problem:
        # Whatever the environment raises is a failed run: told in one line, after what was done before it.
        error = first_line(problem)
        return _code(problem), f"{ours.reason}: {error}" if ours.reason.endswith(("failed", "was not begun")) else error
    return 0, None


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
        plot_run(ours.evaluations, file, title=ours.title, ranges=ranges, target=ours.target, front=ours.front)
    except OSError as error:
        return None, f"no plot: {file}: {error.strerror or error}"
    return file, None
