"""``badger-k2eg demo``: real IOCs, tuned by Badger without its window.

Each way to the machine is shown in turn (direct, and through a K2EG gateway), in two parts: a first machine of three
PVs (``demo_ioc``) by Nelder-Mead, in some seconds; then the virtual injector by a Bayesian optimizer, as
``badger-k2eg run`` does it. Everything is on loopback and in a temporary folder, but for the plots; the processes that
the demo starts (``demo_processes``) end with it.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import click

from ..core.errors import ControlError, MissingExtra
from ..core.settings import load
from . import demo_ioc, ioc
from . import run_report as report
from .console import Console, Text
from .demo_processes import gateway, machine

ENVIRONMENT = "pv_template"
#: The environment's parameters: its names, and the PVs behind them.
PVS = {"x0": "COR:1:SP", "x1": "COR:2:SP", "f": "BEAM:SIZE"}
EVALUATIONS = 20

#: The interfaces that are shown, one after the other.
_WAYS = {"epics_pva": "direct, over PVAccess", "k2eg": "through a K2EG gateway and an embedded Kafka broker"}
_FIRST_STEP = 0.15


@click.command()
@click.option("--interface", help="the only Badger interface to show; by default epics_pva, then k2eg")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-output"),
    show_default=True,
    help="folder for the plots",
)
@click.option(
    "--machine",
    "which",
    type=click.Choice(["first", "virtual_injector", "all"]),
    default="all",
    show_default=True,
    help="three PVs (some seconds), the virtual injector (a minute or two), or both",
)
def demo(interface: str | None, output: Path, which: str) -> None:
    """Tune simulated machines with Badger, without its window: real IOCs, each evaluation, before and after, a plot."""
    for package in ("softioc", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra("the demo", "demo")
    from ..badger_app.plugin_files import plugin_names

    if interface is not None and interface not in (names := plugin_names("interfaces")):
        raise click.UsageError(f"there is no interface {interface!r}; choices: {', '.join(names)}")
    # Badger takes seconds to load: a wrong option is reported before that, and once.
    load()
    console = Console()
    # Keep its runs out of the user's own journal.
    with tempfile.TemporaryDirectory(prefix="badger-k2eg-demo-") as folder:
        os.environ["BADGER_K2EG_JOURNAL_DIR"] = str(output.resolve() / "journal")
        for way in _WAYS if interface is None else [interface]:
            console.print(Text(_WAYS.get(way, way), "bold"))
            if which in ("first", "all"):
                _first(way, Path(folder), output, console)
            if which in ("virtual_injector", "all"):
                _injector(way, output, console)
    console.print(f"the runs are recorded: BADGER_K2EG_JOURNAL_DIR={output / 'journal'} badger-k2eg runs list")


def _plot_name(machine: str, interface: str) -> str:
    return f"{machine}.png" if interface == "epics_pva" else f"{machine}_{interface}.png"


def _injector(interface: str, output: Path, console: Console) -> None:
    """Start the virtual injector, and tune it by ``badger-k2eg run`` in a process of its own, as a user does."""
    routine = Path(__file__).resolve().parents[2] / "examples" / "routines" / "virtual_injector.yaml"
    if not routine.is_file():
        console.print("the virtual injector is an example of the repository; a wheel has none")
        return
    plot = output / _plot_name("virtual_injector", interface)
    prefix = f"DEMO{os.getpid()}"
    with machine(ioc.command("virtual_injector", prefix)), gateway(interface, prefix):
        console.print()
        console.print(f"the virtual injector serves {prefix}:*; expected improvement has 4 magnets and 30 evaluations")
        output.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "badger_k2eg", "run", str(routine), "--go-to-best", "--plot", str(plot)]
        parameters = [
            "--set",
            f"prefix={prefix}",
            "--set",
            f"interface_name={interface}",
            "--output",
            str(output / "badger"),
        ]
        ended = subprocess.run([*command, *parameters], check=False)
        if ended.returncode:
            raise ControlError(f"the run of the virtual injector ended with code {ended.returncode}; see above")


def _first(interface: str, folder: Path, output: Path, console: Console) -> None:
    """Tune three PVs in this process, as a user's own script does."""
    from ..badger_app import headless, plot, session

    prefix = f"DEMO{os.getpid()}"
    with (
        machine([sys.executable, "-m", demo_ioc.__name__, prefix, "--exit-with-parent"]),
        gateway(interface, prefix),
    ):
        console.print(f"an IOC serves {prefix}:*; Badger has {EVALUATIONS} evaluations to make {PVS['f']} small")
        console.print(", ".join(f"{name} is {pv}" for name, pv in PVS.items()))
        session.open_badger(folder)
        with warnings.catch_warnings():
            # Of Badger's and Xopt's own libraries; nothing that a user of the demo could act upon.
            warnings.simplefilter("ignore")
            pvs = {name: f"{prefix}:{pv}" for name, pv in PVS.items()}
            environment = session.load_environment(ENVIRONMENT, pvs, interface=interface)
            routine = session.make_routine(
                environment,
                {"f": "MINIMIZE"},
                initial_points=[],
                generator_options=session.first_simplex(environment, _FIRST_STEP),
                name="Nelder-Mead on the demo's machine",
            )
            run = headless.HeadlessRun(routine, evaluations=EVALUATIONS, at_end="best")
            run.run(lambda evaluation: console.print(report.line(evaluation, EVALUATIONS)))
        # While the machine still runs.
        environment.interface.reset_interface()
        report.show_ends(run, console)
        before, after = (state.outputs["f"] for state in (run.start, run.end) if state is not None)
        console.print(f"{PVS['f']} is {before / after:.1f} times smaller than before")
        file = plot.plot_run(
            run.evaluations, output / _plot_name("demo", interface), title=run.title, ranges=environment.variables
        )
        console.print(f"plot: {file}")
