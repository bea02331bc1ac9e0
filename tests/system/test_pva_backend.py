"""What is p4p's own about the PVAccess backend: its configuration, its handles, its habits."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from badger_k2eg import backends
from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control import connect
from badger_k2eg.core.backend import Backend
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import Fields, Outcome, PvAddress, Reading
from badger_k2eg.errors import PvNotConnected
from tests.rig.pace import pace
from tests.rig.waiting import eventually

if TYPE_CHECKING:
    from badger_k2eg.backends.pva import PvaBackend
    from badger_k2eg.testing.fault_server import FaultServer
    from badger_k2eg.testing.soft_ioc import SoftIoc

pytest.importorskip("softioc", reason="pip install badger-k2eg[test]")
pytest.importorskip("p4p")

PATIENCE = 15.0


@pytest.fixture
def backend(soft_ioc: SoftIoc, fault_server: FaultServer) -> Iterator[PvaBackend]:
    from badger_k2eg.backends.pva import PvaBackend

    made = PvaBackend()
    yield made
    made.close()


def get(backend: Backend, name: str, seconds: float = PATIENCE) -> Any:
    address = PvAddress.parse(name)
    return backend.get_many([address], Deadline(seconds))[address]


def test_its_context_knows_the_configured_addresses_and_no_others(backend: PvaBackend, soft_ioc: SoftIoc) -> None:
    """A raw p4p context ignores the environment by default, and broadcasts to the whole site."""
    get(backend, soft_ioc.pv("DBL"))
    conf = backend._context.conf()
    assert sorted(conf["EPICS_PVA_ADDR_LIST"].split()) == sorted(os.environ["EPICS_PVA_ADDR_LIST"].split())
    assert conf["EPICS_PVA_AUTO_ADDR_LIST"] == "NO"
    assert conf.get("EPICS_PVA_NAME_SERVERS", "") == ""
    assert all(address.startswith("127.0.0.1:") for address in conf["EPICS_PVA_ADDR_LIST"].split())


def test_a_client_that_is_open_knows_other_addresses_only_as_another_one(
    soft_ioc: SoftIoc, fault_server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, again = (connect("pva") for _ in range(3))
    try:
        for name, value in soft_ioc.client_environment.items():
            monkeypatch.setenv(name, value)
        assert isinstance(get(first, soft_ioc.pv("DBL")), Reading)
        for name, value in fault_server.client_environment.items():
            monkeypatch.setenv(name, value)
        assert isinstance(get(second, fault_server.pv("CLAMP")), Reading)
        # What is open keeps the addresses of its beginning.
        assert isinstance(get(first, soft_ioc.pv("LONG")), Reading)
        assert isinstance(get(again, soft_ioc.pv("DBL"), 1.0), PvNotConnected)
    finally:
        for router in (first, second, again):
            router.close()


def test_an_update_may_come_before_the_subscription_is_known(
    backend: PvaBackend, soft_ioc: SoftIoc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the thread that subscribes is held up, what p4p tells meanwhile must not be lost."""
    from badger_k2eg.backends.pva import subscription as module

    pv = soft_ioc.pv("STATIC")
    get(backend, pv)
    subscribe = module.RawContext.monitor

    def held_up(*arguments: Any) -> Any:
        handle = subscribe(*arguments)
        time.sleep(0.5)
        return handle

    monkeypatch.setattr(module.RawContext, "monitor", held_up)
    heard: list[Any] = []
    backend.monitor(PvAddress.parse(pv), heard.append)
    eventually(lambda: [update.value for update in heard], [7.0])


def test_it_opens_nothing_before_its_first_use() -> None:
    from badger_k2eg.backends.pva import PvaBackend

    before = set(threading.enumerate())
    made = PvaBackend()
    assert made._context is None and set(threading.enumerate()) == before
    made.close()


def test_no_handle_of_p4p_is_left_behind(backend: PvaBackend, soft_ioc: SoftIoc, fault_server: FaultServer) -> None:
    """p4p counts its C++ objects: gets, puts and monitors, answered, timed out and cancelled, leave none."""
    from p4p import listRefs

    names = [PvAddress.parse(soft_ioc.pv(f"SP:{i:03d}")) for i in range(20)]
    lost, gone = PvAddress.parse(fault_server.pv("LOST")), PvAddress.parse(soft_ioc.pv("NOBODY"))

    def everything() -> None:
        backend.get_many(names, Deadline(PATIENCE))
        backend.get_many([*names, gone], Deadline(0.4))
        backend.put_many(dict.fromkeys(names, 0.0), Deadline(PATIENCE), wait=names[:3])
        backend.put_many({lost: 1.0, gone: 1.0}, Deadline(0.2))
        subscriptions = [backend.monitor(name, lambda update: None) for name in [*names, gone]]
        for subscription in subscriptions:
            subscription.close()

    def handles() -> dict[str, int]:
        gc.collect()
        return {kind: count for kind, count in listRefs().items() if "Op" in kind or "Monitor" in kind}

    everything()
    before = handles()
    for _ in range(3):
        everything()
    eventually(lambda: {kind: n for kind, n in handles().items() if n > before.get(kind, 0)}, {})
    assert not backend._batches and not backend._subscriptions


def test_a_get_that_gives_up_leaves_other_gets_of_the_pv_alone(
    backend: PvaBackend, soft_ioc_factory: Callable[..., SoftIoc]
) -> None:
    """Giving up looks for the server anew; what another thread waits for on the same PV must not be lost by that."""
    ioc = soft_ioc_factory()
    name = ioc.pv("DBL")
    get(backend, name)
    ioc.stop()
    answers: list[Any] = []
    patient = threading.Thread(target=lambda: answers.append(get(backend, name)))
    patient.start()
    time.sleep(0.1)
    assert isinstance(get(backend, name, 0.5), PvNotConnected)
    ioc.cont()
    patient.join(PATIENCE)
    assert [answer.value for answer in answers] == [1.5]


def test_a_get_that_gives_up_leaves_a_put_of_the_pv_alone(
    backend: PvaBackend, soft_ioc_factory: Callable[..., SoftIoc]
) -> None:
    ioc = soft_ioc_factory()
    slow = PvAddress.parse(ioc.pv("SLOW"))
    get(backend, slow.name)
    answers: list[Any] = []
    put = threading.Thread(target=lambda: answers.append(backend.put_many({slow: 3.0}, Deadline(PATIENCE), [slow])))
    put.start()
    eventually(lambda: get(backend, slow.name).value, 3.0)
    ioc.stop()
    assert isinstance(get(backend, slow.name, 0.5), PvNotConnected)
    ioc.cont()
    put.join(PATIENCE)
    assert answers[0][slow].outcome is Outcome.APPLIED


def test_a_put_is_not_sent_again_by_p4p_itself(backend: PvaBackend, fault_server: FaultServer) -> None:
    """p4p sends a put that was not answered once more when the server comes back; this backend keeps it from that."""
    pv = PvAddress.parse(fault_server.pv("NOANSWER"))
    get(backend, pv.name)
    answers: list[Any] = []
    put = threading.Thread(target=lambda: answers.append(backend.put_many({pv: 3.0}, Deadline(PATIENCE))))
    put.start()
    eventually(lambda: get(backend, fault_server.pv("PUTS:NOANSWER")).value, 1)
    fault_server.restart()
    put.join(PATIENCE)
    assert answers[0][pv].outcome is Outcome.UNKNOWN and "disconnected after it was sent" in answers[0][pv].message
    assert get(backend, fault_server.pv("PUTS:NOANSWER")).value == 0
    assert get(backend, pv.name).value == 0.0


def test_a_monitor_resumes_after_reads_of_its_dead_pv(
    backend: PvaBackend, soft_ioc_factory: Callable[..., SoftIoc]
) -> None:
    ioc = soft_ioc_factory()
    name = ioc.pv("FREE")
    seen: list[Any] = []
    subscription = backend.monitor(PvAddress.parse(name), seen.append)
    eventually(lambda: len(seen), 1)
    ioc.kill()
    eventually(lambda: isinstance(seen[-1], PvNotConnected))
    assert isinstance(get(backend, name, 0.5), PvNotConnected)
    ioc.restart()
    assert get(backend, name, 3.0).value == 1.0
    eventually(lambda: isinstance(seen[-1], Reading) and seen[-1].value, 1.0)
    subscription.close()


def test_a_monitor_is_not_closed_while_it_is_read(
    backend: PvaBackend, soft_ioc: SoftIoc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where both come together p4p lets the last reference go with the GIL held, and may wait for it for ever."""
    from p4p.client.raw import Subscription

    reading, closed = threading.Event(), threading.Event()
    overlapped: list[bool] = []

    def pop(handle: Subscription) -> Any:
        reading.set()
        # As if the thread had to wait long for the GIL, back from C++.
        overlapped.append(closed.wait(0.3))
        return None

    def close(handle: Subscription) -> None:
        closed.set()
        really_close(handle)

    really_close = Subscription.close
    monkeypatch.setattr(Subscription, "pop", pop)
    monkeypatch.setattr(Subscription, "close", close)
    subscription = backend.monitor(PvAddress.parse(soft_ioc.pv("DBL")), lambda update: None)
    assert reading.wait(PATIENCE)
    subscription.close()
    assert closed.wait(PATIENCE)
    assert not any(overlapped)


def test_closing_ends_calls_and_monitors(soft_ioc: SoftIoc, fault_server: FaultServer) -> None:
    from badger_k2eg.backends.pva import PvaBackend

    before = threading.active_count()
    backend = PvaBackend()
    lost, gone = PvAddress.parse(fault_server.pv("LOST")), PvAddress.parse(soft_ioc.pv("NOBODY"))
    get(backend, lost.name)
    backend.monitor(PvAddress.parse(soft_ioc.pv("PULSE")), lambda update: None)
    ends: dict[str, Any] = {}

    def read() -> None:
        try:
            backend.get_many([gone], Deadline(60.0))
        except Exception as error:  # looked at below
            ends["get"] = error

    def write() -> None:
        ends["put"] = backend.put_many({lost: 1.0}, Deadline(60.0))[lost].outcome

    threads = [threading.Thread(target=read), threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    began = time.monotonic()
    backend.close()
    for thread in threads:
        thread.join(5.0)
    assert time.monotonic() - began < 3.0 * pace()
    assert "cancelled" in str(ends["get"]) and ends["put"] is Outcome.UNKNOWN
    eventually(threading.active_count, before)


def test_suspend_puts_every_handle_down_and_goes_on(backend: PvaBackend, soft_ioc: SoftIoc) -> None:
    name = soft_ioc.pv("SP:050")
    seen: list[Any] = []
    subscription = backend.monitor(PvAddress.parse(name), seen.append)
    eventually(lambda: len(seen) > 0)
    context = backend._context
    backend.suspend()
    assert backend._context is not context
    backend.put_many({PvAddress.parse(name): 4.0}, Deadline(PATIENCE))
    eventually(lambda: seen[-1].value, 4.0)
    backend.put_many({PvAddress.parse(name): 0.0}, Deadline(PATIENCE))
    subscription.close()


def test_fields_of_a_structure(backend: PvaBackend, fault_server: FaultServer) -> None:
    table = PvAddress.parse(fault_server.pv("TABLE"))
    image = get(backend, fault_server.pv("IMAGE"))
    assert image.value is None and list(image.tree["value"]["ubyteValue"]) == list(range(6))
    answer = backend.put_many({table: Fields({"value": {"a": [7.0, 8.0, 9.0]}})}, Deadline(PATIENCE))[table]
    assert answer.outcome is Outcome.APPLIED
    assert get(backend, table.name).value["a"].tolist() == [7.0, 8.0, 9.0]
    # What cannot be put into the structure never leaves.
    answer = backend.put_many({table: Fields({"nothing": 1})}, Deadline(PATIENCE))[table]
    assert answer.outcome is Outcome.REFUSED and "nothing" in answer.message
    backend.put_many({PvAddress.parse(fault_server.pv("RESET")): 1}, Deadline(PATIENCE))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_opening_a_client_does_not_hang_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that makes a client registers it for forks while it holds the pool's lock, which a fork waits for."""
    making = threading.Event()

    def make(scheme: str) -> MemoryBackend:
        making.set()
        time.sleep(0.3)
        return MemoryBackend({"A": 1.0})

    monkeypatch.setattr(backends, "open_backend", make)
    monkeypatch.setattr(backends, "identity", lambda scheme: "test only")
    router = connect("pva")
    values: list[Any] = []
    address = PvAddress.parse("A")
    thread = threading.Thread(target=lambda: values.append(router.get_many([address], Deadline(5.0))[address].value))
    thread.start()
    assert making.wait(5.0)
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    thread.join(5.0)
    assert values == [1.0]
    router.close()
