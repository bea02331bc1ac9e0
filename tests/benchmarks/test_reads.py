"""Reading many PVs: against p4p itself, against a context for each call, and what dead PVs cost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from badger_k2eg.control import Control
from badger_k2eg.core.settings import Settings
from badger_k2eg.errors import ReadError

from .board import Board, Figure
from .rounds import take_turns

if TYPE_CHECKING:
    from p4p.client.thread import Context

    from badger_k2eg.core.backend import Backend
    from badger_k2eg.testing.soft_ioc import SoftIoc

TARGET = 1.15
TIMEOUT = 30.0


@pytest.mark.parametrize("count", [10, 100, 1000])
def test_get(count: int, board: Board, soft_ioc: SoftIoc, raw: Context, backend: Backend) -> None:
    control = Control(backend, Settings(timeout=TIMEOUT))
    names = [soft_ioc.pv(f"BIG:{i:04d}") for i in range(count)]
    expected = dict(zip(names, map(float, range(count)), strict=True))
    assert control.get(names) == expected
    assert dict(zip(names, raw.get(names, timeout=TIMEOUT), strict=True)) == expected

    def fresh_context() -> None:
        from p4p.client.thread import Context

        with Context("pva") as context:
            context.get(names, timeout=TIMEOUT)

    ours = {"control": lambda: control.get(names), "raw": lambda: raw.get(names, timeout=TIMEOUT)}
    # Rounds of ten reads are short, and their times scatter the more.
    rounds = {10: 31, 100: 21, 1000: 5} if board.short else {10: 201, 100: 101, 1000: 41}
    kept = take_turns(ours, rounds=rounds[count], warm_up=2)
    # With the slow way in turns of its own, the two above run as fast as they do in a session: warm.
    turns = take_turns({**ours, "fresh": fresh_context}, rounds=2 if board.short else 15)
    board.add(
        Figure(
            group="get",
            what=f"{count} PVs",
            ours=kept["control"].median * 1e3,
            unit="ms",
            against="p4p Context.get of the batch",
            theirs=kept["raw"].median * 1e3,
            ratio=kept["control"].over(kept["raw"]),
            target=TARGET,
            samples=len(kept["raw"].seconds),
            more={"least": kept["control"].least * 1e3, "least_raw": kept["raw"].least * 1e3},
        )
    )
    board.add(
        Figure(
            group="get",
            what=f"{count} PVs",
            ours=turns["control"].median * 1e3,
            unit="ms",
            against="the same, a new Context for each call",
            theirs=turns["fresh"].median * 1e3,
            ratio=turns["control"].over(turns["fresh"]),
            samples=len(turns["fresh"].seconds),
        )
    )


def test_dead_pvs(board: Board, soft_ioc: SoftIoc, backend: Backend) -> None:
    """A hundred PVs with one dead or with fifty dead cost one timeout, and no more."""
    timeout = 0.5 if board.short else 1.0
    control = Control(backend, Settings(timeout=timeout))
    alive = [soft_ioc.pv(f"BIG:{i:04d}") for i in range(100)]
    control.get(alive)
    rounds = 2 if board.short else 7

    def seconds_over(dead: int, number: int) -> float:
        # New names each time: what was learnt about a dead PV before is not to help.
        names = [soft_ioc.pv(f"DEAD:{number}:{i}") for i in range(dead)] + alive[dead:]
        began = time.perf_counter()
        with pytest.raises(ReadError) as caught:
            control.get(names)
        seconds = time.perf_counter() - began
        assert len(caught.value.partial) == 100 - dead
        return seconds

    taken: dict[int, list[float]] = {1: [], 50: []}
    for number in range(rounds):
        for dead, series in taken.items():
            series.append(seconds_over(dead, 100 * dead + number))
    for dead, series in taken.items():
        series.sort()
        median = series[len(series) // 2]
        board.add(
            Figure(
                group="get of 100 PVs, some dead",
                what=f"{dead} dead",
                ours=median * 1e3,
                unit="ms",
                against=f"the timeout ({(median - timeout) * 1e3:.1f} ms over it)",
                theirs=timeout * 1e3,
                ratio=median / timeout,
                target=1.05,
                samples=rounds,
                more={"worst_ms_over": (series[-1] - timeout) * 1e3},
            )
        )
