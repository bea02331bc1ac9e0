"""How often a move asks the machine: once before it and once after it, however many knobs; no proof is left out for it.

Each letter is one batch to the backend: R a read, W a write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from badger_k2eg.control import Control
from badger_k2eg.control.validators import within
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import Outcome
from badger_k2eg.tuning import Knob, Mover

from .machine import PATIENCE, Machine

THREE = ("FREE", "PLAIN:L", "PLAIN:F")

Counted = Callable[[Control, Callable[[], Any]], str]


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Gives a function: the batches that the backend of a control does while something is done, in their order."""

    def counted(control: Control, act: Callable[[], Any]) -> str:
        done: list[str] = []
        with monkeypatch.context() as patch:
            for name, letter in (("get_many", "R"), ("snapshot", "R"), ("put_many", "W")):
                batch = getattr(control.backend, name)

                def count(*given: Any, batch: Any = batch, letter: str = letter) -> Any:
                    done.append(letter)
                    return batch(*given)

                patch.setattr(control.backend, name, count)
            act()
        return "".join(done)

    return counted


def known(machine: Machine, names: tuple[str, ...], **options: Any) -> tuple[Control, list[str]]:
    """A control that has set these before: names and sizes are known."""
    pvs = machine.pvs(*names)
    control = machine.control(timeout=PATIENCE, **options)
    control.set(dict.fromkeys(pvs, 1.0))
    return control, pvs


def test_a_move_of_any_number_reads_once_before_and_once_after(machine: Machine, trips: Counted) -> None:
    control, pvs = known(machine, THREE, parallel=True)
    for count in (1, 2, 3):
        values = dict.fromkeys(pvs[:count], 1.0 + count)
        assert trips(control, lambda values=values: control.set(values)) == "RWR"


def test_one_after_the_other_each_is_looked_at_before_the_next_is_sent(machine: Machine, trips: Counted) -> None:
    """The last look is at all of them: what came later may have written over what came before."""
    control, pvs = known(machine, THREE)
    assert trips(control, lambda: control.set(dict.fromkeys(pvs, 3.0))) == "RWRWRWR"


def test_a_validated_move_is_looked_at_when_it_has_arrived(machine: Machine, trips: Counted) -> None:
    """The look while it moves is what is known should it never arrive; the last one goes with that at the readback."""
    setpoints, readbacks = ("SP:000", "SP:001"), machine.pvs("RB:000", "RB:001")
    control, pvs = known(machine, setpoints, parallel=True)
    validators = {pv: within(rb, tolerance=0.1) for pv, rb in zip(pvs, readbacks, strict=True)}
    control.set(dict.fromkeys(pvs, 2.0), validators)
    done = trips(control, lambda: control.set(dict.fromkeys(pvs, 3.0), validators))
    # Over K2EG a readback is read before it is believed: again where it was late to show what it had come to.
    assert done.startswith("RWRR") and (done == "RWRR" or machine.name == "k2eg"), done
    assert control.last_report is not None
    assert {result.outcome for result in control.last_report.results} == {Outcome.APPLIED}


def test_a_mover_reads_no_more_than_its_set(machine: Machine, trips: Counted) -> None:
    control, pvs = known(machine, THREE[:2], parallel=True)
    knobs = {pv: Knob(pv, settle_per_unit=0.001) for pv in pvs}
    mover = Mover(control)
    assert trips(control, lambda: mover.move(dict.fromkeys(pvs, 2.0), knobs, Deadline(PATIENCE))) == "RWR"


def test_an_approach_reads_once_more_for_its_way(machine: Machine, trips: Counted) -> None:
    control, pvs = known(machine, ("PLAIN:L", "FREE"), parallel=True)
    knobs = {pv: Knob(pv, approach="below", bounds=(-10.0, 10.0), dwell=0.0) for pv in pvs}
    mover = Mover(control)
    there = dict.fromkeys(pvs, 2.0)
    assert trips(control, lambda: mover.move(there, knobs, Deadline(PATIENCE))) == "RRWR", "from the right side"
    back = dict.fromkeys(pvs, 0.5)
    assert trips(control, lambda: mover.move(back, knobs, Deadline(PATIENCE))) == "RRWRRWR", "past it, and back"


@pytest.mark.needs("aliases")
def test_what_was_read_to_learn_names_is_not_read_again(machine: Machine, trips: Counted) -> None:
    pvs = machine.pvs(*THREE)
    control = machine.control(timeout=PATIENCE, parallel=True)
    # The PVs, the names of their records, and after the put the PVs again.
    done = trips(control, lambda: control.set(dict.fromkeys(pvs, 1.5)))
    assert done in ("RRWR", "RRRWR"), "where the machine is so slow that it counts as old, it is read again"
