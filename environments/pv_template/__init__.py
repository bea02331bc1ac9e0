"""Badger environment ``pv_template``: the smallest one to copy. Two knobs and a goal, and which PVs they are."""

from badger_k2eg import ControlEnvironment


class Environment(ControlEnvironment):
    """Two knobs and a goal; the Parameters say which PVs these are."""

    name = "pv_template"
    variables = {"x0": [-2.0, 2.0], "x1": [-2.0, 2.0]}
    observables = ["f"]

    x0: str | None = "FIRST:COR:1:SP"
    x1: str | None = "FIRST:COR:2:SP"
    f: str | None = "FIRST:BEAM:SIZE"
