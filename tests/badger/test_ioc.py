"""``badger-k2eg ioc``: an example IOC in the foreground, and what it says of itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from badger_k2eg.testing.ports import PartPorts
from badger_k2eg.testing.soft_ioc import client_environment


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo", "virtual_injector"])
def test_an_example_ioc_in_the_foreground(
    name: str, tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    psutil = pytest.importorskip("psutil")
    ports = PartPorts()
    outside = {key: value for key, value in os.environ.items() if not key.startswith("EPICS_")}
    serving = {
        "EPICS_PVAS_BROADCAST_PORT": str(ports.pva_udp),
        "EPICS_PVAS_SERVER_PORT": str(ports.pva_tcp),
        "EPICS_CAS_SERVER_PORT": str(ports.ca),
    }
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "badger_k2eg.cli", "ioc", name, "--prefix", "TRY"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env={**outside, **serving},
    )
    with process:
        try:
            assert process.stdout is not None
            assert (first := process.stdout.readline()).startswith(f"the IOC {name} serves TRY:*"), first
            (pv,) = re.findall(r"try (\S+)\)", first)
            said = dict(re.findall(r"(EPICS_\w+)=(\S+)", process.stdout.readline() + process.stdout.readline()))
            # With what it says, and nothing else, a client finds it.
            program = f"from interfaces.epics_pva import Interface; print(Interface().get_value({pv!r}))"
            others = {k: v for k, v in client_environment().items() if k in ("EPICS_PVA_BROADCAST_PORT",)}
            read = run_python(program, env={**outside, **others, **said})
            assert float(read.stdout) != 0, read.stderr
            (child,) = psutil.Process(process.pid).children()
            process.send_signal(signal.SIGINT if name == "demo" else signal.SIGTERM)
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0
    assert output.splitlines()[-1] == f"the IOC {name} has ended"
    assert psutil.wait_procs([child], timeout=5)[1] == []
