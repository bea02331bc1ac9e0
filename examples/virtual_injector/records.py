"""The PVs of the virtual injector: records by softioc, and a p4p server for what a record cannot give.

Owns names, units, limits and alarms. What the values mean is in `engine`. softioc and p4p are imported with this
module, so it is imported only in the process that is the IOC.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from p4p import nt
from p4p.server import Server
from p4p.server.thread import SharedPV
from softioc import alarm, builder

from .diagnostics import BUFFER, PIXELS, Reading
from .lattice import CHARGE, MAGNETS, Magnet

RATES = {"0 Hz": 0.0, "1 Hz": 1.0, "10 Hz": 10.0, "30 Hz": 30.0, "60 Hz": 60.0, "120 Hz": 120.0}
"""The choices of BEAM:RATE, and what they are in Hz."""

STATUS = ("Ready", "Ramping", ("Fault", "MAJOR"))
PERMIT = ("OK", ("TRIP", "MAJOR"))

LATENCY = 0.2
"""SIM:LATENCY at the start, s."""

_MM: dict[str, Any] = {"egu": "mm", "low": -3.0, "high": 3.0, "lolo": -5.0, "hihi": 5.0}
_UM: dict[str, Any] = {"egu": "um", "high": 2000.0, "hihi": 4000.0}


def _beam_records() -> dict[str, Any]:
    made = {
        "OTRS:1:XRMS": _value("OTRS:1:XRMS", "beam size x, rms", 1, **_UM),
        "OTRS:1:YRMS": _value("OTRS:1:YRMS", "beam size y, rms", 1, **_UM),
        "OTRS:1:X": _value("OTRS:1:X", "beam centre x on the screen", 3, **_MM),
        "OTRS:1:Y": _value("OTRS:1:Y", "beam centre y on the screen", 3, **_MM),
        "OTRS:1:EMITN": _value("OTRS:1:EMITN", "normalized emittance, proxy", 3, egu="um", high=2.0, hihi=4.0),
        "OTRS:1:BMAG": _value("OTRS:1:BMAG", "mismatch to the design Twiss", 2, egu="", high=100.0, hihi=1000.0),
        "BEAM:TRANSMISSION": _value("BEAM:TRANSMISSION", "charge at the screen over the gun's", 4, low=0.9, lolo=0.5),
        "GDET:1:ENRC": _value("GDET:1:ENRC", "pulse energy, last shot", 4, egu="mJ", high=3.0, hihi=4.0),
    }
    for number in (1, 2, 3):
        for plane in "XY":
            name = f"BPMS:{number}:{plane}"
            made[name] = _value(name, f"position {plane.lower()}", 3, **_MM)
        name = f"BPMS:{number}:TMIT"
        made[name] = _value(name, "charge", 2, egu="pC", low=0.8 * CHARGE, lolo=0.4 * CHARGE)
    return made


def _value(
    name: str,
    text: str,
    precision: int,
    *,
    egu: str = "",
    low: float | None = None,
    high: float | None = None,
    lolo: float | None = None,
    hihi: float | None = None,
    **fields: Any,
) -> Any:
    for field, severity, limit, how in (
        ("LOW", "LSV", low, "MINOR"),
        ("HIGH", "HSV", high, "MINOR"),
        ("LOLO", "LLSV", lolo, "MAJOR"),
        ("HIHI", "HHSV", hihi, "MAJOR"),
    ):
        if limit is not None:
            fields[field], fields[severity] = limit, how
    # A reading is an update although it is the same number: else, without noise, nobody could tell that it is fresh.
    # TSE -2: its time is that of the shot, not that of its appearance.
    fields = {"MDEL": -1, "ADEL": -1, "TSE": -2, **fields}
    return builder.aIn(name, DESC=text, EGU=egu, PREC=precision, initial_value=0.0, **fields)


class Records:
    """All records; made once, before the IOC starts.

    :param changed: called, in any thread, when a setpoint or a switch was put.
    """

    def __init__(self, changed: Callable[[], object]) -> None:
        """Define the records."""
        self._changed = changed
        #: With their values at the start, for `reset`.
        self._outputs: list[tuple[Any, Any]] = []
        self.setpoints: dict[str, Any] = {}
        self.readbacks: dict[str, Any] = {}
        self.statuses: dict[str, Any] = {}
        self.rates: dict[str, Any] = {}
        for magnet in MAGNETS.values():
            self._define_magnet(magnet)
        self.stick = self._switch("QUAD:3:STICK", "its supply does not move", "no", "stuck")
        self.fault = self._switch("QUAD:4:FAULT", "its supply trips", "no", "fault")
        self.rate = self._choice("BEAM:RATE", "of the beam, as chosen", list(RATES), len(RATES) - 1)
        self.permit = builder.mbbIn("BEAM:PERMIT", *PERMIT, DESC="of the machine protection", initial_value=0)
        self.actual_rate = builder.aIn("BEAM:RATE_ACT", DESC="shots per second", EGU="Hz", PREC=0, initial_value=0.0)
        self.trip = self._switch("SIM:TRIP", "take the permit away", "no", "trip")
        self.hysteresis = self._switch("SIM:HYST", "magnets remember where they came from", "off", "on")
        self.noise = self._number("SIM:NOISE", "times the noise of all instruments", 1.0, 0.0, 10.0)
        self.latency = self._number("SIM:LATENCY", "from a shot to its reading", LATENCY, 0.0, 10.0, EGU="s")
        self.missed = self._number("SIM:MISSED", "part of the shots a buffer misses", 0.0, 0.0, 1.0)
        # An action of its own: not in the list of what it sets back.
        self.reset_switch = builder.boolOut(
            "SIM:RESET", ZNAM="done", ONAM="reset", DESC="all as at the start; says done", initial_value=0,
            always_update=True, on_update=self._notify,
        )  # fmt: skip
        self.beam = _beam_records()
        self.buffers = {
            name: builder.WaveformIn(name, np.full(BUFFER, np.nan), DESC=text, EGU=egu, TSE=-2)
            for name, text, egu in (
                ("GDET:1:ENRCHSTBR", "pulse energy of the last shots", "mJ"),
                ("BPMS:3:TMITHSTBR", "charge of the last shots", "pC"),
            )
        }

    def reset(self) -> None:
        """Put every setpoint and switch back to its value at the start."""
        for record, value in self._outputs:
            record.set(value)

    def show(self, reading: Reading) -> None:
        """Publish a reading, with the time of its shot."""
        for name, value in reading.values.items():
            dark = name.startswith("OTRS:") and not reading.lit
            severity, status = (alarm.INVALID_ALARM, alarm.READ_ALARM) if dark else (alarm.NO_ALARM, alarm.NO_ALARM)
            self.beam[name].set(value, severity=severity, alarm=status, timestamp=reading.taken)
        for name, values in reading.buffers.items():
            self.buffers[name].set(values, timestamp=reading.taken)

    def show_nothing(self) -> None:
        """Mark every reading INVALID: it keeps its number, and gets no other until there is beam again."""
        for record in self.beam.values():
            record.set_alarm(alarm.INVALID_ALARM, alarm.READ_ALARM, timestamp=time.time())

    def _notify(self, _value: object) -> None:
        self._changed()

    def _define_magnet(self, magnet: Magnet) -> None:
        name, egu, precision = magnet.name, magnet.egu, magnet.precision
        text = name.replace(":", " ").lower()
        self.setpoints[name] = self._number(
            f"{name}:BCTRL", f"{text}, setpoint", magnet.start, magnet.low, magnet.high, EGU=egu, PREC=precision
        )
        margin = 0.01 * magnet.span
        self.readbacks[name] = _value(
            f"{name}:BACT", f"{text}, readback", precision, egu=egu, LOPR=magnet.low, HOPR=magnet.high, TSE=0,
            low=magnet.low - margin, high=magnet.high + margin, lolo=magnet.low - 5 * margin,
            hihi=magnet.high + 5 * margin,
        )  # fmt: skip
        self.statuses[name] = builder.mbbIn(f"{name}:STATMSG", *STATUS, DESC=f"{text}, supply", initial_value=0)
        self.rates[name] = self._number(
            f"{name}:RATE", f"{text}, ramp", magnet.rate, 0.01 * magnet.rate, 100 * magnet.rate, EGU=f"{egu}/s",
            PREC=precision,
        )  # fmt: skip

    def _number(self, name: str, text: str, start: float, low: float, high: float, **fields: Any) -> Any:
        fields = {"PREC": 3, **fields}
        # An ao takes NaN, which no drive limit stops.
        record = builder.aOut(
            name, DESC=text, DRVL=low, DRVH=high, initial_value=start, always_update=True, on_update=self._notify,
            validate=lambda _record, value: math.isfinite(value), **fields,
        )  # fmt: skip
        self._outputs.append((record, start))
        return record

    def _choice(self, name: str, text: str, choices: list[str], start: int) -> Any:
        record = builder.mbbOut(
            name, *choices, DESC=text, initial_value=start, always_update=True, on_update=self._notify,
            validate=lambda _record, value: value < len(choices),
        )  # fmt: skip
        self._outputs.append((record, start))
        return record

    def _switch(self, name: str, text: str, off: str, on: str) -> Any:
        record = builder.boolOut(
            name, ZNAM=off, ONAM=on, DESC=text, initial_value=0, always_update=True, on_update=self._notify
        )
        self._outputs.append((record, 0))
        return record


class Pulses:
    """The PVs of the p4p server: the charge of a shot with its pulse id, and the camera's image.

    :param prefix: of their names, without the colon.
    """

    def __init__(self, prefix: str) -> None:
        """Make the PVs; nothing is served yet."""
        self._scalar = nt.NTScalar("d", display=True, valueAlarm=True, form=True)
        now = time.time()
        self._charges = {}
        for name, text in (("TORO:1:CHARGE", "charge at the gun"), ("TORO:2:CHARGE", "charge at the screen")):
            first = self._scalar.wrap(0.0, timestamp=now)
            first["display.units"], first["display.description"], first["display.precision"] = "pC", text, 2
            first["display.limitLow"], first["display.limitHigh"] = 0.0, 2 * CHARGE
            first["valueAlarm.active"] = True
            first["valueAlarm.lowWarningLimit"], first["valueAlarm.lowWarningSeverity"] = 0.8 * CHARGE, 1
            self._charges[name] = SharedPV(nt=self._scalar, initial=first)
        blank = np.zeros((PIXELS, PIXELS), np.uint8)
        self._image = SharedPV(nt=nt.NTNDArray(), initial=blank, timestamp=now)
        self._last: dict[str, tuple[float, int]] = dict.fromkeys(self._charges, (0.0, 0))
        self._provider: Mapping[str, SharedPV] = {
            f"{prefix}:{name}": pv for name, pv in {**self._charges, "OTRS:1:IMAGE": self._image}.items()
        }

    def serve(self) -> Server:
        """Start the server; it listens for searches where the IOC does.

        Within one process both share that UDP port, and each answers for its own PVs. It gets any TCP port.
        """
        # Not by useenv=True: the IOC's TCP port would get into each interface before ours is looked at.
        conf = {name: value for name, value in os.environ.items() if name.startswith("EPICS_PVA")}
        return Server(providers=[self._provider], conf={**conf, "EPICS_PVAS_SERVER_PORT": "0"}, useenv=False)

    def show(self, reading: Reading) -> None:
        """Publish a shot, with its time and, in `timeStamp.userTag`, its pulse id."""
        for name, charge in reading.charges.items():
            low = charge < 0.8 * CHARGE
            self._post(name, charge, reading.pulse_id, reading.taken, (1, "LOW") if low else (0, ""))
        self._image.post(reading.image, timestamp=reading.taken)

    def show_nothing(self) -> None:
        """Mark the charges INVALID; the pulse id stays that of the last shot."""
        for name, (charge, pulse_id) in self._last.items():
            self._post(name, charge, pulse_id, time.time(), (3, "READ"))

    def _post(self, name: str, charge: float, pulse_id: int, taken: float, alarm: tuple[int, str]) -> None:
        value = self._scalar.wrap(charge, timestamp=taken)
        value["timeStamp.userTag"] = pulse_id & 0x7FFFFFFF  # a signed 32-bit field
        value["alarm.severity"], value["alarm.message"] = alarm
        self._charges[name].post(value)
        self._last[name] = charge, pulse_id
