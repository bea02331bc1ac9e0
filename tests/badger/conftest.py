"""Badger for tests: configured privately before its factory is imported; its root has our plugins and the examples."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.testing.plugin import SessionPorts
from badger_k2eg.testing.soft_ioc import SoftIoc
from examples.first_ioc.part import FirstIoc
from tests.rig.fault_server import FaultServer

from .routines import CLONE, PATIENT, SETPOINTS, SLOW_STEPS, START


@pytest.fixture(scope="session")
def plugin_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's plugin root: ours, and the example environments copied into it."""
    root = tmp_path_factory.mktemp("plugins")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(CLONE / "interfaces", root / "interfaces", ignore=ignored)
    shutil.copytree(CLONE / "environments", root / "environments", ignore=ignored)
    example = CLONE / "examples" / "handwritten_environment"
    shutil.copytree(example, root / "environments" / example.name, ignore=ignored)
    return root


@pytest.fixture(scope="session")
def badger_config(plugin_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration file of Badger in this process."""
    from badger_k2eg.badger_app.session import open_badger

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = open_badger(tmp_path_factory.mktemp("badger"), plugin_root=plugin_root)
        # Here, where the warnings of their own imports do not count.
        import badger.archive
        import badger.core_subprocess
        import badger.factory  # noqa: F401
    return file


@pytest.fixture(autouse=True)
def _no_options_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the developer's variables nor an ini file of theirs count here."""
    for name in [name for name in os.environ if name.startswith("BADGER_K2EG_")]:
        # Journal and locks are in the session's folder.
        if not name.endswith("_DIR"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that the test starts has time."""
    for name, value in PATIENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def first_ioc(epics_environment: SessionPorts) -> Iterator[FirstIoc]:
    """The machine of ``examples/first_ioc``."""
    ports = epics_environment.factory.pop()
    with FirstIoc("FIRST", ports=ports) as ioc:
        yield ioc
    epics_environment.factory.append(ports)


@pytest.fixture
def restored(soft_ioc: SoftIoc) -> Iterator[Callable[[str, Any], str]]:
    """Gives the name of a PV of the IOC, which has the value that is said here; at the end it has its own again."""
    from interfaces.epics_pva import Interface

    interface = Interface()
    values: dict[str, Any] = {}

    def name(pv: str, value: Any) -> str:
        values.setdefault(soft_ioc.pv(pv), interface.get_value(soft_ioc.pv(pv)))
        interface.set_values({soft_ioc.pv(pv): value})
        return soft_ioc.pv(pv)

    yield name
    interface.set_values(values)
    interface.reset_interface()


@pytest.fixture
def faults(fault_server: FaultServer) -> Iterator[FaultServer]:
    """The server of faults, as it was at its start."""
    from interfaces.epics_pva import Interface

    command = Interface(relative=fault_server.pv("RESET"))
    command.set_value(fault_server.pv("RESET"), 1)
    yield fault_server
    command.set_value(fault_server.pv("RESET"), 1)


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Gives a function that runs a program in a fresh interpreter, which finds the clone."""

    def run(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, capture_output=True, text=True, cwd=CLONE, timeout=150, **options)

    return run


@pytest.fixture
def quiet() -> Iterator[None]:
    """In the test, the warnings of Badger's and Xopt's own libraries are no errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="session")
def slow_steps(plugin_root: Path) -> Path:
    """The plugin root, with the environment ``slow_steps``."""
    folder = plugin_root / "environments" / "slow_steps"
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").write_text(SLOW_STEPS)
    (folder / "configs.yaml").write_text("name: slow_steps\nversion: '1'\ninterface: [epics_pva]\n")
    return plugin_root


@pytest.fixture
def machine(first_ioc: FirstIoc) -> Any:
    """Looks at the machine, which is where each run starts."""
    from interfaces.epics_pva import Interface

    interface = Interface()
    interface.set_values(START)
    return interface


@pytest.fixture
def memory(memory_context: MemoryBackend) -> MemoryBackend:
    """The same machine without noise, in memory: f is the sum of the squares."""
    for name, value in START.items():
        memory_context.add(name, value)
    memory_context.add("FIRST:BEAM:SIZE", sum(value**2 for value in START.values()))
    present = dict(START)

    def follow(name: str) -> None:
        def put(value: float) -> None:
            present[name] = value
            memory_context.post("FIRST:BEAM:SIZE", sum(each**2 for each in present.values()))

        memory_context.on_put(name, put)

    for name in SETPOINTS:
        follow(name)
    return memory_context
