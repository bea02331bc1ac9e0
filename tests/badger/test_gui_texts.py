"""What the window's dialogs say of errors that Badger and Xopt have wrapped."""

from __future__ import annotations

import pytest

from badger_k2eg.badger_app.gui import cause

WRAPPED = """XoptError: Xopt evaluator caught exception(s):

Evaluation index 0:
Traceback (most recent call last):
  File "client.py", line 3, in get
    raise KeyError("X")
KeyError: 'X'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "utils.py", line 149, in safe_call
    result = func(*args, **kwargs)
             ^^^^^^^^^^^^^^^^^^^^^
  File "environment.py", line 193, in set_variables
    machine.mover.move(variable_inputs, knobs)
badger_k2eg.errors.PutRefused: A:SP = 1.0: APPLIED
B:SP = 2.0: REFUSED, out of range

"""


def test_the_cause_is_what_the_evaluation_raised() -> None:
    assert cause(WRAPPED) == "PutRefused: A:SP = 1.0: APPLIED\nB:SP = 2.0: REFUSED, out of range"


@pytest.mark.parametrize("told", ["", "ReadTimeout: A:RB: no answer", "Traceback (most recent call last):\n  File x\n"])
def test_what_is_not_wrapped_stays(told: str) -> None:
    assert cause(told) == told


def test_an_error_without_words_keeps_its_name() -> None:
    assert cause("X\nTraceback (most recent call last):\n  File x\nZeroDivisionError\n") == "ZeroDivisionError"
