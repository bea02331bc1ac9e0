"""What every benchmark shares: one IOC for all of them, the board of figures, and the marker ``bench``.

Nothing here runs unless the command line asks for it (`make bench`, `pytest -m bench`). In the environment:

``BENCH=short``    less than two minutes, for CI: reports, and never fails on a figure
``FULL=1``         more of what takes long: ten million lines of journal, five minutes of updates through a gateway
``BENCH_STRICT=1`` a missed target fails its benchmark; otherwise it is printed as MISSED and nothing more

Those of K2EG are on Apache Kafka; without Java and Maven on the embedded broker, and the table says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .board import Board

if TYPE_CHECKING:
    from p4p.client.thread import Context

    from badger_k2eg.core.backend import Backend
    from badger_k2eg.testing.broker import Broker
    from badger_k2eg.testing.soft_ioc import SoftIoc

    from .updates import UpdateServer

_HERE = Path(__file__).parent
_BOARD = pytest.StashKey[Board]()

RECORDS = 1000


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_BOARD] = Board(
        short=os.environ.get("BENCH", "") == "short", strict=os.environ.get("BENCH_STRICT", "") not in ("", "0")
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the benchmarks; leave them out unless asked for.

    The project's addopts say ``-m 'not bench'``, but another ``-m`` (say ``-m 'not slow'``) takes the place of that
    one, and a benchmark in an ordinary run would be a surprise of some minutes.
    """
    ours = [item for item in items if _HERE in item.path.parents]
    for item in ours:
        item.add_marker("bench")
        # One of a few minutes is not stuck; the project's 60 s are for tests. A --timeout comes second to this.
        item.add_marker(pytest.mark.timeout(900))
    if not re.search(r"\bbench\b", config.getoption("markexpr") or ""):
        items[:] = [item for item in items if item not in ours]
        config.hook.pytest_deselected(items=ours)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(config: pytest.Config) -> None:
    board = config.stash[_BOARD]
    if not board.figures:
        return
    from rich.console import Console

    # A log of CI has no width of its own, and a table folded to 80 columns cannot be read.
    console = Console() if os.isatty(1) else Console(width=150)
    board.show(console)
    console.print(f"all of it: {board.save()}")


@pytest.fixture
def board(request: pytest.FixtureRequest) -> Iterator[Board]:
    """Give the board of figures; where targets are strict, one that this benchmark missed fails it."""
    board = request.config.stash[_BOARD]
    before = len(board.figures)
    yield board
    missed = [figure for figure in board.figures[before:] if figure.missed]
    if missed and board.strict:
        pytest.fail("; ".join(f"{f.what}: {f.judged:.4g}, target {f.target:g}" for f in missed), pytrace=False)


@pytest.fixture(scope="session")
def soft_ioc() -> Iterator[SoftIoc]:
    """Give the one IOC of all benchmarks, and nothing else for clients to search in."""
    pytest.importorskip("softioc", reason="pip install badger-k2eg[test]")
    from tests.rig.ioc import RigIoc

    with pytest.MonkeyPatch.context() as patch, RigIoc(extra_records=RECORDS) as ioc:
        for name, value in ioc.client_environment.items():
            patch.setenv(name, value)
        yield ioc


@pytest.fixture(scope="module")
def raw(soft_ioc: SoftIoc) -> Iterator[Context]:
    """Give p4p's own thread Context, as its manual makes one, kept open: the plain library we compare with."""
    from p4p.client.thread import Context

    with Context("pva") as context:
        yield context


@pytest.fixture(scope="module")
def backend(soft_ioc: SoftIoc) -> Iterator[Backend]:
    """Give our way to the IOC, as every interface has it."""
    from badger_k2eg.control import connect

    backend = connect("pva")
    yield backend
    backend.close()


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """Give Apache Kafka, or the broker that runs at `--k2eg-broker=HOST:PORT`; without Java the embedded one."""
    from badger_k2eg.testing.broker import start_broker
    from badger_k2eg.testing.soft_ioc import MissingTestPart

    asked = request.config.getoption("--k2eg-broker")
    try:
        running = start_broker(asked if ":" in asked else "kafka")
    except MissingTestPart as error:
        request.config.stash[_BOARD].notes.append(f"K2EG was measured on the embedded broker, for {error}")
        running = start_broker("embedded")
    with running:
        yield running


@pytest.fixture(scope="session")
def update_server() -> Iterator[UpdateServer]:
    """Give the server whose PVs change as often as asked for."""
    from .updates import UpdateServer

    with UpdateServer() as server:
        yield server
