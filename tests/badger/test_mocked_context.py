"""Row B8: a mocked context is enough to test an environment, and the shipped example of that passes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import pytest

from environments.pv_template import Environment
from interfaces.epics_pva import Interface

CLONE = Path(__file__).resolve().parents[2]


def mock_context(**values: float) -> MagicMock:
    """A mock whose ``get`` gives floats, as p4p's thread Context does."""
    context = MagicMock()

    def get(name: Any, timeout: float | None = None, throw: bool = True) -> Any:
        return values[name] if isinstance(name, str) else [values[each] for each in name]

    context.get.side_effect = get
    context.put.side_effect = lambda name, value, timeout=None: values.__setitem__(name, value)
    return context


@pytest.fixture(params=["given", "patched"])
def with_context(request: pytest.FixtureRequest) -> Any:
    """Gives a function that makes an interface on a context, by either way."""
    patches: list[Any] = []

    def make(context: MagicMock, **options: Any) -> Interface:
        if request.param == "given":
            return Interface(context=context, **options)
        patches.append(patch("badger_k2eg.backends.pva.Context", return_value=context))
        patches[-1].start()
        return Interface(**options)

    yield make
    for each in reversed(patches):
        each.stop()


def test_floats_from_get_pass_without_metadata(with_context: Any) -> None:
    interface = with_context(mock_context(A=1.0, B=2.0))
    assert interface.get_values(["A", "B"]) == {"A": 1.0, "B": 2.0}
    assert interface.get_value("A") == 1.0


def test_a_put_reaches_the_context(with_context: Any) -> None:
    context = mock_context(A=1.0, B=2.0)
    with_context(context).set_values({"A": 3.0, "B": 4.0})
    assert [call.args for call in context.put.call_args_list] == [("A", 3.0), ("B", 4.0)]


def test_the_calls_own_time_is_told(with_context: Any) -> None:
    """Row F12: whatever words the context itself has for it."""
    context = mock_context(A=1.0)

    def put(name: str, value: Any, timeout: float) -> None:
        time.sleep(timeout)
        raise TimeoutError

    context.put.side_effect = put
    with pytest.raises(TimeoutError, match=r"the call's 0\.3 s are over"):
        with_context(context, timeout=30.0).set_value("A", 3.0, timeout=0.3)
    assert context.put.call_count == 1


def test_a_put_that_times_out_is_tried_twice_a_second_apart(with_context: Any) -> None:
    context = mock_context(A=1.0)
    context.put.side_effect = TimeoutError()
    with patch("badger_k2eg.core.futures.sleep") as sleep, pytest.raises(TimeoutError, match="A = 2.0"):
        with_context(context).set_value("A", 2.0)
    assert context.put.call_count == 2
    assert [call.args[0] for call in sleep.call_args_list] == [1.0] * len(sleep.call_args_list)
    assert sleep.called


@pytest.mark.parametrize("answer", [MagicMock(), None, [None]])
def test_what_a_mock_returns_of_a_put_is_done_unless_it_is_an_error(answer: Any, with_context: Any) -> None:
    context = mock_context(A=1.0)
    context.put.side_effect = None
    context.put.return_value = answer
    interface = with_context(context)
    assert interface.set_values({"A": 1.0})["A"].outcome == "applied"
    context.put.return_value = PermissionError("not today")
    with pytest.raises(PermissionError, match="not today"):
        interface.set_values({"A": 1.0})


def test_read_only_never_calls_put(with_context: Any) -> None:
    context = mock_context(A=1.0)
    with_context(context, read_only=True).set_values({"A": 2.0})
    context.put.assert_not_called()


def test_a_bare_mock_does_for_a_set() -> None:
    context = MagicMock()
    Interface(context=context, read_only=True).set_values({"A": 2.0})
    context.put.assert_not_called()
    with patch("badger_k2eg.core.futures.sleep"):
        context.put.side_effect = TimeoutError()
        with pytest.raises(TimeoutError):
            Interface(context=context).set_values({"A": 2.0})


def put_without_limits(with_context: Any) -> list[Any]:
    context = mock_context(A=1.0, B=2.0)
    with_context(context).set_values({"A": 3.0, "B": 4.0})
    return list(context.get.call_args_list)


def test_a_mock_is_not_asked_for_the_names_of_records(with_context: Any) -> None:
    context = mock_context(A=1.0, B=2.0)
    with_context(context, limits={"A": (-5.0, 5.0)}, allow=["A", "B"]).set_values({"A": 3.0, "B": 4.0})
    asked = [call.args[0] for call in context.get.call_args_list]
    assert "NAME" not in str(asked) and len(asked) == len(put_without_limits(with_context))
    plain, limited = (MagicMock(**{"get.return_value": 1.0}) for _ in range(2))
    with_context(plain).set_values({"A": 3.0})
    with_context(limited, limits={"A": (-5.0, 5.0)}).set_values({"A": 3.0})
    assert limited.get.call_count == plain.get.call_count


def test_an_environment_on_a_mock() -> None:
    context = mock_context(**{"FIRST:COR:1:SP": 0.5, "FIRST:COR:2:SP": 0.5, "FIRST:BEAM:SIZE": 3.0})
    environment = Environment(interface=Interface(context=context))
    environment.set_variables({"x0": 1.0, "x1": -1.0})
    assert environment.get_variables(["x0", "x1"]) == {"x0": 1.0, "x1": -1.0}
    assert environment.get_observables(["f"]) == {"f": 3.0}


@pytest.mark.usefixtures("epics_environment")  # which a real client takes as it is at its first use
def test_the_real_context_is_back_after_the_patch() -> None:
    with patch("badger_k2eg.backends.pva.Context", return_value=mock_context(A=1.0)):
        interface = Interface()
        assert interface.get_value("A") == 1.0
    with pytest.raises(TimeoutError):
        Interface().get_value("A", timeout=0.2)


def test_the_shipped_example_passes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "examples/testing_an_environment"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CLONE, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 passed" in done.stdout
