"""Setting many PVs and waiting until each has arrived: against p4p's put, the machine itself, and the classic way."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from badger_k2eg.control import Control
from badger_k2eg.control.validators import within
from badger_k2eg.core.settings import Settings

from .board import Board, Figure
from .rounds import Series, take_turns

if TYPE_CHECKING:
    from p4p.client.thread import Context

    from badger_k2eg.core.backend import Backend
    from badger_k2eg.testing.soft_ioc import SoftIoc

SETTLE = 0.5
"""Seconds after which a readback of the IOC follows its setpoint."""

TARGET = 1.05
TARGET_READ_BACK = 1.15
TARGETS_ALONE = {10: 1.02, 50: 1.1, 100: 1.2}
TARGET_UPDATE_TO_RETURN_MS = 20.0
TOLERANCE = 0.001
POLL = 0.1


@pytest.fixture
def settle(soft_ioc: SoftIoc, raw: Context) -> Iterator[Callable[[float], object]]:
    """Give a function that says how long a readback of the IOC takes; put back afterwards."""
    yield lambda seconds: raw.put(soft_ioc.pv("SETTLE"), seconds)
    raw.put(soft_ioc.pv("SETTLE"), SETTLE)


class Values:
    """A new value for every set: one that is there already would be no movement."""

    def __init__(self) -> None:
        self._numbers = itertools.cycle(range(1, 90))

    def next(self) -> float:
        return float(next(self._numbers))


def classic_set(context: Context, pairs: dict[str, str], value: float) -> None:
    """Set as the scripts do: for each PV a thread that puts, and then asks ten times a second whether it is there.

    In their favour: one context for all of them, threads, and a time to settle that is a multiple of the pause, so that
    they ask just when it is over. Some make a context for each PV, or a process; and on average half a pause is lost.
    """

    def one(setpoint: str, readback: str) -> None:
        context.put(setpoint, value)
        until = time.monotonic() + 10.0
        while abs(context.get(readback) - value) > TOLERANCE:
            assert time.monotonic() < until, f"{readback} has not arrived"
            time.sleep(POLL)

    with ThreadPoolExecutor(len(pairs)) as pool:
        list(pool.map(one, pairs, pairs.values()))


@pytest.mark.parametrize("count", [10, 50, 100])
def test_parallel_set(
    count: int,
    board: Board,
    soft_ioc: SoftIoc,
    raw: Context,
    backend: Backend,
    settle: Callable[[float], object],
) -> None:
    if board.short and count == 50:
        pytest.skip("left out of a short run")
    values = Values()
    control = Control(backend, Settings(parallel=True, timeout=10.0))
    pairs = {soft_ioc.pv(f"SP:{i:03d}"): soft_ioc.pv(f"RB:{i:03d}") for i in range(count)}
    validators = {sp: within(rb, tolerance=TOLERANCE) for sp, rb in pairs.items()}

    def set_with(control: Control) -> None:
        value = values.next()
        report = control.set(dict.fromkeys(pairs, value), validators)
        assert all(abs(result.arrived - value) <= TOLERANCE for result in report.results)

    def first_set() -> None:
        fresh = Control(backend, control.settings)
        set_with(fresh)
        fresh.close()

    # Warm, in less time than rounds that do not count would take.
    settle(0.01)
    set_with(control)
    classic_set(raw, pairs, values.next())
    settle(SETTLE)
    taken = take_turns(
        {
            "control": lambda: set_with(control),
            "first": first_set,
            "put and get": lambda: (raw.put(list(pairs), [values.next()] * count), raw.get(list(pairs))),
            "classic": lambda: classic_set(raw, pairs, values.next()),
        },
        rounds=2 if board.short else 21,
        warm_up=0,
        # Readbacks that still follow, and subscriptions that are being closed, are not to fall in the time of the next.
        after={"put and get": lambda: time.sleep(SETTLE + 0.2), "first": lambda: time.sleep(0.1)},
    )
    least = {name: series.least * 1e3 for name, series in taken.items()}
    # What was put is read back: one get of the batch, when all have arrived.
    floor = taken["put and get"].plus(SETTLE)
    raw_ms = f"{taken['put and get'].median * 1e3:.1f} ms"
    for way, what, against, theirs, target, more in (
        ("control", "", f"settling + p4p put and get of the batch ({raw_ms})", floor, TARGET, least),
        ("control", "", "settling alone", Series((SETTLE,) * len(floor.seconds)), TARGETS_ALONE[count], {}),
        ("control", "", f"a thread each, asking every {POLL:g} s", taken["classic"], None, {}),
        ("first", ", first set", "settling + p4p put and get of the batch", floor, None, {}),
    ):
        board.add(
            Figure(
                group=f"parallel set, settles in {SETTLE:g} s, within()",
                what=f"{count} pairs{what}",
                ours=taken[way].median * 1e3,
                unit="ms",
                against=against,
                theirs=theirs.median * 1e3,
                ratio=taken[way].over(theirs),
                target=target,
                samples=len(floor.seconds),
                more=dict(more),
            )
        )


@pytest.mark.parametrize("count", [1, 100])
def test_set_without_validators(count: int, board: Board, soft_ioc: SoftIoc, raw: Context, backend: Backend) -> None:
    """A look before, the puts, and one look after: what p4p's own three batches cost."""
    values = Values()
    control = Control(backend, Settings(parallel=True, timeout=10.0))
    pvs = [soft_ioc.pv(f"SP:{i:03d}") for i in range(count)]
    taken = take_turns(
        {
            "control": lambda: control.set(dict.fromkeys(pvs, values.next())),
            "raw": lambda: (raw.get(pvs), raw.put(pvs, [values.next()] * count), raw.get(pvs)),
        },
        rounds=5 if board.short else 51,
        warm_up=2,
    )
    board.add(
        Figure(
            group="set without validators",
            what=f"{count} PV{'s' if count > 1 else ''}",
            ours=taken["control"].median * 1e3,
            unit="ms",
            against="p4p get, put, get of the batch",
            theirs=taken["raw"].median * 1e3,
            ratio=taken["control"].over(taken["raw"]),
            target=TARGET_READ_BACK,
            samples=len(taken["control"].seconds),
            more={name: series.least * 1e3 for name, series in taken.items()},
        )
    )


@pytest.mark.parametrize("count", [1, 100])
def test_update_to_return(
    count: int,
    board: Board,
    soft_ioc: SoftIoc,
    raw: Context,
    backend: Backend,
    settle: Callable[[float], object],
) -> None:
    """From the last readback's update, by the time stamp that its record gives it, to the return of the set.

    The IOC is on this host: both times come from one clock.
    """
    settle(0.05)
    values = Values()
    control = Control(backend, Settings(parallel=True, timeout=10.0))
    pairs = {soft_ioc.pv(f"SP:{i:03d}"): soft_ioc.pv(f"RB:{i:03d}") for i in range(count)}
    validators = {sp: within(rb, tolerance=TOLERANCE) for sp, rb in pairs.items()}
    late = []
    for number in range(-2, 10 if board.short else 100):
        control.set(dict.fromkeys(pairs, values.next()), validators)
        returned = time.time()
        updated = max(_time_of(reading) for reading in raw.get(list(pairs.values())))
        if number >= 0:
            late.append((returned - updated) * 1e3)
    late.sort()
    board.add(
        Figure(
            group="readback update to return of the set",
            what=f"{count} pair{'s, from the last update' if count > 1 else ''}",
            ours=statistics.median(late),
            unit="ms",
            target=TARGET_UPDATE_TO_RETURN_MS,
            samples=len(late),
            more={"95th_percentile": late[int(0.95 * len(late))], "most": late[-1], "least": late[0]},
        )
    )


def _time_of(reading: Any) -> float:
    stamp = reading.raw.timeStamp
    return float(stamp.secondsPastEpoch + stamp.nanoseconds * 1e-9)
