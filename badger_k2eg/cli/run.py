"""``badger-k2eg run ROUTINE.yaml``, ``rerun RUN``: a routine, run without Badger's window.

Here are the options, the signals and the exit code; the output is ``run_report``, the run itself
``badger_app.headless``. While something is set, a signal only asks the run to stop: an exception out of its handler
would leave the machine and Xopt in the middle of an evaluation.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import SetpointBlocked, SettingsError
from ..core.settings import load
from ..journal import Journal
from ..journal.naming import file_name
from . import FAILED, REFUSED, USAGE
from . import run_report as report
from .connection_options import assignments
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
@click.option(
    "--evaluations", type=click.IntRange(min=1), help="end after this many evaluations, initial points included"
)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="start no evaluation after this time")
@click.option("--target", type=float, help="end when the only objective is as good as this")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("badger-runs"),
    show_default=True,
    help="folder for archive and plot",
)
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), callback=_png, help="file for the plot, FILE.png"
)
@click.option("--no-plot", is_flag=True, help="make no plot")
@click.option(
    "--set",
    "parameters",
    multiple=True,
    callback=assignments,
    metavar="NAME=VALUE",
    help="a parameter of the environment, overriding the file's; may be repeated",
)
@click.option("--read-only", is_flag=True, help="set nothing on the machine")
@click.option("--go-to-best", is_flag=True, help="leave the machine at the best point")
@click.option("--restore", is_flag=True, help="leave the machine where it was before")
@click.option(
    "--plugin-root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="folder of interfaces/ and environments/; by default those of badger-k2eg",
)
@click.option("--quiet", is_flag=True, help="print errors only")
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
    """Run a routine file, saved by Badger's window or written by hand, without the window.

    The run ends at the first of the ends that the options and the file's stopping_condition give. The machine is left
    where the last evaluation put it. Exit code: 0 done, 1 failed, 2 a mistake in the command or the file, 3 refused by
    a guard, 130 Ctrl-C, 143 SIGTERM; archive and plot are written in each of these cases, if anything was evaluated.
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
        # Warnings of the libraries of Badger and Xopt, which a user cannot act upon.
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

    # Badger takes seconds to load: a file that is not a routine, and a wrong option, are reported before that.
    read_routine_file(file)
    load()
    from ..badger_app import headless

    headless.open_badger(output, plugin_root=plugin_root)
    routine = headless.load_routine(file, parameters, read_only=read_only)
    evaluations, seconds, target = ends
    return headless.HeadlessRun(routine, evaluations=evaluations, seconds=seconds, target=target, at_end=at_end)


@contextlib.contextmanager
def _removed_after_a_mistake(folder: Path) -> Iterator[None]:
    """Remove the folder of Badger's configuration, if it is new, when the run does not even begin."""
    is_new = not folder.exists()
    try:
        yield
    except BaseException:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        raise


# -- the run ----------------------------------------------------------------------------------------------------------


class _Signals:
    """Ctrl-C and SIGTERM: they end the process while Badger loads, and later the run after its current evaluation.

    :ivar run: the run to stop; None as long as nothing can have been set.
    :ivar codes: the exit codes of the signals that came.
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
        # Not by an exception: Badger and its libraries catch every one while they are imported.
        self._tidy.close()
        os.write(2, f"badger-k2eg run: stopped by {name}, before anything was set\n".encode())
        os._exit(code)


def _run(ours: HeadlessRun, console: Console) -> tuple[int, str | None]:
    """Run, and print a line for each evaluation.

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
        # Whatever the environment raises is a failed run, reported in one line after the evaluations before it.
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


# -- again ------------------------------------------------------------------------------------------------------------


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("recorded", metavar="RUN")
@click.option(
    "--archive",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Badger's archive, for a run of Badger's window",
)
@click.option(
    "--save", type=click.Path(dir_okay=False, path_type=Path), help="write the routine to this file, and run nothing"
)
@click.pass_context
def rerun(context: click.Context, recorded: str, archive: Path | None, save: Path | None) -> int:
    """Run the routine of a recorded run again: RUN is its id, the beginning of the id, its name, or last.

    All options of `badger-k2eg run` can be given too, such as `--read-only` or `--set interface_name=replay`.
    """
    from ..badger_app.rerun import routine_of

    journal = Journal.open()
    try:
        found = journal.run(recorded)
        text = routine_of(found, archive)
    finally:
        journal.close()
    if save is not None:
        save.write_text(text, encoding="utf-8")
        say(f"the routine of run {found.id} is in {save}")
        return 0
    with tempfile.TemporaryDirectory(prefix="badger-k2eg-") as folder:
        file = Path(folder) / f"rerun-{file_name(found.id)}.yaml"
        file.write_text(text, encoding="utf-8")
        again = run.make_context(context.command_path, [os.fspath(file), *context.args], parent=context.parent)
        with again:
            code = run.invoke(again)
    return int(code or 0)
