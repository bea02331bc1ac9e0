"""examples/virtual_injector as a program: its start, its ports, what it costs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from badger_k2eg.testing.processes import ChildFailed, ChildProcess, clean_environment
from examples.virtual_injector.lattice import START
from examples.virtual_injector.part import VirtualInjector
from tests.rig.pace import pace

from .machine import PATIENCE, Machine

FOLDER = Path(__file__).resolve().parents[3] / "examples" / "virtual_injector"


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        pytest.skip("the CPU time of another process is read from /proc here")
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_it_is_ready_within_two_seconds(injector: VirtualInjector) -> None:
    if injector.ready_after >= 2:
        injector.restart()
    # On a busy machine what it needed itself is what counts: 0.5 s.
    assert injector.ready_after < 2 or cpu_seconds(injector.pid) < 1.2


def test_two_of_them_have_names_and_ports_of_their_own(injector: VirtualInjector) -> None:
    from p4p.client.thread import Context

    with VirtualInjector(seed=2) as other:
        assert other.prefix != injector.prefix
        ours, theirs = ({ports.pva_tcp, ports.pva_udp, ports.ca} for ports in (injector.ports, other.ports))
        assert not ours & theirs
        with Context("pva", conf=other.client_environment, useenv=False) as context:
            assert float(context.get(other.pv("QUAD:1:BCTRL"), timeout=PATIENCE)) == START["QUAD:1"]
            assert float(context.get(other.pv("TORO:1:CHARGE"), timeout=PATIENCE)) == pytest.approx(250, rel=0.1)
            with pytest.raises(TimeoutError):
                context.get(injector.pv("QUAD:1:BCTRL"), timeout=0.3)


def test_it_runs_by_its_path(injector: VirtualInjector) -> None:
    bad = subprocess.run([sys.executable, str(FOLDER / "ioc.py"), "with blank"], capture_output=True, text=True)
    assert bad.returncode == 2 and "no prefix" in bad.stderr
    # The ports of the running one are taken: this shows that it started, and that it does not serve just anywhere.
    ports = injector._server_environment()
    with pytest.raises(ChildFailed, match="port taken"):
        ChildProcess([str(FOLDER / "ioc.py"), "--prefix", "BYPATH"], environment=clean_environment(ports))


def test_it_costs_less_than_a_tenth_of_a_core(machine: Machine) -> None:
    began, used = time.monotonic(), cpu_seconds(machine.injector.pid)
    machine.put("QUAD:6:BCTRL", -0.1)  # ramping is the most work
    time.sleep(1.5)
    assert cpu_seconds(machine.injector.pid) - used < 0.1 * pace() * (time.monotonic() - began)
