"""``K2egInterface``: the base of our Badger interface through K2EG. Imports no Kafka before the first get or set."""

from __future__ import annotations

from pydantic import Field

from ..backends import ThroughK2eg
from ..core.settings import Options
from ..k2eg.environment import default_app_name, default_environment
from .interface import ControlInterface

# Above the ten seconds that a gateway itself waits for a PV, so that its own answer is heard.
_TIMEOUT = 12.0


class K2egInterface(ControlInterface):
    """PVs for Badger through the K2EG gateways of an environment; else as every interface of ours.

    :raises SettingsError: for a wrong option; at the first get or set for an environment that there is not, or that
        cannot be read.
    """

    scheme = "pva"

    environment: str | None = Field(
        None, description="the K2EG environment (NAME.ini); else K2EG_CLI_DEFAULT_ENVIRONMENT says, else local"
    )
    app_name: str | None = Field(
        None, description="replies come on APP_NAME-reply; else K2EG_CLI_DEFAULT_APP_NAME says, else badger-k2eg"
    )
    timeout: float = Field(_TIMEOUT, description=Options.model_fields["timeout"].description)

    def _way(self) -> ThroughK2eg:
        return ThroughK2eg(self.environment or default_environment(), self.app_name or default_app_name())
