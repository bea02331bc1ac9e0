"""``badger-k2eg demo``: real IOCs, tuned by Badger without its window.

Owns the showing, in two parts: a first machine of three PVs (``demo_ioc``) by Nelder-Mead, in some seconds; then the
virtual injector by a Bayesian optimizer, as ``badger-k2eg run`` does it. Everything is on loopback and in a temporary
folder, but for the plots; what it starts, it stops.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from ..errors import ControlError, MissingExtra
from . import demo_ioc, ioc

if TYPE_CHECKING:
    from ..badger_app.runner import Evaluation

ENVIRONMENT = "pv_template"
#: The environment's parameters: its names, and the PVs behind them.
PVS = {"x0": "COR:1:SP", "x1": "COR:2:SP", "f": "BEAM:SIZE"}
EVALUATIONS = 20

_START_TIMEOUT = 20.0
_FIRST_STEP = 0.15


@click.command()
@click.option("--interface", default="epics_pva", show_default=True, help="the Badger interface to go through")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-output"),
    show_default=True,
    help="folder for the plots",
)
@click.option(
    "--machine",
    type=click.Choice(["first", "virtual_injector", "all"]),
    default="all",
    show_default=True,
    help="three PVs in some seconds, the virtual injector in a minute or two, or both",
)
def demo(interface: str, output: Path, machine: str) -> None:
    """Tune simulated machines by Badger, without its window: real IOCs, each step, before and after, a plot."""
    for package in ("softioc", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra("the demo", "demo")
    from ..badger_app import runner

    if interface not in (names := runner.plugin_names("interfaces")):
        raise click.UsageError(f"there is no interface {interface!r}; choices: {', '.join(names)}")
    console = Console(highlight=False)
    if machine in ("first", "all"):
        _first(interface, output, console)
    if machine in ("virtual_injector", "all"):
        _injector(interface, output, console)


def _injector(interface: str, output: Path, console: Console) -> None:
    """Start the virtual injector, and let ``badger-k2eg run`` tune it; in a process of its own, as a user would."""
    routine = Path(__file__).resolve().parents[2] / "examples" / "routines" / "virtual_injector.yaml"
    if not routine.is_file():
        console.print("the virtual injector is an example of the clone: a wheel has none")
        return
    plot = output / "virtual_injector.png"
    with _machine(ioc.command("virtual_injector", prefix := f"DEMO{os.getpid()}")):
        console.print(
            f"\nthe virtual injector serves {prefix}:*; expected improvement has 4 magnets and 30 evaluations"
        )
        output.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "badger_k2eg.cli", "run", str(routine), "--go-to-best", "--plot", str(plot)]
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


def _first(interface: str, output: Path, console: Console) -> None:
    """Tune three PVs in this process, to show what a script of one's own would do."""
    from ..badger_app import runner

    prefix = f"DEMO{os.getpid()}"
    with (
        tempfile.TemporaryDirectory(prefix="badger-k2eg-demo-") as folder,
        _machine([sys.executable, "-m", demo_ioc.__name__, prefix, "--exit-with-parent"]),
    ):
        console.print(f"an IOC serves {prefix}:*; Badger has {EVALUATIONS} evaluations to make {PVS['f']} small")
        runner.open_badger(Path(folder))
        with warnings.catch_warnings():
            # Of Badger's and Xopt's own libraries; nothing that a user of the demo could act upon.
            warnings.simplefilter("ignore")
            pvs = {name: f"{prefix}:{pv}" for name, pv in PVS.items()}
            environment = runner.load_environment(ENVIRONMENT, pvs, interface=interface)
            evaluations, before, after = _tune(environment, console)
        _show(before, after, console)
        plot = _plot(evaluations, output)
        console.print(f"plot: {plot}")


def _tune(environment: Any, console: Console) -> tuple[list[Evaluation], dict[str, float], dict[str, float]]:
    """Run, and leave the machine at the best point.

    :returns: the evaluations, and everything as it was before and is after.
    """
    from ..badger_app import runner

    def show(evaluation: Evaluation) -> None:
        values = {**evaluation.variables, **evaluation.objectives}
        words = "  ".join(f"{PVS[name]} {value:+.4f}" for name, value in values.items())
        best = "  [bold green]best[/]" if evaluation.best else ""
        console.print(f"{evaluation.number:2d}/{EVALUATIONS}  {words}{best}", soft_wrap=True)

    before = _everything(environment)
    routine = runner.make_routine(
        environment,
        {"f": "MINIMIZE"},
        initial_points=[],
        generator_options=runner.first_simplex(environment, _FIRST_STEP),
        name="demo",
    )
    evaluations = runner.run(routine, EVALUATIONS, show)
    best = next(evaluation for evaluation in reversed(evaluations) if evaluation.best)
    environment.set_variables(best.variables)
    return evaluations, before, _everything(environment)


def _everything(environment: Any) -> dict[str, float]:
    variables = environment.get_variables(list(environment.variables))
    return {**variables, **environment.get_observables(list(environment.observables))}


def _show(before: dict[str, float], after: dict[str, float], console: Console) -> None:
    table = Table(title="before and after")
    for heading in ("PV", "before", "after"):
        table.add_column(heading, justify="left" if heading == "PV" else "right")
    for name, pv in PVS.items():
        table.add_row(pv, f"{before[name]:+.4f}", f"{after[name]:+.4f}")
    console.print(table)
    console.print(f"{PVS['f']} is {before['f'] / after['f']:.1f} times smaller than before")


def _plot(evaluations: Sequence[Evaluation], output: Path) -> Path:
    """Draw the run."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    numbers = [evaluation.number for evaluation in evaluations]
    sizes = [evaluation.objectives["f"] for evaluation in evaluations]
    figure = Figure(figsize=(7, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(numbers, sizes, "o", label="each evaluation")
    above.step(numbers, [min(sizes[: i + 1]) for i in range(len(sizes))], where="post", label="best so far")
    above.set(ylabel=f"{PVS['f']} (mm)", title="Nelder-Mead on the demo's machine")
    above.legend()
    for name in evaluations[0].variables:
        below.plot(numbers, [evaluation.variables[name] for evaluation in evaluations], ".-", label=PVS[name])
    below.set(xlabel="evaluation", ylabel="setpoint (A)")
    below.legend()
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    output.mkdir(parents=True, exist_ok=True)
    file = output / "demo.png"
    figure.savefig(file, dpi=120)
    return file


# -- the machine ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _machine(command: Sequence[str]) -> Iterator[None]:
    """Run an IOC on loopback, and let this process and its children find it and nothing else."""
    udp, tcp, ca = (str(port) for port in _free_ports(3))
    for name in [name for name in os.environ if name.startswith("EPICS_")]:
        del os.environ[name]
    server = {
        "EPICS_PVAS_INTF_ADDR_LIST": "127.0.0.1",
        "EPICS_PVAS_BROADCAST_PORT": udp,
        "EPICS_PVAS_SERVER_PORT": tcp,
        "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
        "EPICS_PVAS_BEACON_ADDR_LIST": "",
        "EPICS_CAS_INTF_ADDR_LIST": "127.0.0.1",
        "EPICS_CAS_SERVER_PORT": ca,
        "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
        "EPICS_CAS_BEACON_ADDR_LIST": "127.0.0.1",
    }
    with (
        tempfile.TemporaryFile() as output,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **server},
            # A group of its own: Ctrl-C at the terminal is for us, who stop it in order.
            process_group=0,
        ) as process,
    ):
        try:
            _wait_ready(process, output.fileno())
            os.environ.update(
                EPICS_PVA_ADDR_LIST=f"127.0.0.1:{udp}",
                EPICS_PVA_AUTO_ADDR_LIST="NO",
                EPICS_PVA_BROADCAST_PORT=udp,
            )
            yield
        finally:
            process.kill()


def _wait_ready(process: subprocess.Popen[bytes], output: int) -> None:
    until = time.monotonic() + _START_TIMEOUT
    while True:
        # Asked first: what has ended has written all that it will.
        ended = process.poll() is not None
        text = os.pread(output, 65536, 0).decode(errors="replace")
        if demo_ioc.READY in text.splitlines():
            return
        if ended or time.monotonic() > until:
            why = "ended at once" if ended else f"was not ready in {_START_TIMEOUT:g} s"
            last = text.strip().splitlines()[-1:] or ["nothing"]
            raise ControlError(f"the demo's IOC {why}; the last it said: {last[0]}")
        time.sleep(0.02)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as sockets:
        ports = []
        for _ in range(count):
            probe = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            probe.bind(("127.0.0.1", 0))
            ports.append(int(probe.getsockname()[1]))
    return ports
