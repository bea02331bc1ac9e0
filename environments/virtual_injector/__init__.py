"""Badger environment ``virtual_injector``: the beam spot of the machine in ``examples/virtual_injector``."""

from badger_k2eg import Condition, ControlEnvironment, Expression, Knob, Observable

# What the supplies really reach: QUAD 5's record takes 0.4 kG, its hardware gives 0.3.
_RANGES = {
    "SOL1": (0.7, 1.2),
    "QUAD:1": (-0.3, 0.3),
    "QUAD:2": (0.1, 0.7),
    "QUAD:3": (-0.7, -0.1),
    "QUAD:4": (-0.4, 0.4),
    "QUAD:5": (-0.3, 0.3),
    "QUAD:6": (-0.4, 0.4),
    "XCOR:1": (-0.002, 0.002),
    "YCOR:1": (-0.002, 0.002),
    "XCOR:2": (-0.002, 0.002),
}


def _magnet(magnet: str, low: float, high: float) -> Knob:
    # A reading shows the beam of 0.2 s before: what comes sooner after the move is not of it. The supply says within
    # 0.05 s that it is ramping; of a very small step it does not say so at all.
    pv = f"{{prefix}}:{magnet}"
    return Knob(
        f"{pv}:BCTRL",
        readback=f"{pv}:BACT",
        tolerance=0.002 * (high - low),
        done=f"{pv}:STATMSG",
        done_value="Ready",
        rise=0.5,
        timeout=20.0,
        settle=0.3,
        bounds=(low, high),
    )


class Environment(ControlEnvironment):
    """Beam spot, emittance and transmission of the virtual injector, by its solenoid, quadrupoles and correctors."""

    name = "virtual_injector"

    knobs = {magnet.replace(":", ""): _magnet(magnet, low, high) for magnet, (low, high) in _RANGES.items()}
    measures = {
        "spot": Expression(
            "sqrt(x * y)",
            x=Observable("{prefix}:OTRS:1:XRMS", samples=5, reduce="median"),
            y=Observable("{prefix}:OTRS:1:YRMS", samples=5, reduce="median"),
        ),
        "sigma_x": Observable("{prefix}:OTRS:1:XRMS", samples=5, reduce="median"),
        "sigma_y": Observable("{prefix}:OTRS:1:YRMS", samples=5, reduce="median"),
        "emittance": Observable("{prefix}:OTRS:1:EMITN", samples=5, reduce="median"),
        "transmission": Observable("{prefix}:BEAM:TRANSMISSION", samples=5),
    }
    conditions = (
        Condition("{prefix}:BEAM:PERMIT", equals="OK", timeout=60.0, reason="permit of the machine protection"),
        Condition("{prefix}:BEAM:RATE_ACT", at_least=1.0, timeout=60.0, reason="beam"),
    )

    prefix: str | None = "INJ"
