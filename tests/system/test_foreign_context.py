"""A user's own context whose calls return their errors (p4p's ``throw=False``): what failed never counts as done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from badger_k2eg.backends.foreign_context import ContextBackend
from badger_k2eg.control import Control
from badger_k2eg.core.model import Outcome
from badger_k2eg.core.settings import Settings
from badger_k2eg.errors import (
    InvalidReading,
    PutRefused,
    PutUnknown,
    ReadError,
    ReadTimeout,
    SetpointBlocked,
    ValidationFailed,
    ValidatorCrashed,
)

if TYPE_CHECKING:
    from badger_k2eg.testing.soft_ioc import SoftIoc
    from tests.rig.fault_server import FaultServer

pytest.importorskip("softioc", reason="pip install badger-k2eg[test]")
pytest.importorskip("p4p")


class Quiet:
    """A facility's wrapper of p4p's context: nothing is ever raised."""

    def __init__(self, *, lists: bool) -> None:
        from p4p.client.thread import Context

        self.context = Context("pva", useenv=True)
        self.lists = lists

    def get(self, name: Any, timeout: float | None = None, throw: bool = False) -> Any:
        return self.context.get(name, timeout=timeout, throw=False)

    def put(self, name: str, value: Any, timeout: float | None = None) -> Any:
        if self.lists:
            return self.context.put([name], [value], timeout=timeout, throw=False)
        return self.context.put(name, value, timeout=timeout, throw=False)


@pytest.fixture(params=[False, True], ids=["single", "list"])
def control(request: pytest.FixtureRequest, soft_ioc: SoftIoc, fault_server: FaultServer) -> Iterator[Control]:
    quiet = Quiet(lists=request.param)
    made = Control(ContextBackend(quiet), Settings(timeout=1.5, retry_delay=0.05))
    yield made
    made.close()
    quiet.context.close()


def test_a_returned_refusal_is_refused(control: Control, fault_server: FaultServer) -> None:
    pv = fault_server.pv("REFUSE")
    with pytest.raises(PutRefused, match="rejected by the server") as caught:
        control.set({pv: 3.0})
    assert caught.value.report[pv].outcome is Outcome.REFUSED


def test_a_returned_timeout_is_unknown(control: Control, fault_server: FaultServer) -> None:
    pv = fault_server.pv("LOST")
    with pytest.raises((PutUnknown, TimeoutError)) as caught:
        Control(control.backend, Settings(timeout=0.5, put_attempts=1)).set({pv: 3.0})
    assert caught.value.report[pv].outcome is Outcome.UNKNOWN


def test_what_is_done_is_done(control: Control, soft_ioc: SoftIoc) -> None:
    pv = soft_ioc.pv("FREE")
    assert control.set({pv: 2.0})[pv].outcome is Outcome.APPLIED
    assert control.get([pv]) == {pv: 2.0}
    control.set({pv: 1.0})


def test_a_returned_error_is_no_reading(control: Control, soft_ioc: SoftIoc) -> None:
    here, gone = soft_ioc.pv("FREE"), soft_ioc.pv("NOBODY")
    for names in ([gone], [here, gone]):
        with pytest.raises(ReadTimeout) as caught:
            control.get(names)
        assert list(caught.value.errors) == [gone]
    with pytest.raises(SetpointBlocked, match=gone):
        control.set({here: 5.0, gone: 5.0})
    assert control.get([here]) == {here: 1.0}


def test_what_a_validator_gets(control: Control, soft_ioc: SoftIoc, fault_server: FaultServer) -> None:
    pv, gone, refusing = soft_ioc.pv("FREE"), soft_ioc.pv("NOBODY"), fault_server.pv("REFUSE")

    def reads(set_pv: str, set_value: Any, context: Any, timeout: float, throw: bool = True) -> Any:
        return context.get(gone, timeout=0.3, throw=throw)

    def reads_quietly(**call: Any) -> Any:
        return reads(**call, throw=False)

    def puts_quietly(set_pv: str, set_value: Any, context: Any, timeout: float) -> Any:
        return context.put(refusing, 1.0, throw=False)

    # An error that a validator hands on, raised or returned, is not an arrival.
    for validator, kind in (
        (reads, ValidationFailed),
        (reads_quietly, ValidationFailed),
        (puts_quietly, ValidatorCrashed),
    ):
        with pytest.raises(kind, match=f"{gone}|{refusing}") as caught:
            control.set({pv: 1.0}, {pv: validator})
        assert caught.value.report[pv].arrived is None


@pytest.mark.parametrize(
    "error", [TimeoutError("A"), PermissionError("no"), RuntimeError("what"), [None, ValueError("x")]]
)
def test_any_context(error: Any) -> None:
    class Context:
        def get(self, name: str, timeout: float | None = None, throw: bool = True) -> Any:
            return 1.0 if name == "A" else error

        def put(self, name: str, value: Any, timeout: float | None = None) -> Any:
            return error

    control = Control(ContextBackend(Context()), Settings(put_attempts=1, timeout=0.3))
    with pytest.raises((PutUnknown, PutRefused)) as caught:
        control.set({"A": 2.0})
    refused = isinstance(error, PermissionError)
    assert caught.value.report["A"].outcome is (Outcome.REFUSED if refused else Outcome.UNKNOWN)
    with pytest.raises((ReadError, InvalidReading), match="B"):
        control.get(["B"])
