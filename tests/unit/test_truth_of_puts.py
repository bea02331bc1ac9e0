"""Nothing is claimed of a put that is not known: structures, small integers, unknown types, a context that breaks.

And of the way back: a value that never was one is not put back, nor what somebody else moves while a question is asked.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from badger_k2eg import cli, run
from badger_k2eg.backends.foreign_context import ContextBackend
from badger_k2eg.backends.in_flight import wait_for_puts
from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control import Control
from badger_k2eg.control.put_rules import Refusal, check_setpoint, path_to
from badger_k2eg.core import clock
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import Fields, Kind, Limits, Outcome, PvAddress, PvType, Reading, Severity
from badger_k2eg.core.settings import Settings, parse, resolve
from badger_k2eg.errors import PutRefused, PutUnknown
from badger_k2eg.journal import Journal
from badger_k2eg.run.restore import Restore
from badger_k2eg.run.restore_plan import Fate, Step, is_at, never_a_value

STRUCTURE, TABLE, UNKNOWN = PvType(Kind.OTHER), PvType(Kind.TABLE), PvType(Kind.UNKNOWN)


def settings(**options: Any) -> Settings:
    return resolve([parse({"timeout": 0.3, "retry_delay": 0.01} | options, str)])


def control(backend: Any, **options: Any) -> Control:
    return Control(backend, settings(**options))


@pytest.fixture
def memory() -> Iterator[MemoryBackend]:
    machine = MemoryBackend({"A": 1.0, "B": 2.0})
    yield machine
    machine.close()


# -- after silence ----------------------------------------------------------------------------------------------------


def test_an_unanswered_put_to_a_structure_is_sent_once(memory: MemoryBackend) -> None:
    memory.add("GROUP", None, type=STRUCTURE)
    memory.fault("GROUP", "lost")
    with pytest.raises(PutUnknown) as caught:
        control(memory, put_attempts=3).set({"GROUP": Fields({"trigger": 1})})
    assert caught.value.report["GROUP"].outcome is Outcome.UNKNOWN
    assert len(memory.puts) == 1


def test_an_unanswered_put_to_a_table_that_is_untouched_is_sent_again(memory: MemoryBackend) -> None:
    memory.add("TAB", {"a": np.array([1.0, 2.0]), "b": ["x", "y"]})
    memory.fault("TAB", "lost", times=1)
    assert control(memory).set({"TAB": {"a": [3.0, 4.0]}}).ok
    assert (len(memory.puts), memory.value("TAB")["a"]) == (2, [3.0, 4.0])


# -- ramps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "start", "target", "step"),
    [
        ("u1", [10, 10], [5, 5], 2.0),
        ("u1", [0, 255], [255, 0], 1.0),
        ("i1", [-128, 0], [127, 0], 1.0),
        ("i2", [-30000], [30000], 20000.0),
        ("u8", [2**64 - 1], [2**64 - 9], 4096.0),
        ("f4", [0.0, 1.0], [1.0, -1.0], 0.3),
    ],
)
def test_a_ramp_of_an_array_stays_between_its_ends(dtype: str, start: Any, target: Any, step: float) -> None:
    kind = Kind.FLOAT if dtype == "f4" else Kind.INT
    own = PvType(kind, np.dtype(dtype).itemsize * 8, not dtype.startswith("u"), array=True)
    path = path_to(np.array(target, dtype), Reading(np.array(start, dtype), own), step)
    assert all(value.dtype == np.dtype(dtype) for value in path)
    way = np.array([start, *[value.tolist() for value in path]], dtype=object)
    assert way[-1].tolist() == np.array(target, dtype).tolist()
    steps = way[1:] - way[:-1]
    assert (abs(steps) <= step * (1 + 1e-6)).all()
    assert (steps * (way[-1] - way[0]) >= 0).all(), "never back"


def test_a_ramp_of_bytes_reaches_the_machine_as_it_was_meant(memory: MemoryBackend) -> None:
    memory.add("DAC", np.array([10, 200], "u1"))
    assert control(memory, ramp=True, max_step=2.0).set({"DAC": [5, 205]}).ok
    assert [value.tolist() for _, value in memory.puts] == [[8, 201], [6, 203], [5, 205]]


def test_a_ramp_of_an_unknown_type_is_not_cut_to_whole_numbers() -> None:
    before = Reading([0, 0], PvType(Kind.UNKNOWN, array=True))
    path = path_to([5, -5], before, 2.5)
    assert [np.asarray(value).tolist() for value in path] == [[2.5, -2.5], [5, -5]]


# -- limits and steps of a PV of unknown type -------------------------------------------------------------------------

HIDDEN = [Fields({"value": 1e9}), Fields({"value": "1e9", "x": 1}), "1e9", " 1e9 ", "0x3b9aca00", "inf", b"1e9"]
HIDDEN_IN_ARRAYS = [Fields({"value": [0.0, 1e9]}), ["0", "1e9"], [0.0, "1e9"], ["off", "1e9"], np.array(["0", "1e9"])]


@pytest.mark.parametrize("value", [*HIDDEN, *HIDDEN_IN_ARRAYS], ids=repr)
def test_a_number_in_fields_or_a_text_is_held_to_limits(value: Any) -> None:
    pv, own = PvAddress.parse("Q"), PvType(Kind.UNKNOWN, array=np.ndim(value) > 0)
    for before, options in (
        (Reading(0.0, own), {"limits": {"Q": (0, 10)}}),
        (Reading(0.0, own, limits=Limits(0.0, 10.0)), {}),
    ):
        with pytest.raises(Refusal, match="limits"):
            check_setpoint(pv, value, before, settings(**options))
    assert check_setpoint(pv, value, Reading(0.0, own), settings()) is value, "as it was asked, where nothing is set"


@pytest.mark.parametrize("value", HIDDEN, ids=repr)
def test_a_number_in_fields_or_a_text_is_held_to_its_step(value: Any) -> None:
    before = Reading(0.0, UNKNOWN)
    with pytest.raises(Refusal, match="max_step"):
        check_setpoint(PvAddress.parse("Q"), value, before, settings(max_step=1.0))
    # Nor does it go there in steps, as nobody knows how the server takes it.
    with pytest.raises(Refusal, match="max_step"):
        path_to(value, before, 1e8)


PASSING = [Fields({"value": 0.5}), "0.5", "0x0", "on", Fields({"trigger": 99.0}), Fields({"value": "on"})]


@pytest.mark.parametrize("value", PASSING, ids=repr)
def test_what_is_within_or_a_word_passes(value: Any) -> None:
    options = settings(limits={"Q": (0, 10)}, max_step={"Q": 1})
    assert check_setpoint(PvAddress.parse("Q"), value, Reading(0.0, UNKNOWN), options) is value


def test_digits_of_a_text_record_and_fields_of_a_structure_are_no_value_of_the_pv() -> None:
    pv, options = PvAddress.parse("Q"), settings(limits={"Q": (0, 10)}, max_step=1.0)
    assert check_setpoint(pv, "99", Reading("1", PvType(Kind.STRING)), options) == "99"
    assert check_setpoint(pv, Fields({"x": 99.0}), Reading(None, STRUCTURE), options) == {"x": 99.0}


# -- somebody else's context ------------------------------------------------------------------------------------------


class RemoteError(RuntimeError):
    """As p4p names the server's own no."""


class Facility:
    """A context of a facility's own, that breaks while it puts."""

    def __init__(self, error: BaseException, *, applies: bool) -> None:
        self.values = {"A": 1.0, "B": 2.0}
        self.puts: list[str] = []
        self.error, self.applies = error, applies

    def get(self, name: Any, timeout: float | None = None, throw: bool = True) -> Any:
        return self.values[name] if isinstance(name, str) else [self.values[each] for each in name]

    def put(self, name: str, value: Any, timeout: float | None = None) -> None:
        self.puts.append(name)
        if self.applies:
            self.values[name] = value
        raise self.error


A_NO = [RemoteError("not permitted"), type("Wrapped", (RemoteError,), {})("no"), PermissionError("not permitted")]
NO_NO = [ConnectionError("closed"), OSError("broken pipe"), RuntimeError("disconnected"), KeyError("status")]
NO_NO += [json.JSONDecodeError("no JSON in the answer", "", 0), TimeoutError("no answer")]


@pytest.mark.parametrize("error", [*A_NO, *NO_NO], ids=repr)
def test_an_error_of_a_context_is_a_no_only_where_it_says_so(error: Exception) -> None:
    pv = PvAddress.parse("A")
    answer = ContextBackend(Facility(error, applies=False)).put_many({pv: 5.0}, Deadline(1.0))[pv]
    assert answer.outcome is (Outcome.REFUSED if error in A_NO else Outcome.UNKNOWN)
    assert str(error) in answer.message


def test_a_put_that_was_done_before_the_connection_broke_is_applied() -> None:
    context = Facility(ConnectionError("the server closed the connection"), applies=True)
    report = control(ContextBackend(context)).set({"A": 5.0})
    assert (report["A"].outcome, context.puts, context.values["A"]) == (Outcome.APPLIED, ["A"], 5.0)


@pytest.mark.parametrize(("error", "raised"), [(ConnectionError("closed"), PutUnknown), (A_NO[0], PutRefused)])
def test_a_put_that_was_not_done_is_told_as_it_is_known(error: Exception, raised: type[Exception]) -> None:
    with pytest.raises(raised, match=str(error)):
        control(ContextBackend(Facility(error, applies=False))).set({"A": 5.0})


@pytest.mark.parametrize("cancelled", [False, True])
def test_no_put_of_a_context_goes_out_after_the_time(cancelled: bool) -> None:
    deadline = Deadline(60.0)

    class Slow(Facility):
        def put(self, name: str, value: Any, timeout: float | None = None) -> None:
            self.puts.append(name)
            if cancelled:
                deadline.cancel()
            else:
                deadline.expires = clock.monotonic()

    context = Slow(TimeoutError(), applies=False)
    first, second = PvAddress.parse("A"), PvAddress.parse("B")
    answers = ContextBackend(context).put_many({first: 5.0, second: 5.0}, deadline)
    assert [answers[pv].outcome for pv in (first, second)] == [Outcome.APPLIED, Outcome.NOT_SENT]
    assert context.puts == ["A"]
    assert ("cancelled" in answers[second].message) is cancelled


# -- before a fork ----------------------------------------------------------------------------------------------------


def test_calls_that_end_while_a_fork_begins_do_not_stop_it() -> None:
    live: set[Any] = set()

    class Call:
        deadline = Deadline(60.0)

        def __init__(self) -> None:
            self.finished = threading.Event()
            self.finished.set()

        @property
        def puts(self) -> bool:
            # What another thread does in between: a call ends, and the next one begins.
            live.discard(self)
            live.update(Call() for _ in range(50))
            return True

    live.update(Call() for _ in range(3))
    wait_for_puts(live)
    assert len(live) == 150


# -- the way back: what never was a value -----------------------------------------------------------------------------

UDF = {"severity": Severity.INVALID, "message": "UDF"}


def fates(steps: list[Step]) -> dict[str, Fate]:
    return {step.pv: step.fate for step in steps}


@pytest.mark.parametrize("policy", ["none", "minor", "invalid"])
def test_an_invalid_value_is_none_and_one_in_a_lesser_alarm_is_one(policy: str) -> None:
    def never(severity: Severity, message: str) -> bool:
        source = Reading(3.0, severity=severity, message=message)
        return never_a_value(source, settings(reject_severity=policy)) is not None

    assert never(Severity.INVALID, "UDF")
    assert never(Severity.INVALID, "LINK") is (policy != "none")
    # A setpoint in alarm holds what somebody asked of it, however strict one is with readings.
    assert not never(Severity.MAJOR, "HIHI")


@pytest.mark.parametrize("force", [False, True])
def test_a_record_that_was_never_processed_is_not_put_back_to_zero(
    force: bool, memory: MemoryBackend, journal: Journal
) -> None:
    memory.add("NEW", 0.0, **UDF)
    tied = run.Attachment().attach(control(memory))
    tied.set({"A": 5.0})
    tied.set({"NEW": 7.0})
    memory.post("NEW", 7.0, severity=Severity.NO_ALARM, message="")
    run.end()
    restore = Restore(control(memory), journal, "last", force=force)
    restore.run()
    assert fates(restore.steps) == {"A": Fate.RESTORED, "NEW": Fate.UNREADABLE}
    assert "never processed" in next(step.message for step in restore.steps if step.pv == "NEW")
    assert (memory.value("A"), memory.value("NEW")) == (1.0, 7.0)


def test_what_an_evaluation_has_set_is_a_value(memory: MemoryBackend, journal: Journal) -> None:
    memory.add("NEW", 0.0, **UDF)
    tied = run.Attachment().attach(control(memory))
    for point in ({"A": 5.0}, {"NEW": 7.0}, {"NEW": 8.0}):
        tied.set(point)
        tied.get(["A"])
    run.end()
    by_evaluation = {to: fates(Restore(control(memory), journal, "last", to=to).steps)["NEW"] for to in ("1", "2", "3")}
    assert by_evaluation == {"1": Fate.UNREADABLE, "2": Fate.TO_DO, "3": Fate.THERE}
    Restore(control(memory), journal, "last", to=2).run()
    assert memory.value("NEW") == 7.0


# -- the way back: what is there --------------------------------------------------------------------------------------

COLUMNS = {"a": np.array([1.0, 2.0]), "value": np.array([3, 4])}


@pytest.mark.parametrize(
    ("reading", "value", "there"),
    [
        (Reading(COLUMNS, TABLE), {"a": [1.0, 2.0], "value": [3, 4]}, True),
        (Reading(COLUMNS, TABLE), {"a": [1.0]}, False),
        # As Fields were asked, once they are on record.
        (Reading(COLUMNS, TABLE), {"value": {"a": [1.0, 2.0]}}, True),
        (Reading(COLUMNS, TABLE), {"value": [3, 4]}, True),
        (Reading(COLUMNS, TABLE), {"value": [3, 5]}, False),
        (Reading(5.0, PvType(Kind.FLOAT)), {"value": 5.0}, True),
        (Reading(1, PvType(Kind.ENUM), choices=("off", "on")), {"value": "on"}, True),
        (Reading(None, STRUCTURE), {"value": 5.0}, False),
    ],
)
def test_a_pv_is_where_it_was_asked_to_be(reading: Reading, value: Any, there: bool) -> None:
    assert is_at(reading, value) is there


@pytest.mark.parametrize("asked", [{"a": [3.0, 4.0]}, Fields({"value": {"a": [3.0, 4.0]}})], ids=["columns", "fields"])
def test_a_table_is_put_back(asked: Any, memory: MemoryBackend, journal: Journal) -> None:
    memory.add("TAB", {"a": np.array([1.0, 2.0]), "b": ["x", "y"]})
    tied = run.Attachment().attach(control(memory))
    tied.set({"TAB": asked, "A": Fields({"value": 5.0})})
    run.end()
    restore = Restore(control(memory), journal, "last")
    restore.run()
    assert fates(restore.steps) == {"TAB": Fate.RESTORED, "A": Fate.RESTORED}
    assert (memory.value("TAB")["a"], memory.value("A")) == ([1.0, 2.0], 1.0)


# -- the way back: while the question is on the screen ----------------------------------------------------------------


@pytest.fixture
def made(memory: MemoryBackend, journal: Journal) -> str:
    """A run that has set A and B; gives its id."""
    run.Attachment().attach(control(memory)).set({"A": 10.0, "B": 20.0})
    run.end()
    return journal.run("last").id


def test_what_somebody_moves_after_the_look_is_left_alone(made: str, memory: MemoryBackend, journal: Journal) -> None:
    restore = Restore(control(memory), journal, made)
    assert fates(restore.steps) == {"B": Fate.TO_DO, "A": Fate.TO_DO}
    memory.post("A", 3.0)
    said: list[Step] = []
    assert restore.run(said.append) is restore.steps
    assert fates(restore.steps) == fates(said) == {"B": Fate.RESTORED, "A": Fate.FOREIGN}
    (moved,) = [step for step in said if step.pv == "A"]
    assert "it holds 3.0, and the run last wrote 10.0" in moved.message and "since it was looked at" in moved.message
    assert (memory.value("A"), memory.value("B")) == (3.0, 2.0)


def test_nor_by_force_what_was_not_shown(made: str, memory: MemoryBackend, journal: Journal) -> None:
    memory.post("A", 3.0)
    restore = Restore(control(memory), journal, made, force=True)
    assert fates(restore.steps) == {"B": Fate.TO_DO, "A": Fate.TO_DO}
    memory.post("B", 4.0)
    restore.run()
    # What was shown as moved is put back, as it was asked for.
    assert fates(restore.steps) == {"B": Fate.FOREIGN, "A": Fate.RESTORED}
    assert (memory.value("A"), memory.value("B")) == (1.0, 4.0)


@pytest.mark.parametrize("shown", [Fate.FOREIGN, Fate.THERE, Fate.UNREADABLE])
def test_a_yes_is_to_what_was_shown_as_to_do(shown: Fate, made: str, memory: MemoryBackend, journal: Journal) -> None:
    memory.post("A", {Fate.FOREIGN: 3.0, Fate.THERE: 1.0}.get(shown, 10.0))
    memory.fault("A", "missing" if shown is Fate.UNREADABLE else None)
    restore = Restore(control(memory), journal, made)
    assert fates(restore.steps) == {"B": Fate.TO_DO, "A": shown}
    memory.fault("A", None)
    memory.post("A", 10.0)
    restore.run()
    assert fates(restore.steps) == {"B": Fate.RESTORED, "A": Fate.NOT_SENT}
    assert memory.value("A") == 10.0


@pytest.mark.parametrize("moved", [True, False])
def test_the_command_says_what_has_changed_since_it_asked(
    moved: bool, made: str, memory: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(count: int, *, yes: bool) -> None:
        # Somebody acts while the question is on the screen; the answer is yes.
        memory.post("A", 3.0 if moved else 10.0)

    monkeypatch.setattr("badger_k2eg.control.connect", lambda way: memory)
    monkeypatch.setattr("badger_k2eg.cli.runs_restore._confirm", asked)
    done = CliRunner().invoke(cli.main, ["runs", "restore", made])
    assert (done.exit_code, memory.value("A"), memory.value("B")) == ((1, 3.0, 2.0) if moved else (0, 1.0, 2.0))
    assert ("A: moved by somebody else, it holds 3.0" in done.stdout) is moved
    assert ("NOT where it should be: A" in done.stdout) is moved
    assert ("since it was looked at" in done.stdout) is moved
