"""``K2egInterface``: the base of our Badger interface through K2EG. Imports no Kafka before the first get or set."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ..backend import Backend
from ..backends import ThroughK2eg
from ..errors import SettingsError
from ..k2eg.environment import default_app_name, default_environment
from ..settings import Options
from ..wording import close_to
from .plugin import ControlInterface

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

    def __init__(
        self, context: Any = None, *, environment: str | None = None, app_name: str | None = None, **options: Any
    ) -> None:
        for name in options.keys() - Options.model_fields.keys():
            if meant := close_to(name, ("environment", "app_name")):
                raise SettingsError(f"option {name}: there is no option {name!r}; did you mean {meant!r}?")
        super().__init__(context, **options)
        self.environment = environment
        self.app_name = app_name

    def __setattr__(self, name: str, value: Any) -> None:
        """Take a changed option at once; with another environment or name the next call connects anew."""
        super().__setattr__(name, value)
        if name in ("environment", "app_name"):
            backend: Backend | None = vars(self._live).pop("backend", None)
            self._rebuild()
            if backend is not None and self._live.context is None:
                backend.close()

    def _way(self) -> ThroughK2eg:
        return ThroughK2eg(self.environment or default_environment(), self.app_name or default_app_name())
