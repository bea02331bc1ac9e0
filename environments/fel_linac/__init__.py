"""Badger environment ``fel_linac``: what facilities write by hand, as declarations. To copy from, and it runs.

Its PVs are those of ``examples/virtual_injector``, whose last instrument stands in for a free-electron laser.
"""

from badger_k2eg import Buffer, Condition, ControlEnvironment, Expression, Knob, Observable


def _matching(quadrupole: str) -> Knob:
    # Another PV as readback, done when the status clears, bounds from the record. Always approached from below, because
    # of hysteresis; a larger step takes longer to settle. Its status is late by less than `rise`; elsewhere it may take
    # seconds, 3 of which are the default.
    return Knob(
        f"{{linac}}:{quadrupole}:BCTRL",
        readback=f"{{linac}}:{quadrupole}:BACT",
        tolerance=0.002,
        done=f"{{linac}}:{quadrupole}:STATMSG",
        done_value="Ready",
        rise=0.5,
        timeout=15.0,
        approach="below",
        overshoot=0.05,
        settle=0.3,
        settle_per_unit=0.2,
    )


class Environment(ControlEnvironment):
    """Pulse energy over the last shots, by quadrupoles that are approached from one side."""

    name = "fel_linac"

    knobs = {
        "matching_1": _matching("QUAD:1"),
        "matching_2": _matching("QUAD:2"),
        # Own bounds, within those of the record; the readback must stay where it has arrived.
        "solenoid": Knob(
            "{linac}:SOL1:BCTRL",
            readback="{linac}:SOL1:BACT",
            tolerance=0.002,
            hold=0.3,
            timeout=15.0,
            settle=0.3,
            bounds=(0.85, 1.1),
        ),
    }
    measures = {
        # The last 60 shots of beam-synchronous buffers. A shot that one of them missed is left out of both.
        "pulse_energy": Buffer(
            "{linac}:{detector}:ENRCHSTBR", points=60, rate="{linac}:BEAM:RATE", reduce="percentile 80", group="shots"
        ),
        "pulse_energy_mean": Buffer("{linac}:{detector}:ENRCHSTBR", points=60, rate="{linac}:BEAM:RATE", group="shots"),
        "charge": Buffer(
            "{linac}:BPMS:3:TMITHSTBR", points=60, rate="{linac}:BEAM:RATE", reduce="median", group="shots"
        ),
        "jitter": Expression(
            "spread / middle",
            spread=Buffer("{linac}:{detector}:ENRCHSTBR", points=60, rate="{linac}:BEAM:RATE", reduce="std"),
            middle=Buffer("{linac}:{detector}:ENRCHSTBR", points=60, rate="{linac}:BEAM:RATE"),
        ),
        "orbit": Expression("hypot(x, y)", x=Observable("{linac}:BPMS:3:X", samples=3), y="{linac}:BPMS:3:Y"),
    }
    conditions = (
        Condition("{linac}:BEAM:PERMIT", equals="OK", timeout=60.0, reason="permit of the machine protection"),
        Condition("{linac}:BEAM:RATE", equals="120 Hz", timeout=60.0, reason="full beam rate"),
    )

    linac: str | None = "INJ"
    detector: str | None = "GDET:1"
