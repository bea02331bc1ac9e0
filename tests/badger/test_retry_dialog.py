"""Row B6: a failed set or read reaches Badger's Retry/Abort dialog, and Retry puts nothing that is there already."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from badger_k2eg.testing.soft_ioc import SoftIoc
from environments.pv_template import Environment
from interfaces.epics_pva import Interface
from tests.rig.fault_server import FaultServer

pytestmark = pytest.mark.usefixtures("badger_config", "quiet")

POINT = {"x0": 1.0, "x1": 1.5}
Retry = Callable[[str], dict[str, Any]]


class Window:
    """The window's side of an evaluation: it shows the error, and answers by a button."""

    def __init__(self, routine: Any) -> None:
        self.errors: multiprocessing.Queue[dict[str, Any]] = multiprocessing.Queue()
        self.actions: multiprocessing.Queue[dict[str, Any]] = multiprocessing.Queue()
        self.outcome: Any = None
        self._routine = routine
        self._thread = threading.Thread(target=self._evaluate)

    def _evaluate(self) -> None:
        from badger.core_subprocess import evaluate_measurement_with_retry

        stop = multiprocessing.Event()
        try:
            self.outcome = evaluate_measurement_with_retry(self._routine, POINT, self.errors, stop, self.actions)
        except Exception as error:
            self.outcome = error

    def evaluate(self, buttons: list[str], between: Callable[[], object] = lambda: None) -> list[dict[str, Any]]:
        """Press these buttons, one for each dialog that comes up; gives the dialogs."""
        self._thread.start()
        dialogs = []
        for button in buttons:
            dialogs.append(self.errors.get(timeout=20))
            between()
            self.actions.put({"type": "measurement_action", "action": button})
        self._thread.join(20)
        assert not self._thread.is_alive()
        assert self.errors.empty()
        return dialogs

    def close(self) -> None:
        for queue in (self.errors, self.actions):
            queue.close()
            queue.join_thread()


@pytest.fixture
def window_for() -> Iterator[Callable[[Environment], Window]]:
    from badger_k2eg.badger_app.session import make_routine

    windows: list[Window] = []

    def make(environment: Environment) -> Window:
        routine = make_routine(environment, {"f": "MINIMIZE"}, generator="random", initial_points=[])
        windows.append(Window(routine))
        return windows[-1]

    yield make
    for window in windows:
        window.close()


def on_faults(faults: FaultServer, soft_ioc: SoftIoc, second: str, **options: Any) -> Environment:
    return Environment(
        interface=Interface(timeout=1.0, put_attempts=1, **options),
        x0=faults.pv("CLAMP"),
        x1=faults.pv(second),
        f=soft_ioc.pv("STATIC"),
    )


def puts(faults: FaultServer, *names: str) -> list[int]:
    counters = [faults.pv(f"PUTS:{name}") for name in names]
    return list(Interface().get_values(counters).values())


@pytest.mark.parametrize("parallel", [False, True])
def test_retry_sends_the_vector_again_but_not_what_is_there(
    faults: FaultServer, soft_ioc: SoftIoc, window_for: Callable[[Environment], Window], parallel: bool
) -> None:
    environment = on_faults(faults, soft_ioc, "LOSTONCE", parallel=parallel)
    window = window_for(environment)
    (dialog,) = window.evaluate(["retry"], between=lambda: _expect(puts(faults, "CLAMP", "LOSTONCE"), [1, 1]))
    assert dialog["type"] == "measurement_error"
    assert faults.pv("LOSTONCE") in dialog["title"]
    assert "PutUnknown" in dialog["traceback"]
    row = window.outcome.iloc[0]
    assert (row["x0"], row["x1"], row["f"]) == (1.0, 1.5, 7.0)
    assert puts(faults, "CLAMP", "LOSTONCE") == [1, 2]
    assert "not put again" in environment.interface.last_report[faults.pv("CLAMP")].message
    # A next evaluation of the same point is no retry.
    environment.set_variables(POINT)
    assert puts(faults, "CLAMP", "LOSTONCE") == [2, 3]


def _expect(found: Any, wanted: Any) -> None:
    assert found == wanted


def test_what_somebody_moved_meanwhile_is_put_again(
    faults: FaultServer, soft_ioc: SoftIoc, window_for: Callable[[Environment], Window]
) -> None:
    window = window_for(on_faults(faults, soft_ioc, "LOSTONCE"))
    window.evaluate(["retry"], between=lambda: Interface().set_value(faults.pv("CLAMP"), 3.0))
    assert puts(faults, "CLAMP", "LOSTONCE") == [3, 2]
    assert Interface().get_value(faults.pv("CLAMP")) == 1.0


def test_abort_ends_the_run(
    faults: FaultServer, soft_ioc: SoftIoc, window_for: Callable[[Environment], Window]
) -> None:
    from badger.errors import BadgerRunTerminated

    window = window_for(on_faults(faults, soft_ioc, "REFUSE"))
    (dialog,) = window.evaluate(["abort"])
    assert "rejected by the server: out of range" in dialog["title"]
    assert isinstance(window.outcome, BadgerRunTerminated)
    assert puts(faults, "REFUSE") == [1]


def test_a_failed_read_comes_to_the_dialog_too(
    soft_ioc: SoftIoc, window_for: Callable[[Environment], Window], restored: Callable[[str, Any], str]
) -> None:
    environment = Environment(
        interface=Interface(timeout=1.0), x0=restored("DBL", 1.5), x1=restored("FREE", 1.0), f=soft_ioc.pv("UDF")
    )
    window = window_for(environment)

    def repair() -> None:
        environment.f = soft_ioc.pv("STATIC")

    (dialog,) = window.evaluate(["retry"], between=repair)
    assert f"{soft_ioc.pv('UDF')}: the record was never processed" in dialog["title"]
    assert window.outcome.iloc[0]["f"] == 7.0


def test_an_evaluation_raises_and_is_not_recorded(faults: FaultServer, soft_ioc: SoftIoc, tmp_path: Path) -> None:
    from xopt.errors import XoptError

    from badger_k2eg.badger_app.session import make_routine

    environment = on_faults(faults, soft_ioc, "REFUSE")
    routine = make_routine(environment, {"f": "MINIMIZE"}, generator="random", initial_points=[])
    with pytest.raises(XoptError, match="PutRefused"):
        routine.evaluate_data(POINT)
    assert routine.data is None
