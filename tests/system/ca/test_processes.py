"""No PVAccess and no repeater, forks, and no caproto: each in a process of its own."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from badger_k2eg.testing.ports import LOOPBACK
from badger_k2eg.testing.soft_ioc import SoftIoc, repeater_port
from tests.rig.pace import pace


def run(script: str, ioc: SoftIoc, **environment: str) -> Any:
    """Run a script with `pv(name)` and `backend`; give what it printed last, as JSON."""
    before = f"""
        import json, os, sys, threading, time
        from badger_k2eg.backends import open_backend
        from badger_k2eg.core.deadline import Deadline
        from badger_k2eg.core.model import PvAddress

        def pv(name): return PvAddress.parse("{ioc.prefix}:" + name)
        def get(name, timeout=3):
            return getattr(backend.get_many([pv(name)], Deadline(timeout))[pv(name)], "value", None)
        def put(name, value, timeout=3, wait=()):
            return backend.put_many({{pv(name): value}}, Deadline(timeout), wait)[pv(name)].outcome.value
        backend = open_backend("ca")
    """
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-W", "ignore:This process:DeprecationWarning", "-c",
         textwrap.dedent(before) + textwrap.dedent(script)],
        env=os.environ | ioc.client_environment | environment,
        capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    assert ended.returncode == 0 and not ended.stderr, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def test_no_pvaccess_no_repeater_no_process(ioc: SoftIoc) -> None:
    pytest.importorskip("psutil")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as repeater:
        repeater.bind((LOOPBACK, repeater_port()))
        repeater.setblocking(False)
        seen = run(
            """
            import psutil
            got = []
            backend.monitor(pv("COUNT"), got.append)
            get("DBL"), put("FREE", 1.0), get("NOBODY", 0.3)
            me = psutil.Process()
            used = me.net_connections() if hasattr(me, "net_connections") else me.connections()
            print(json.dumps({
                "tcp": [c.raddr.port for c in used if c.raddr],
                "children": [child.cmdline() for child in me.children(recursive=True)],
                "modules": [name for name in sys.modules if name.startswith(("p4p", "caproto.sync"))],
                "threads": sorted(thread.name for thread in threading.enumerate()),
            }))
            """,
            ioc,
        )
        # The beacons of IOCs come here too; a registration is a message 24.
        messages = []
        try:
            while True:
                messages.append(struct.unpack_from(">H", repeater.recv(4096))[0])
        except BlockingIOError:
            pass
    assert seen["tcp"] == [ioc.ports.ca]
    assert ioc.ports.pva_tcp not in seen["tcp"]
    assert seen["children"] == []
    assert seen["modules"] == []
    assert seen["threads"] == ["MainThread", "ca client", "ca monitors"]
    assert 24 not in messages


def test_an_empty_address_list_reaches_nobody(ioc: SoftIoc) -> None:
    """caproto would broadcast to the whole site; EPICS base does not."""
    script = """
        import socket
        sent = []
        class Spy(socket.socket):
            def sendto(self, data, address):
                sent.append(address)
                return super().sendto(data, address)
        socket.socket = Spy
        print(json.dumps([get("DBL", 0.3), sorted(set(sent))]))
    """
    assert run(script, ioc, EPICS_CA_ADDR_LIST="", EPICS_CA_AUTO_ADDR_LIST="NO") == [None, []]
    assert run(script, ioc) == [1.5, [[LOOPBACK, ioc.ports.ca]]]
    # A host without a port is asked on EPICS_CA_SERVER_PORT.
    assert run(script, ioc, EPICS_CA_ADDR_LIST="localhost") == [1.5, [[LOOPBACK, ioc.ports.ca]]]


def test_a_fork_leaves_the_parent_at_work_and_the_child_begins_anew(ioc: SoftIoc) -> None:
    seen = run(
        """
        updates, answers, child_answers = [], {}, []
        def slow(): answers["slow"] = put("SLOW", 5.0, 6, [pv("SLOW")])
        def dead(): answers["dead"] = get("NOBODY", 1.0)
        get("DBL")
        subscription = backend.monitor(pv("COUNT"), updates.append)
        threads = [threading.Thread(target=slow), threading.Thread(target=dead)]
        for thread in threads: thread.start()
        time.sleep(0.2)
        began = time.monotonic()
        for i in range(3):
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                got = []
                backend.monitor(pv("COUNT"), got.append)
                mine = [get("DBL"), put("SP:090", float(i)), get("SP:090")]
                subscription.close()
                time.sleep(0.3)
                backend.close()
                mine += [len(got) > 1, [thread.name for thread in threading.enumerate()]]
                os.write(writing, json.dumps(mine).encode())
                os._exit(0)
            os.close(writing)
            with open(reading) as pipe: child_answers.append(json.loads(pipe.read()))
            os.waitpid(child, 0)
            if i == 0: first = time.monotonic() - began
        lasted = time.monotonic() - began - first
        count = len(updates)
        for thread in threads: thread.join()
        time.sleep(0.4)
        after = [get("DBL"), len(updates) > count + 1, all(hasattr(u, "value") for u in updates)]
        backend.close()
        print(json.dumps([child_answers, answers, after, first, lasted,
                          [t.name for t in threading.enumerate()]]))
        """,
        ioc,
    )
    children, answers, after, first, lasted, threads = seen
    assert children == [[1.5, "applied", float(i), True, ["MainThread"]] for i in range(3)]
    assert answers == {"slow": "applied", "dead": None}
    assert after == [1.5, True, True]
    assert first > 1.5  # the put in flight was waited for
    assert lasted < 2.0 * pace()
    assert threads == ["MainThread"]


def test_many_forks_beside_many_calls(ioc: SoftIoc) -> None:
    wrong, forks = run(
        """
        wrong, done = [], threading.Event()
        def busy(n):
            while not done.is_set():
                if get("DBL") != 1.5: wrong.append("get")
                if put(f"SP:08{n}", 1.0) != "applied": wrong.append("put")
        threads = [threading.Thread(target=busy, args=(n,)) for n in range(4)]
        for thread in threads: thread.start()
        forks = 0
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            child = os.fork()
            if child == 0: os._exit(0 if get("INT") == 42 else 1)
            if os.waitpid(child, 0)[1]: wrong.append("child")
            forks += 1
        done.set()
        for thread in threads: thread.join()
        backend.close()
        print(json.dumps([wrong, forks]))
        """,
        ioc,
    )
    assert wrong == []
    assert forks > 5


def test_without_caproto_it_says_what_to_install(ioc: SoftIoc) -> None:
    script = (
        "import sys; sys.modules['caproto'] = None\n"
        "from badger_k2eg.backends import open_backend\n"
        "from badger_k2eg.errors import MissingExtra\n"
        "try: open_backend('ca')\n"
        "except MissingExtra as error: print(error)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout == "ca:// addresses needs an optional part: pip install 'badger-k2eg[ca]'\n"
