"""Row B9: Badger's own recording holds plain values, of what was asked, and nothing that changes afterwards."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.badger_app.recording import recordable
from badger_k2eg.core.units import Quantity
from badger_k2eg.errors import ReadError, SetError
from badger_k2eg.testing.soft_ioc import SoftIoc
from badger_k2eg.tuning import Knob
from interfaces.epics_pva import Interface


class PlainOnly(pickle.Unpickler):
    """Reads a pickle that names no class at all."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is not plain")


def load(file: Path) -> Any:
    return PlainOnly(io.BytesIO(file.read_bytes())).load()


def test_the_record_is_plain_and_complete(
    soft_ioc: SoftIoc, restored: Callable[[str, Any], str], tmp_path: Path
) -> None:
    number, waveform = restored("DBL", 1.5), restored("WF", [1.0, 2.5, -3.25])
    interface = Interface()
    interface.start_recording()
    array = np.array([1.0, 2.0])
    interface.set_values({number: np.float64(2.0), waveform: array})
    array[0] = 99.0
    values = interface.get_values([number, waveform, soft_ioc.pv("ENUM"), soft_ioc.pv("STR")])
    values[waveform].append("spoiled")
    values["more"] = object()
    interface.set_value(number, 1.0)
    interface.get_value(number)

    interface.dump_recording(tmp_path / "dumped.pickle")
    interface.stop_recording(tmp_path / "stopped.pickle")
    record = load(tmp_path / "dumped.pickle")
    assert record == load(tmp_path / "stopped.pickle")
    assert [entry["action"] for entry in record] == ["set_values", "get_values"] * 2
    assert record[0]["channel_inputs"] == {number: 2.0, waveform: [1.0, 2.0]}
    assert record[1]["channel_outputs"][waveform] == [1.0, 2.0]
    assert record[1]["channel_outputs"][soft_ioc.pv("STR")] == "hello"
    assert "more" not in record[1]["channel_outputs"]
    assert record[2]["channel_inputs"] == {number: 1.0}
    assert record[3]["channel_outputs"] == {number: 1.0}
    assert all(type(entry["timestamp"]) is float for entry in record)
    # The next recording begins empty, and an empty one makes no file.
    interface.stop_recording(tmp_path / "empty.pickle")
    assert not (tmp_path / "empty.pickle").exists()


def test_a_failed_set_is_recorded_as_asked(memory_context: MemoryBackend, tmp_path: Path) -> None:
    memory_context.add("X", 0.0)
    memory_context.fault("X", "refused")
    interface = Interface(context=memory_context)
    with pytest.raises(SetError):
        interface.set_values({"X": 1.0})
    interface.dump_recording(tmp_path / "record.pickle")
    assert load(tmp_path / "record.pickle")[0]["channel_inputs"] == {"X": 1.0}


def test_every_set_of_its_control_is_recorded_once_and_when_it_begins(memory_context: MemoryBackend) -> None:
    memory_context.add("X", 0.0, units="mm", limits=(-5.0, 5.0))
    interface = Interface(context=memory_context)
    interface.control.set({"X": Quantity(2000, "um")})
    knob = Knob("X", approach="below", overshoot=0.1)
    interface.move({"x": 1.0}, {"x": knob})
    assert [entry["channel_inputs"] for entry in interface._logs] == [{"X": 2.0}, {"X": 0.0}, {"X": 1.0}]
    seen: list[int] = []
    memory_context.on_put("X", lambda value: seen.append(len(interface._logs)))
    interface.set_value("X", 2.5)
    assert seen == [4]
    # What was not sent has been asked for all the same.
    with pytest.raises(SetError):
        interface.set_value("X", 99.0)
    interface.read_only = True
    interface.set_value("X", 3.0)
    assert [entry["channel_inputs"] for entry in interface._logs[4:]] == [{"X": 99.0}, {"X": 3.0}]


def test_every_read_of_its_control_is_recorded(memory_context: MemoryBackend) -> None:
    memory_context.add("X", 1.0)
    interface = Interface(context=memory_context, timeout=0.2)
    interface.get_readings(["X"])
    with pytest.raises(ReadError):
        interface.get_values(["X", "GONE"])
    first, second = (entry["channel_outputs"] for entry in interface._logs)
    assert first == {"X": 1.0}
    assert second["X"] == 1.0 and math.isnan(second["GONE"])


def test_each_interface_has_its_own_record(memory_context: MemoryBackend) -> None:
    memory_context.add("X", 0.0)
    first, second = Interface(context=memory_context), Interface(context=memory_context)
    first.get_value("X")
    assert len(first._logs) == 1
    assert second._logs == []
    assert Interface()._logs == []


class _Fancy(float):
    """As p4p's ntfloat: a float that cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("no")


def test_what_can_be_recorded() -> None:
    values = {
        "scalar": np.int32(3),
        "zero_d": np.array(2.5),
        "fancy": _Fancy(1.5),
        "table": {"a": np.array([1, 2]), "b": ("x", np.float32(0.5))},
        "flag": np.True_,
        "none": None,
        "odd": object,
    }
    recorded = recordable(values)
    assert PlainOnly(io.BytesIO(pickle.dumps(recorded))).load() == recorded
    assert recorded["table"] == {"a": [1, 2], "b": ["x", 0.5]}
    assert (recorded["scalar"], recorded["zero_d"], recorded["fancy"], recorded["flag"]) == (3, 2.5, 1.5, True)
    assert (type(recorded["fancy"]), type(recorded["flag"]), recorded["none"]) == (float, bool, None)
