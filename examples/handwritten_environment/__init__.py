"""A hand-written Badger environment: PVs by their names, and a validator for each setpoint.

Copy this folder into ``environments/`` of your plugin root. Its PVs are those of ``examples/first_ioc``.
"""

from functools import partial
from typing import ClassVar

from badger import environment

from badger_k2eg import wait_for_readback


class Environment(environment.Environment):
    """Two correctors, whose readbacks must arrive before the beam size is measured."""

    name = "handwritten_environment"
    variables = {"FIRST:COR:1:SP": [-2.0, 2.0], "FIRST:COR:2:SP": [-2.0, 2.0]}
    observables = ["FIRST:BEAM:SIZE"]

    # By set PV; each is called after the put, and returns when the readback has arrived.
    _configs: ClassVar[dict[str, partial]] = {
        "FIRST:COR:1:SP": partial(
            wait_for_readback, readback_pv="FIRST:COR:1:RB", tolerance=0.01, count_down=5.0, offset=0.0
        ),
        "FIRST:COR:2:SP": partial(
            wait_for_readback, readback_pv="FIRST:COR:2:RB", tolerance=0.01, count_down=5.0, offset=0.0
        ),
    }

    def set_variables(self, variable_inputs: dict[str, float]) -> None:
        """Set the correctors and wait for their readbacks."""
        self.interface.set_values(variable_inputs, configs=self._configs)
