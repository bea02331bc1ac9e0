"""The real parts of the tests do what they promise: every record of the IOC, every fault of the server, every signal.

Clients here are p4p and caproto themselves, none of ours.
"""

from __future__ import annotations

import math
import os
import queue
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from badger_k2eg.testing.fault_server import COUNTED, DELAYED_SECONDS, LATE_SECONDS, REFUSAL, FaultServer
from badger_k2eg.testing.ports import PORT_TAKEN, PartPorts
from badger_k2eg.testing.processes import ChildFailed, ChildProcess, clean_environment
from badger_k2eg.testing.soft_ioc import SoftIoc, client_environment

if TYPE_CHECKING:
    from p4p.client.thread import Context

pytest.importorskip("softioc", reason="pip install badger-k2eg[test]")
pytest.importorskip("p4p")

SHORT = 0.3
"""Seconds after which a put that gets no answer is given up here."""


@pytest.fixture(scope="module")
def context(soft_ioc: SoftIoc, second_soft_ioc: SoftIoc, fault_server: FaultServer) -> Iterator[Context]:
    """One client for all parts, made from the environment alone."""
    from p4p.client.thread import Context

    with Context("pva", nt=False) as made:
        yield made


@pytest.fixture
def ioc(soft_ioc: SoftIoc, context: Context) -> Part:
    return Part(context, soft_ioc)


@pytest.fixture
def server(fault_server: FaultServer, context: Context) -> Iterator[Part]:
    part = Part(context, fault_server)
    part.put("RESET", 1)
    yield part
    part.put("RESET", 1)


class Part:
    """A short way to write a get and a put of one part."""

    def __init__(self, context: Context, server: Any) -> None:
        self.context, self.server = context, server

    def whole(self, name: str) -> Any:
        return self.context.get(self.server.pv(name), timeout=5)

    def get(self, name: str) -> Any:
        value = self.whole(name).value
        return value.index if hasattr(value, "index") and hasattr(value, "choices") else value

    def put(self, name: str, value: Any, field: str = "value", **options: Any) -> Any:
        options.setdefault("timeout", 5)
        return self.context.put(self.server.pv(name), {field: value}, **options)

    def severity(self, name: str) -> tuple[int, str]:
        alarm = self.whole(name).alarm
        return alarm.severity, alarm.message

    def seen(self, name: str) -> int:
        return int(self.get(f"PUTS:{name}"))


def eventually(ask: Callable[[], Any], wanted: Any, seconds: float = 3.0) -> float:
    """Wait until the answer is the wanted one; give the seconds it took."""
    began = time.monotonic()
    while (answer := ask()) != wanted:
        assert time.monotonic() - began < seconds, f"still {answer!r}, not {wanted!r}, after {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - began


# ---- the records of the IOC ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FREE", -2.25), ("INT", -7), ("INTFREE", 12345), ("STR", "bye"), ("LSTR", "x" * 200), ("SP:099", 99.5),
        ("DBL", 4.5),
    ],
)  # fmt: skip
def test_scalars_keep_what_was_put(ioc: Part, name: str, value: Any) -> None:
    before = ioc.get(name)
    ioc.put(name, value)
    assert ioc.get(name) == value
    ioc.put(name, before)
    assert ioc.get(name) == before


@pytest.mark.parametrize(
    ("name", "initial", "most"),
    [("WF", [1.0, 2.5, -3.25], 8), ("IWF", [1, 2, 3], 8), ("F32", [0.5, 1.5], 4), ("SWF", ["one", "two", "three"], 4)],
)
def test_arrays_are_cut_at_their_length(ioc: Part, name: str, initial: list[Any], most: int) -> None:
    assert list(ioc.get(name)) == initial
    longer = (initial * 9)[: most + 3]
    ioc.put(name, longer)
    assert list(ioc.get(name)) == longer[:most]
    ioc.put(name, initial)


@pytest.mark.parametrize(("name", "choices"), [("ENUM", ["off", "on", "auto"]), ("BOOL", ["closed", "open"])])
def test_enums_accept_an_index_that_has_no_choice(ioc: Part, name: str, choices: list[str]) -> None:
    assert list(ioc.whole(name).value.choices) == choices
    assert ioc.get(name) == 1
    ioc.put(name, 7, "value.index")
    assert ioc.get(name) == 7
    ioc.put(name, 1, "value.index")


def test_limits_and_units_are_where_the_guard_looks(ioc: Part) -> None:
    dbl, free = ioc.whole("DBL"), ioc.whole("FREE")
    assert (dbl.control.limitLow, dbl.control.limitHigh) == (-5, 5)
    assert (dbl.display.limitLow, dbl.display.limitHigh, dbl.display.units, dbl.display.precision) == (-10, 10, "mm", 3)
    assert (dbl.valueAlarm.lowAlarmLimit, dbl.valueAlarm.highAlarmLimit) == (-9, 9)
    assert (free.control.limitLow, free.control.limitHigh) == (0, 0)


@pytest.mark.parametrize(
    ("name", "asked", "done"),
    [("DBL", 99.0, 5.0), ("DBL", -99.0, -5.0), ("INT", 1000, 100), ("INT", 3.7, 3), ("INTFREE", -3.7, -3)],
)
def test_a_changed_value_is_reported_as_success(ioc: Part, name: str, asked: float, done: float) -> None:
    before = ioc.get(name)
    assert ioc.put(name, asked) is None
    assert ioc.get(name) == done
    ioc.put(name, before)


def test_nan_is_accepted(ioc: Part) -> None:
    ioc.put("FREE", math.nan)
    assert math.isnan(ioc.get("FREE"))
    assert ioc.severity("FREE") == (3, "UDF")
    ioc.put("FREE", 1.0)
    assert ioc.severity("FREE") == (0, "")


def test_a_string_is_cut_silently(ioc: Part) -> None:
    ioc.put("STR", "x" * 60)
    assert ioc.get("STR") == "x" * 39
    ioc.put("STR", "hello")


def test_slow_answers_at_once_unless_asked_to_block(ioc: Part) -> None:
    began = time.monotonic()
    ioc.put("SLOW", 1.0)
    assert time.monotonic() - began < 0.5
    time.sleep(2.2)
    began = time.monotonic()
    ioc.put("SLOW", 2.0, request="record[block=true]")
    assert 1.9 < time.monotonic() - began < 3.0


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("DISP", 3.0, "S_db_putDisabled"), ("ASG", 3.0, "Put not permitted"), ("VALID", 3.0, "Operation not permitted")],
)
def test_a_protected_record_reads_and_refuses_the_put(ioc: Part, name: str, value: float, words: str) -> None:
    from p4p.client.raw import RemoteError

    assert ioc.get(name) == 1.0
    with pytest.raises(RemoteError, match=words):
        ioc.put(name, value)
    assert ioc.get(name) == 1.0


def test_validate_accepts_what_it_should_and_hides_a_refusal_behind_block(ioc: Part) -> None:
    ioc.put("VALID", 1.5)
    assert ioc.get("VALID") == 1.5
    assert ioc.put("VALID", 3.0, request="record[block=true]") is None
    assert ioc.get("VALID") == 1.5
    ioc.put("VALID", 1.0)


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [("UDF", 3, "UDF"), ("NAN", 3, "UDF"), ("MAJOR", 2, "HIHI"), ("MINOR", 1, "HIGH"), ("INVALID", 3, "READ"),
     ("STATIC", 0, "")],
)  # fmt: skip
def test_alarms(ioc: Part, name: str, severity: int, message: str) -> None:
    assert ioc.severity(name) == (severity, message)


def test_what_the_odd_inputs_hold(ioc: Part) -> None:
    assert ioc.get("UDF") == 0.0
    assert math.isnan(ioc.get("NAN"))
    assert ioc.get("STATIC") == 7.0


def test_count_changes_ten_times_a_second(ioc: Part) -> None:
    first = ioc.get("COUNT")
    time.sleep(1.0)
    assert 7 <= ioc.get("COUNT") - first <= 14


def test_every_put_to_cmd_counts_also_of_the_same_value(ioc: Part) -> None:
    before = ioc.get("CMD:COUNT")
    for _ in range(3):
        ioc.put("CMD", 1)
    eventually(lambda: ioc.get("CMD:COUNT"), before + 3)


# ---- setpoints and their readbacks -----------------------------------------------------------------------------------


def test_a_hundred_readbacks_follow_a_settle_time_later(ioc: Part) -> None:
    setpoints = [ioc.server.pv(f"SP:{i:03d}") for i in range(100)]
    readbacks = [ioc.server.pv(f"RB:{i:03d}") for i in range(100)]
    ioc.put("SETTLE", 0.5)
    ioc.context.get(setpoints + readbacks)  # connect
    wanted = [i / 8 + time.time() % 1 for i in range(100)]
    began = time.monotonic()
    ioc.context.put(setpoints, [{"value": value} for value in wanted])
    put = time.monotonic() - began
    assert [v.value for v in ioc.context.get(readbacks)] != wanted
    took = put + eventually(lambda: [v.value for v in ioc.context.get(readbacks)], wanted)
    assert 0.5 <= took < 0.5 + put + 0.3
    print(f"raw put of 100: {put:.3f} s; all readbacks there after {took:.3f} s")


def test_the_settle_time_is_a_pv_and_the_newest_setpoint_wins(ioc: Part) -> None:
    ioc.put("SETTLE", 0.2)
    ioc.put("SP:001", 11.0)
    ioc.put("SP:001", 12.0)
    assert 0.1 < eventually(lambda: ioc.get("RB:001"), 12.0) < 0.45
    ioc.put("SETTLE", 0.0)
    ioc.put("SP:001", 13.0)
    assert eventually(lambda: ioc.get("RB:001"), 13.0) < 0.2
    ioc.put("SETTLE", 0.5)


def test_ramp_moves_at_its_rate(ioc: Part) -> None:
    ioc.put("RAMP:RATE", 10.0)
    start = ioc.get("RAMP:RB")
    ioc.put("RAMP:SP", start + 5.0)
    time.sleep(0.25)
    assert 1.0 < ioc.get("RAMP:RB") - start < 4.5
    eventually(lambda: ioc.get("RAMP:RB"), start + 5.0)
    ioc.put("RAMP:SP", start)
    assert 0.4 < eventually(lambda: ioc.get("RAMP:RB"), start) < 0.8
    ioc.put("RAMP:RATE", 1.0)


def test_stick_never_moves(ioc: Part) -> None:
    ioc.put("STICK:SP", 3.0)
    time.sleep(0.7)
    assert ioc.get("STICK:RB") == 0.0


def test_noisy_leaves_the_band_again_before_it_stays(ioc: Part) -> None:
    updates: queue.Queue[Any] = queue.Queue()
    subscription = ioc.context.monitor(ioc.server.pv("NOISY:RB"), lambda v: updates.put((time.monotonic(), v.value)))
    updates.get(timeout=3)
    began = time.monotonic()
    ioc.put("NOISY:SP", 4.0)
    time.sleep(1.5)
    subscription.close()
    seen = [updates.get_nowait() for _ in range(updates.qsize())]
    inside = [abs(value - 4.0) < 0.1 for _, value in seen]
    assert inside[0]
    assert inside.count(False) >= 3
    assert inside[-1]
    assert 0.9 < seen[-1][0] - began < 1.4


# ---- the faults of the server ----------------------------------------------------------------------------------------


def no_answer(server: Part, name: str, value: float) -> None:
    with pytest.raises(TimeoutError):
        server.put(name, value, timeout=SHORT)


def test_noanswer_applies_and_lost_does_not(server: Part) -> None:
    no_answer(server, "NOANSWER", 4.0)
    no_answer(server, "LOST", 4.0)
    assert (server.get("NOANSWER"), server.get("LOST")) == (4.0, 0.0)
    assert (server.seen("NOANSWER"), server.seen("LOST")) == (1, 1)


def test_late_applies_two_seconds_after_the_put(server: Part) -> None:
    began = time.monotonic()
    no_answer(server, "LATE", 4.0)
    assert server.get("LATE") == 0.0
    eventually(lambda: server.get("LATE"), 4.0)
    assert LATE_SECONDS - 0.05 < time.monotonic() - began < LATE_SECONDS + 0.5
    assert server.seen("LATE") == 1


@pytest.mark.parametrize(("name", "after_first"), [("LOSTONCE", 0.0), ("APPLIEDONCE", 4.0)])
def test_once_only_the_first_put_gets_no_answer(server: Part, name: str, after_first: float) -> None:
    for _ in range(2):  # RESET brings the first time back
        no_answer(server, name, 4.0)
        assert server.get(name) == after_first
        server.put(name, 5.0)
        assert server.get(name) == 5.0
        assert server.seen(name) == 2
        server.put("RESET", 1)


def test_half_applies_half(server: Part) -> None:
    no_answer(server, "HALF", 4.0)
    assert server.get("HALF") == 2.0
    assert server.seen("HALF") == 1


def test_refuse_and_readonly_say_so(server: Part) -> None:
    from p4p.client.raw import RemoteError

    with pytest.raises(RemoteError, match=REFUSAL):
        server.put("REFUSE", 4.0)
    with pytest.raises(RemoteError, match="Put not supported"):
        server.put("READONLY", 4.0)
    assert (server.get("REFUSE"), server.get("READONLY"), server.seen("REFUSE")) == (0.0, 9.5, 1)


def test_clamp_has_no_limits_to_warn_and_keeps_to_five(server: Part) -> None:
    assert "control" not in server.whole("CLAMP")
    server.put("CLAMP", 99.0)
    assert (server.get("CLAMP"), server.seen("CLAMP")) == (5.0, 1)
    server.put("CLAMP", -99.0)
    assert (server.get("CLAMP"), server.seen("CLAMP")) == (-5.0, 2)


def test_delayed_answers_before_the_value_is_there(server: Part) -> None:
    server.put("DELAYED", 4.0)
    assert server.get("DELAYED") == 0.0
    assert eventually(lambda: server.get("DELAYED"), 4.0) < DELAYED_SECONDS + 0.3


@pytest.mark.parametrize(
    ("name", "code", "asked", "done"),
    [
        ("TRUNC", "i", 3.7, 3), ("U8", "B", 300, 44), ("I64", "l", 2**60 + 1, 2**60 + 1), ("F32", "f", 0.25, 0.25),
        ("FLAG", "?", True, True), ("TEXT", "s", "grüße", "grüße"),
    ],
)  # fmt: skip
def test_types_of_the_server(server: Part, name: str, code: str, asked: Any, done: Any) -> None:
    assert server.whole(name).type()["value"] == code
    server.put(name, asked)
    assert server.get(name) == done


def test_structures_of_the_server(server: Part) -> None:
    assert list(server.get("ARR")) == [0.5, 1.5, 2.5]
    server.put("ARR", [1.0])
    assert list(server.get("ARR")) == [1.0]
    assert (server.whole("ENUM").getID(), server.get("ENUM")) == ("epics:nt/NTEnum:1.0", 1)
    server.put("ENUM", 2, "value.index")
    assert server.get("ENUM") == 2
    image = server.whole("IMAGE")
    assert image.getID() == "epics:nt/NTNDArray:1.0"
    assert [d.size for d in image.dimension] == [3, 2]
    assert list(image.value) == [0, 1, 2, 3, 4, 5]


def test_one_column_of_the_table_can_be_put_alone(server: Part) -> None:
    server.put("TABLE", [5.0, 6.0, 7.0], "value.a")
    table = server.whole("TABLE").todict()["value"]
    assert (list(table["a"]), table["b"]) == ([5.0, 6.0, 7.0], ["one", "two", "three"])


def test_pulse_carries_its_id_ten_times_a_second(server: Part) -> None:
    first, began = server.whole("PULSE"), time.monotonic()
    assert first.timeStamp.userTag == first.value > 0
    time.sleep(1.0)
    second = server.whole("PULSE")
    assert second.timeStamp.userTag == second.value
    assert second.value - first.value == pytest.approx((time.monotonic() - began) * 10, abs=2)


def test_reset_sets_everything_back_and_ends_what_is_pending(server: Part) -> None:
    no_answer(server, "LATE", 4.0)
    server.put("CLAMP", 3.0)
    server.put("TABLE", [5.0], "value.a")
    server.put("RESET", 1)
    assert [server.seen(name) for name in COUNTED] == [0] * len(COUNTED)
    assert server.get("CLAMP") == 0.0
    assert list(server.whole("TABLE").todict()["value"]["a"]) == [1.0, 2.0, 3.0]
    time.sleep(LATE_SECONDS)
    assert server.get("LATE") == 0.0


# ---- reaching them ---------------------------------------------------------------------------------------------------


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
        assert time.monotonic() - began < 1.0


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
    assert ioc.ready_after < 2.0  # 0.9 s on a quiet machine
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
    assert time.monotonic() - began < 1.0
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
        assert server.ready_after < 2.0
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
        "from badger_k2eg.testing.soft_ioc import SoftIoc\n"
        "part = SoftIoc()\n"
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


# ---- the plugin ------------------------------------------------------------------------------------------------------


def test_the_plugin_skips_where_softioc_is_missing_and_restores_the_environment(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import importlib.util, os, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'softioc' else find(name, *a)\n"
        "def test_ioc(soft_ioc): raise AssertionError\n"
        "def test_factory(soft_ioc_factory): soft_ioc_factory()\n"
        "def test_environment(epics_environment): assert os.environ['EPICS_PVA_AUTO_ADDR_LIST'] == 'NO'\n"
    )
    (tmp_path / "conftest.py").write_text(
        "import os\n"
        "def pytest_unconfigure(): print('LEFT', os.environ.get('EPICS_PVA_AUTO_ADDR_LIST'),"
        " os.environ.get('EPICS_CA_ADDR_LIST'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", str(tmp_path)],
        env=clean_environment({"EPICS_CA_ADDR_LIST": "mine"}),
        capture_output=True,
        text=True,
        timeout=50,
        cwd=tmp_path,
    )
    assert "1 passed, 2 skipped" in done.stdout, done.stdout + done.stderr
    assert "pip install badger-k2eg[test]" in done.stdout
    assert "LEFT None mine" in done.stdout
