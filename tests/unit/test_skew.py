"""V7: observables of one evaluation belong to one instant, or one pulse; what does not is taken again, then told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from badger_k2eg.backends.memory import MemoryBackend
from badger_k2eg.control import Control
from badger_k2eg.core import clock
from badger_k2eg.core.model import Reading
from badger_k2eg.core.settings import Settings
from badger_k2eg.errors import InvalidReading, SettingsError
from badger_k2eg.tuning import Observable, Sampler, Skew

WANTED = {"x": Observable("X"), "y": Observable("Y")}


class Pulses:
    """A machine whose two readouts carry the time and the number of their pulse."""

    def __init__(self, behind: Callable[[int], int] = lambda pulse: 0) -> None:
        self.memory = MemoryBackend({"X": 0.0, "Y": 0.0, "STATIC": 1.0})
        self.behind = behind
        self.control = Control(self.memory, Settings(timeout=2.0))
        self.sampler = Sampler(self.control)
        self._end = clock.event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        pulse = 0
        while not self._end.wait(0.02):
            pulse += 1
            late = self.behind(pulse)
            self._post("X", pulse)
            self._post("Y", pulse - late)

    def _post(self, name: str, pulse: int) -> None:
        # The record's own time is that of its pulse.
        self.memory.post(name, float(pulse), user_tag=pulse, timestamp_ns=(1000 + pulse) * 20_000_000)

    def __enter__(self) -> Pulses:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        self._thread.join()
        self.sampler.close()
        self.control.close()


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """How often observables are taken, and by which way."""
    taken: list[str] = []
    for name in ("_measure", "_snapshot"):
        original = getattr(Sampler, name)

        def counted(*arguments: Any, original: Any = original, name: str = name) -> Any:
            taken.append(name)
            return original(*arguments)

        monkeypatch.setattr(Sampler, name, counted)
    yield taken


@pytest.mark.parametrize("skew", [Skew(seconds=0.005), Skew(pulse=True)], ids=["seconds", "pulse"])
def test_what_is_apart_is_taken_again_until_it_is_not(skew: Skew, rounds: list[str]) -> None:
    began = clock.monotonic()
    with Pulses(lambda pulse: 1 if clock.monotonic() - began < 0.25 else 0) as machine:
        for _ in range(20):
            try:
                samples = machine.sampler.measure(WANTED, skew=skew)
            except InvalidReading:
                continue
            assert samples["x"].value == samples["y"].value and not samples["x"].skewed
            break
        else:
            pytest.fail("never of one pulse")
    assert "_snapshot" in rounds and len(rounds) > 2


def test_a_skew_that_stays_is_an_error_after_three_more(rounds: list[str]) -> None:
    with Pulses(lambda pulse: 2) as machine:
        with pytest.raises(InvalidReading, match="taken 4 times") as caught:
            machine.sampler.measure(WANTED, skew=Skew(seconds=0.01))
        assert rounds.count("_snapshot") == 2 and rounds.count("_measure") == 2
        assert "0.04 s apart" in str(caught.value) and "Y is the oldest" in str(caught.value)
        with pytest.raises(InvalidReading, match="of different pulses"):
            machine.sampler.measure(WANTED, skew=Skew(pulse=True, again=0))


def test_or_it_is_marked(caplog: pytest.LogCaptureFixture) -> None:
    with Pulses(lambda pulse: 2) as machine:
        samples = machine.sampler.measure(WANTED, skew=Skew(seconds=0.01, otherwise="mark"))
    assert all(sample.skewed for sample in samples.values()) and "apart" in caplog.text


def test_what_is_together_is_taken_once(rounds: list[str]) -> None:
    wanted = WANTED | {"static": Observable("STATIC", fresh=False)}
    with Pulses() as machine:
        # Between the two posts of one pulse they are one pulse apart.
        samples = machine.sampler.measure(wanted, skew=Skew(seconds=0.021))
    assert rounds == ["_measure"] and samples["static"].value == 1.0


def test_a_pv_without_a_pulse_id_is_named() -> None:
    readings = {"A": Reading(1.0, user_tag=5), "B": Reading(1.0)}
    assert Skew(pulse=True).apart(readings) == "B carries no pulse id"
    assert Skew(seconds=1).apart(readings) == "A carries no time"
    assert Skew(seconds=1).apart({"A": Reading(1.0)}) is None


@pytest.mark.parametrize(
    "words", [{}, {"seconds": -1}, {"seconds": 1, "pulse": True}, {"pulse": True, "again": -1},
              {"seconds": 1, "otherwise": "ignore"}, {"millis": 3}],
)  # fmt: skip
def test_a_wrong_declaration(words: dict[str, Any]) -> None:
    with pytest.raises((ValueError, SettingsError)):
        Skew(**words)
