"""``Reader``: every read, and no way to set."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control import Control, Reader
from badger_k2eg.core.backend import Update
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import PvAddress, Reading, Severity
from badger_k2eg.core.settings import Settings
from badger_k2eg.errors import PvInvalid, PvNameError


@pytest.fixture
def memory() -> Iterator[MemoryBackend]:
    machine = MemoryBackend({"A": 1.0})
    machine.add("INVALID", 2.0, severity=Severity.INVALID, message="LINK")
    yield machine
    machine.close()


@pytest.fixture
def reader(memory: MemoryBackend) -> Iterator[Reader]:
    made = Reader(memory, Settings())
    yield made
    made.close()


def test_it_cannot_set(reader: Reader) -> None:
    assert not [name for name in dir(reader) if "put" in name or name.startswith("set") and name != "settings"]


def test_it_judges_what_it_reads_for_its_user_and_fetches_what_is_there(reader: Reader) -> None:
    for updates in (reader.updates(["A", "INVALID", "bad name"]), reader.snapshot(["A", "INVALID", "bad name"])):
        assert [type(update) for update in updates.values()] == [Reading, PvInvalid, PvNameError]
    address = PvAddress.parse("INVALID")
    assert reader.fetch([address, address], Deadline(1.0))[address].value == 2.0  # type: ignore[union-attr]
    assert reader.fetch([], Deadline(1.0)) == {}


def test_a_pv_is_monitored_by_name_or_address(memory: MemoryBackend, reader: Reader) -> None:
    heard: list[Update] = []
    subscriptions = [reader.monitor(pv, heard.append) for pv in ("A", PvAddress.parse("A"))]
    assert reader.subscriptions.watched == [PvAddress.parse("A")], "by one subscription"
    memory.post("A", 3.0)
    assert [update.value for update in heard if isinstance(update, Reading)] == [1.0, 1.0, 3.0, 3.0]
    for subscription in subscriptions:
        subscription.close()
    assert reader.subscriptions.watched == []


def test_closing_ends_what_waits_and_it_can_be_used_again(reader: Reader) -> None:
    life = reader.life
    reader.close()
    assert life.cancelled and not reader.life.cancelled
    assert "A" in reader.updates(["A"])


def test_a_control_reads_by_its_reader(memory: MemoryBackend) -> None:
    control = Control(memory)
    assert control.reader.backend is control.backend and control.life is control.reader.life
    assert control.updates(["A"])["A"].value == 1.0  # type: ignore[union-attr]
    own = Reader(memory, control.settings)
    assert Control(memory, control.settings, reader=own).reader is own
