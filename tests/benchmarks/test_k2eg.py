"""The K2EG client: against a bare request and reply over Kafka, and the k2eg library on the same gateway."""

from __future__ import annotations

import itertools
import queue
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from badger_k2eg.backends import ThroughK2eg
from badger_k2eg.control import Control, connect
from badger_k2eg.control.validators import within
from badger_k2eg.core.settings import Settings
from badger_k2eg.k2eg.client import K2egClient
from badger_k2eg.k2eg.codec import Get
from badger_k2eg.testing.gateway import GatewayProcess
from badger_k2eg.testing.soft_ioc import client_environment
from tests.system.k2eg.double import Double, tree

from .bare import Bare, BareResponder
from .board import Board, Figure
from .library import Library
from .rounds import Series, take_turns

if TYPE_CHECKING:
    from badger_k2eg.testing.broker import Broker
    from badger_k2eg.testing.soft_ioc import SoftIoc

    from .updates import UpdateServer

MANY = 100
WINDOW = 1.0
"""Seconds that a snapshot gathers; the library knows no other."""
SETTLE = 0.5
POLL_STEP = 0.02
HERTZ = 10.0
BROKERS = {"kafka": "Apache Kafka", "embedded": "the embedded broker"}
FLOOR, LIBRARY = "confluent-kafka and p4p alone", "the k2eg library 0.3.2"

TARGET_READY_MS = 1000.0
TARGET_GET = 1.3
TARGET_MANY = 3.0


@pytest.fixture(scope="module")
def gateway(broker: Broker, soft_ioc: SoftIoc, update_server: UpdateServer) -> Iterator[GatewayProcess]:
    """Give the gateway of all clients here."""
    epics = client_environment(soft_ioc, update_server)
    with GatewayProcess("--allow-write", "*", broker=broker, epics=epics) as process:
        yield process


@pytest.fixture(scope="module")
def responder(broker: Broker, soft_ioc: SoftIoc, update_server: UpdateServer) -> Iterator[BareResponder]:
    with BareResponder(broker, client_environment(soft_ioc, update_server)) as process:
        yield process


@pytest.fixture(scope="module")
def bare(responder: BareResponder) -> Iterator[Bare]:
    bare = responder.client()
    yield bare
    bare.close()


@pytest.fixture
def closed_library(gateway: GatewayProcess, broker: Broker) -> Iterator[Library]:
    library = Library(gateway, broker)
    yield library
    library.close()


@pytest.fixture(scope="module")
def library(gateway: GatewayProcess, broker: Broker, uris: list[str]) -> Iterator[Library]:
    library = Library(gateway, broker)
    library.do("open", library.prepare(), uris[0])
    yield library
    library.close()


@pytest.fixture(scope="module")
def client(gateway: GatewayProcess) -> Iterator[K2egClient]:
    with K2egClient(gateway.environment_name, "bench", folder=gateway.folder) as client:
        yield client


@pytest.fixture(scope="module")
def names(soft_ioc: SoftIoc) -> list[str]:
    return [soft_ioc.pv(f"BIG:{number:04d}") for number in range(MANY)]


@pytest.fixture(scope="module")
def uris(names: list[str]) -> list[str]:
    return [f"pva://{name}" for name in names]


@pytest.fixture(scope="module")
def group(broker: Broker) -> str:
    return f"K2EG on {BROKERS.get(broker.kind, broker.bootstrap)}"


def add_both(board: Board, group: str, what: str, taken: Mapping[str, Series], **about: Any) -> None:
    """Add a line against each peer; what is said besides is about the floor."""
    for peer, against, more in (("floor", FLOOR, about), ("library", LIBRARY, {})):
        board.add(
            Figure(
                group=group,
                what=what,
                ours=taken["ours"].median * 1e3,
                unit="ms",
                against=against,
                theirs=taken[peer].median * 1e3,
                ratio=taken["ours"].over(taken[peer]),
                samples=len(taken[peer].seconds),
                more={name: series.least * 1e3 for name, series in taken.items()},
                **more,
            )
        )


def test_ready(
    board: Board, group: str, gateway: GatewayProcess, responder: BareResponder, closed_library: Library,
    names: list[str], uris: list[str],
) -> None:  # fmt: skip
    """From nothing to a gateway that is known to answer, and to a first value."""
    opened: list[Any] = []
    rounds, warm_up = (1, 0) if board.short else (15, 1)
    apps = iter([closed_library.prepare() for _ in range(warm_up + rounds)])

    def ours(work: Callable[[K2egClient], object]) -> Callable[[], None]:
        def open_and_work() -> None:
            opened.append(K2egClient(gateway.environment_name, "bench-ready", folder=gateway.folder))
            work(opened[-1])

        return open_and_work

    def floor() -> None:
        opened.append(responder.client())
        opened[-1].ask([names[0]])

    def close() -> None:
        opened.pop().close()

    taken = take_turns(
        {
            "ready": ours(K2egClient.wait_for_backends),
            "ours": ours(lambda client: client.get(uris[0])),
            "floor": floor,
            "library": lambda: closed_library.do("open", next(apps), uris[0]),
        },
        rounds,
        warm_up=warm_up,
        after={"ready": close, "ours": close, "floor": close, "library": lambda: closed_library.do("close")},
    )
    board.add(
        Figure(
            group=group,
            what="K2egClient, until wait_for_backends returns",
            ours=taken["ready"].median * 1e3,
            unit="ms",
            target=TARGET_READY_MS,
            samples=len(taken["ready"].seconds),
            more={"least": taken["ready"].least * 1e3, "most": taken["ready"].most * 1e3},
        )
    )
    add_both(board, group, "a new client and its first get", taken)


def test_get(
    board: Board, group: str, client: K2egClient, bare: Bare, library: Library, names: list[str], uris: list[str]
) -> None:
    """One PV after another: each get alone on its way."""
    each: dict[str, list[float]] = {"ours": [], "floor": [], "library": []}
    count = 20

    def gets(way: str, get: Callable[[], object]) -> Callable[[], None]:
        def some() -> None:
            for _ in range(count):
                began = time.perf_counter()
                get()
                each[way].append(time.perf_counter() - began)

        return some

    assert client.get(uris[7])["value"] == bare.ask([names[7]])[0][0] == 7.0
    rounds = 5 if board.short else 50
    turns = take_turns(
        {
            "ours": gets("ours", lambda: client.get(uris[7])),
            "floor": gets("floor", lambda: bare.ask([names[7]])),
            "library": lambda: each["library"].extend(library.do("get", uris[7], count)),
        },
        rounds,
        warm_up=2,
    )
    # The gets of the warm-up do not count.
    calls = {way: sorted(seconds[-rounds * count :]) for way, seconds in each.items()}
    taken = {way: Series(tuple(seconds / count for seconds in series.seconds)) for way, series in turns.items()}
    add_both(board, group, "one get, mean of 20", taken, target=TARGET_GET)
    p99 = {way: statistics.quantiles(seconds, n=100)[98] for way, seconds in calls.items()}
    p50 = {way: statistics.median(seconds) for way, seconds in calls.items()}
    for what, values in (("one get, p50", p50), ("one get, p99", p99)):
        for peer, against in (("floor", FLOOR), ("library", LIBRARY)):
            board.add(
                Figure(
                    group=group,
                    what=what,
                    ours=values["ours"] * 1e3,
                    unit="ms",
                    against=against,
                    theirs=values[peer] * 1e3,
                    ratio=values["ours"] / values[peer],
                    samples=len(calls[peer]),
                )
            )


def test_many_gets(
    board: Board, group: str, client: K2egClient, bare: Bare, library: Library, names: list[str], uris: list[str]
) -> None:
    requests = [[name] for name in names]
    assert [tree["value"] for tree in client.get_many(uris).values()] == [float(number) for number in range(MANY)]
    taken = take_turns(
        {
            "one": lambda: client.get(uris[0]),
            "ours": lambda: client.get_many(uris),
            "floor": lambda: bare.ask(*requests),
            "library": lambda: library.do("get_many", uris),
        },
        rounds=3 if board.short else 41,
    )
    add_many(board, group, taken)
    add_both(board, group, f"{MANY} gets at once", taken)


def test_many_gets_at_the_pace_of_the_real_gateway(board: Board, group: str, broker: Broker) -> None:
    """It looks for answers every 20 ms (protocol section 7), where ours answers at once."""
    double = Double(broker, {f"P:{number}": tree(float(number)) for number in range(MANY)})
    asked: queue.SimpleQueue[Get] = queue.SimpleQueue()
    double.instead[Get] = lambda command: asked.put(command) or True
    done = threading.Event()

    def answer() -> None:
        while not done.wait(POLL_STEP):
            for command in [asked.get() for _ in range(asked.qsize())]:
                double.answer(command)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with K2egClient(double.environment, "bench-pace") as client:
            uris = [double.uri(f"P:{number}") for number in range(MANY)]
            taken = take_turns(
                {"one": lambda: client.get(uris[0]), "ours": lambda: client.get_many(uris)},
                rounds=3 if board.short else 41,
            )
    finally:
        done.set()
        thread.join()
        double.close()
    add_many(board, f"{group}, a get takes {POLL_STEP * 1e3:g} ms", taken)


def add_many(board: Board, group: str, taken: Mapping[str, Series]) -> None:
    board.add(
        Figure(
            group=group,
            what=f"{MANY} gets at once",
            ours=taken["ours"].median * 1e3,
            unit="ms",
            against="one get",
            theirs=taken["one"].median * 1e3,
            ratio=taken["ours"].over(taken["one"]),
            target=TARGET_MANY,
            samples=len(taken["one"].seconds),
            more={"least": taken["ours"].least * 1e3, "least_one": taken["one"].least * 1e3},
        )
    )


def test_monitor(
    board: Board, group: str, client: K2egClient, bare: Bare, library: Library, update_server: UpdateServer
) -> None:
    """Until the first value. The library hears none of a PV that does not change: these do, ten times a second."""
    update_server.update(HERTZ)
    fresh = iter(update_server.pvs)

    def ours() -> None:
        client.monitor(f"pva://{next(fresh)}", lambda pv, tree: None).close()

    def again() -> None:
        client.monitor(f"pva://{update_server.pvs[-1]}", lambda pv, tree: None).close()

    again()
    try:
        taken = take_turns(
            {
                "ours": ours,
                "floor": lambda: bare.ask([next(fresh)], how="monitor"),
                "library": lambda: library.do("monitor", f"pva://{next(fresh)}"),
                "again": again,
            },
            rounds=2 if board.short else 15,
        )
    finally:
        update_server.update(0.0)
    add_both(board, group, "monitor of a PV that nobody has asked for yet", taken)
    add_both(board, group, "monitor of one that is published already", {**taken, "ours": taken["again"]})


def test_snapshot(
    board: Board, group: str, client: K2egClient, bare: Bare, library: Library, names: list[str], uris: list[str]
) -> None:
    """What a one-shot snapshot takes beyond its window."""
    assert not client.snapshot_sync(uris, window=WINDOW).errors
    taken = take_turns(
        {
            "ours": lambda: client.snapshot_sync(uris, window=WINDOW),
            "floor": lambda: bare.ask(names),
            "library": lambda: library.do("snapshot", uris),
        },
        rounds=1 if board.short else 11,
    )
    beyond = {way: series.plus(-WINDOW) if way != "floor" else series for way, series in taken.items()}
    add_both(board, group, f"snapshot of {MANY} PVs, beyond its window of {WINDOW:g} s", beyond)


@pytest.mark.parametrize("count", [10, 50])
def test_parallel_set(
    board: Board, group: str, gateway: GatewayProcess, soft_ioc: SoftIoc, raw: Any, count: int
) -> None:
    """A validated parallel set, as an environment does it; against settling alone, and against the direct way."""
    if board.short and count == 50:
        pytest.skip("left out of a short run")
    raw.put(soft_ioc.pv("SETTLE"), SETTLE)
    values = itertools.cycle(range(1, 90))
    pairs = {soft_ioc.pv(f"SP:{number:03d}"): soft_ioc.pv(f"RB:{number:03d}") for number in range(count)}
    validators = {setpoint: within(readback, tolerance=0.001) for setpoint, readback in pairs.items()}
    through = ThroughK2eg(gateway.environment_name, "bench-set", str(gateway.folder))
    backends = {"k2eg": connect(through), "pva": connect("pva")}
    controls = {name: Control(way, Settings(parallel=True, timeout=10.0)) for name, way in backends.items()}

    def set_with(control: Control) -> None:
        report = control.set(dict.fromkeys(pairs, float(next(values))), validators)
        assert report.ok

    taken = take_turns(
        {name: lambda control=control: set_with(control) for name, control in controls.items()},
        rounds=2 if board.short else 15,
        # What is still under way when one has arrived is not to fall in the time of the next.
        after=dict.fromkeys(controls, lambda: time.sleep(0.1)),
    )
    for control, backend in zip(controls.values(), backends.values(), strict=True):
        control.close()
        backend.close()
    settling = Series((SETTLE,) * len(taken["k2eg"].seconds))
    for against, theirs in ((f"settling alone ({SETTLE:g} s)", settling), ("the same over PVAccess", taken["pva"])):
        board.add(
            Figure(
                group=group,
                what=f"parallel set of {count} pairs, within()",
                ours=taken["k2eg"].median * 1e3,
                unit="ms",
                against=against,
                theirs=theirs.median * 1e3,
                ratio=taken["k2eg"].over(theirs),
                samples=len(theirs.seconds),
                more={"least": taken["k2eg"].least * 1e3},
            )
        )
