"""How the parts are reached, and their life: start, stop, restart, end."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from badger_k2eg.testing.ports import PORT_TAKEN, PartPorts, free_port
from badger_k2eg.testing.processes import ChildFailed, ChildProcess, clean_environment
from badger_k2eg.testing.soft_ioc import SoftIoc, client_environment
from tests.rig.fault_server import FaultServer
from tests.rig.pace import pace
from tests.rig.waiting import eventually

from .part import SHORT

if TYPE_CHECKING:
    from p4p.client.thread import Context


def test_one_context_reaches_two_iocs_and_the_server(
    context: Context, soft_ioc: SoftIoc, second_soft_ioc: SoftIoc, fault_server: FaultServer
) -> None:
    names = [soft_ioc.pv("STATIC"), second_soft_ioc.pv("STATIC"), fault_server.pv("READONLY")]
    assert [v.value for v in context.get(names, timeout=5)] == [7.0, 7.0, 9.5]
    assert len({soft_ioc.prefix, second_soft_ioc.prefix, fault_server.prefix}) == 3


def test_twenty_fresh_contexts_find_all_three_at_once(
    soft_ioc: SoftIoc, second_soft_ioc: SoftIoc, fault_server: FaultServer
) -> None:
    from p4p.client.thread import Context

    names = [soft_ioc.pv("DBL"), second_soft_ioc.pv("DBL"), fault_server.pv("TEXT")]
    environment = client_environment(soft_ioc, second_soft_ioc, fault_server)
    for _ in range(20):
        began = time.monotonic()
        with Context("pva", conf=environment, useenv=False) as fresh:
            fresh.get(names, timeout=5)
        assert time.monotonic() - began < 1.0 * pace()


def test_workers_of_one_session_choose_from_ports_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "4")
    chosen = []
    for worker in ("gw0", "gw1", "gw3"):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", worker)
        chosen.append([free_port() for _ in range(50)])
    first, second, last = chosen
    assert max(first) < min(second) and max(second) < min(last)


def test_channel_access_reaches_both_iocs(soft_ioc: SoftIoc, second_soft_ioc: SoftIoc) -> None:
    # In a process of its own, and without the repeater that caproto would start and leave behind.
    program = (
        "import sys\n"
        "from caproto.sync.client import read\n"
        "for name in sys.argv[1:]: print(*read(name, timeout=5, repeater=False).data)\n"
    )
    names = [soft_ioc.pv("STATIC"), second_soft_ioc.pv("INT"), soft_ioc.pv("ENUM")]
    done = subprocess.run(
        [sys.executable, "-c", program, *names],
        env=clean_environment(client_environment(soft_ioc, second_soft_ioc)),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.split() == ["7.0", "42", "b'on'"], done.stderr


def test_parts_listen_on_loopback_alone(soft_ioc: SoftIoc) -> None:
    hosts = {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for host in hosts:
        for port in (soft_ioc.ports.pva_tcp, soft_ioc.ports.ca):
            with pytest.raises(OSError), socket.create_connection((host, port), timeout=1):  # noqa: PT012
                pass


def test_the_session_environment_reaches_its_parts_only(
    soft_ioc: SoftIoc, fault_server: FaultServer, context: Context
) -> None:
    assert os.environ["EPICS_PVA_AUTO_ADDR_LIST"] == "NO"
    listed = os.environ["EPICS_PVA_ADDR_LIST"].split()
    assert all(address.startswith("127.0.0.1:") for address in listed)
    for part in (soft_ioc, fault_server):
        assert f"127.0.0.1:{part.ports.pva_udp}" in listed
    conf = context.conf()
    assert sorted(conf["EPICS_PVA_ADDR_LIST"].split()) == sorted(listed)
    assert conf["EPICS_PVA_NAME_SERVERS"] == ""


# ---- the life of a part ----------------------------------------------------------------------------------------------


def test_an_ioc_is_ready_in_a_second_and_can_be_restarted(
    soft_ioc_factory: Callable[..., SoftIoc], context: Context
) -> None:
    ioc = soft_ioc_factory(extra_records=1000)
    first = ioc.pid
    assert ioc.ready_after < 2.0 * pace()  # 0.9 s on a quiet machine
    assert context.get(ioc.pv("BIG:0999"), timeout=5).value == 999.0
    context.put(ioc.pv("FREE"), {"value": 8.0})
    ioc.kill()
    with pytest.raises(TimeoutError):
        context.get(ioc.pv("FREE"), timeout=SHORT)
    with pytest.raises(ChildFailed):
        _ = ioc.pid
    ioc.restart()
    assert ioc.pid != first
    assert context.get(ioc.pv("FREE"), timeout=10).value == 1.0
    print(f"ready after {ioc.ready_after:.2f} s")


def test_a_monitor_comes_back_after_a_restart(soft_ioc_factory: Callable[..., SoftIoc], context: Context) -> None:
    ioc = soft_ioc_factory("TAGAIN")
    assert ioc.pv("STATIC") == "TAGAIN:STATIC"
    updates: queue.Queue[Any] = queue.Queue()
    subscription = context.monitor(ioc.pv("STATIC"), updates.put, notify_disconnect=True)
    eventually(lambda: getattr(updates.get(timeout=5), "value", None), 7.0)
    ioc.restart()
    eventually(lambda: getattr(updates.get(timeout=20), "value", None), 7.0, seconds=20)
    subscription.close()


def test_a_stopped_ioc_keeps_its_sockets_and_answers_nothing(
    soft_ioc_factory: Callable[..., SoftIoc], context: Context
) -> None:
    ioc = soft_ioc_factory()
    context.get(ioc.pv("COUNT"), timeout=5)
    ioc.stop()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        context.get(ioc.pv("COUNT"), timeout=0.5)
    assert time.monotonic() - began < 1.0 * pace()
    socket.create_connection(("127.0.0.1", ioc.ports.pva_tcp), timeout=1).close()
    ioc.cont()
    eventually(lambda: context.get(ioc.pv("COUNT"), timeout=5).value > 0, True)
    ioc.stop()
    ioc.stop()
    ioc.close()  # a stopped one ends too
    ioc.close()


def test_the_server_can_be_killed_stopped_and_restarted() -> None:
    from p4p.client.thread import Context

    with FaultServer("TFS") as server, Context("pva", conf=server.client_environment, useenv=False) as client:
        client.put(server.pv("CLAMP"), 3.0)
        server.stop()
        with pytest.raises(TimeoutError):
            client.get(server.pv("CLAMP"), timeout=SHORT)
        server.cont()
        assert client.get(server.pv("CLAMP"), timeout=5) == 3.0
        server.restart()
        assert client.get(server.pv("CLAMP"), timeout=5) == 0.0
        assert server.ready_after < 2.0 * pace()
        server.kill()
    with pytest.raises(ChildFailed):
        _ = server.pid


def test_a_part_whose_port_is_taken_says_so_and_one_with_free_choice_takes_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = PartPorts(pva_tcp=other.getsockname()[1])
        with pytest.raises(ChildFailed, match=PORT_TAKEN):
            FaultServer(ports=taken)
        choices = [taken, PartPorts()]
        monkeypatch.setattr("badger_k2eg.testing.soft_ioc.PartPorts", lambda: choices.pop(0))
        with FaultServer() as server:
            assert server.ports != taken
            assert not choices


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks at /proc")
@pytest.mark.parametrize("frozen", [False, True], ids=["running", "stopped"])
@pytest.mark.parametrize("end", ["exit", "kill"])
def test_no_part_outlives_its_test_runner(end: str, frozen: bool, tmp_path: Path) -> None:
    program = (
        "import os, signal\n"
        "from tests.rig.ioc import RigIoc\n"
        "part = RigIoc()\n"
        f"{'part.stop()' if frozen else ''}\n"
        "print(part.pid, flush=True)\n"
        f"{'os.kill(os.getpid(), signal.SIGKILL)' if end == 'kill' else ''}\n"
    )
    runner = subprocess.run(
        [sys.executable, "-c", program],
        env=clean_environment({"TMPDIR": str(tmp_path)}),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert runner.returncode == (-signal.SIGKILL if end == "kill" else 0), runner.stderr
    eventually(lambda: alive(int(runner.stdout)), False)
    if (end, frozen) != ("kill", True):  # then nobody is left to tidy up
        assert not list(tmp_path.iterdir())


def test_a_child_that_fails_shows_what_it_said() -> None:
    with pytest.raises(ChildFailed, match="(?s)ended with code 3.*this is why"):
        ChildProcess(["-c", "print('this is why'); raise SystemExit(3)"], name="bad")
    with pytest.raises(ChildFailed, match=r"(?s)not ready in 0\.3 s.*waiting"):
        ChildProcess(["-uc", "print('waiting'); input()"], name="lazy", ready_timeout=0.3)


def test_a_forked_process_has_no_power_over_the_part() -> None:
    with ChildProcess(["-uc", "print('READY'); input()"], name="echo") as child:
        program = os.fork()
        if program == 0:
            child.kill()
            child.close()
            os._exit(0)
        os.waitpid(program, 0)
        assert child.alive
        assert repr(child) == f"<ChildProcess echo, pid {child.pid}>"
    assert not child.alive
