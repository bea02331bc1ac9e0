"""Where a K2EG gateway is reached: the ini file of an environment, in the form of the k2eg library.

Owns the search for the file and what may stand in it. Opens no connection; imports config_files, errors and wording.

::

    [DEFAULT]
    kafka_broker_url = broker1:9092,broker2:9092
    k2eg_cmd_topic = cmd-in-topic
    ; by default NAME_OF_APPLICATION-reply
    reply_topic = my-replies
    ; every kafka.* is an option of librdkafka (its CONFIGURATION.md), for all connections
    kafka.security.protocol = SASL_SSL
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..core import config_files
from ..core.config_files import DEFAULTS
from ..core.errors import SettingsError
from ..core.suggestions import close_to, did_you_mean

logger = logging.getLogger(__name__)

#: Names the folder with the ini files, as for the k2eg library.
FOLDER_VARIABLE = "K2EG_PYTHON_CONFIGURATION_PATH_FOLDER"
#: The environment and the application of those who name none, as for the command of the k2eg library.
ENVIRONMENT_VARIABLE = "K2EG_CLI_DEFAULT_ENVIRONMENT"
APP_NAME_VARIABLE = "K2EG_CLI_DEFAULT_APP_NAME"
#: With ``local.ini``: a broker and a gateway on this host.
OWN_FOLDER = Path(__file__).parent / "environments"

_BROKER, _COMMANDS, _REPLIES, _KAFKA = "kafka_broker_url", "k2eg_cmd_topic", "reply_topic", "kafka."
_KEYS = (_BROKER, _COMMANDS, _REPLIES)
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
#: What Kafka takes as the name of a topic.
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


@dataclass(frozen=True, slots=True)
class K2egEnvironment:
    """One environment: a broker and the topic on which its gateways take commands.

    :ivar name: of the file, without ``.ini``.
    :ivar broker: ``HOST:PORT`` of one or more brokers, with commas.
    :ivar command_topic: where commands go.
    :ivar reply_topic: where replies come; None for ``APP_NAME-reply``.
    :ivar kafka: options of librdkafka; never shown, for passwords may be among them.
    """

    name: str
    broker: str
    command_topic: str
    reply_topic: str | None = None
    kafka: Mapping[str, str] = field(default_factory=dict, repr=False)

    def reply_topic_of(self, app_name: str) -> str:
        """Name the topic on which an application gets its replies.

        :raises SettingsError: when there is no application's name, or Kafka cannot take it in the name of a topic.
        """
        if not isinstance(app_name, str) or not app_name.strip():
            raise SettingsError(f"the name of the application (app_name) is empty; {APP_NAME_VARIABLE} may name one")
        topic = self.reply_topic or f"{app_name}-reply"
        if not _TOPIC.fullmatch(topic):
            raise SettingsError(f"app_name {app_name!r}: {topic!r} is no name of a topic: letters, digits, . _ -")
        return topic


def default_environment() -> str:
    """Name the environment of those who name none: the variable's, or ``local``."""
    return os.environ.get(ENVIRONMENT_VARIABLE) or "local"


def default_app_name() -> str:
    """Name the application of those who name none."""
    return os.environ.get(APP_NAME_VARIABLE) or "badger-k2eg"


def load_environment(name: str, folder: str | os.PathLike[str] | None = None) -> K2egEnvironment:
    """Read ``NAME.ini`` from a folder: the argument, then the variable's, then this package's own.

    :raises SettingsError: (a ValueError) naming the folder, file or key that is missing or wrong.
    """
    place = Path(folder or os.environ.get(FOLDER_VARIABLE) or OWN_FOLDER)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SettingsError(f"{name!r} is no name of a K2EG environment: letters, digits, . _ -")
    path = place / f"{name}.ini"
    sections = config_files.read(path, DEFAULTS)
    if sections is None:
        raise SettingsError(_missing(name, place, folder))
    return _environment(name, path, {key: text.strip() for key, text in sections.get(DEFAULTS, {}).items()})


def environment_names(folder: str | os.PathLike[str] | None = None) -> list[str]:
    """List the environments of the folder in use."""
    place = Path(folder or os.environ.get(FOLDER_VARIABLE) or OWN_FOLDER)
    return sorted(path.stem for path in place.glob("*.ini"))


def _missing(name: str, place: Path, folder: object) -> str:
    if not place.is_dir():
        source = "argument folder" if folder else f"environment variable {FOLDER_VARIABLE}"
        return f"{place}: no such folder ({source}); K2EG environments are ini files in it"
    hint = did_you_mean(name, environment_names(place), "environments there")
    if not folder and not os.environ.get(FOLDER_VARIABLE):
        hint += f" (set {FOLDER_VARIABLE} to the folder of your site)"
    return f"K2EG environment {name!r}: there is no {place / f'{name}.ini'}; {hint}"


def _environment(name: str, path: Path, values: Mapping[str, str]) -> K2egEnvironment:
    for key in (_BROKER, _COMMANDS):
        if not values.get(key):
            raise SettingsError(f"{path}: {key} is missing from its section [{DEFAULTS}]")
    for key in values:
        if key in _KEYS or (key.startswith(_KAFKA) and key != _KAFKA):
            continue
        if meant := close_to(key, _KEYS):
            raise SettingsError(f"{path}: there is no key {key!r}; did you mean {meant!r}?")
        logger.warning("%s: the key %r is not known and not used", path, key)
    for key in (_COMMANDS, _REPLIES):
        if (topic := values.get(key)) and not _TOPIC.fullmatch(topic):
            raise SettingsError(f"{path}: {key} = {topic!r} is no name of a topic: letters, digits, . _ -")
    for address in values[_BROKER].split(","):
        host, _, port = address.strip().rpartition(":")
        if not host or not port.isdigit():
            raise SettingsError(f"{path}: {_BROKER}: {address.strip()!r} is not HOST:PORT")
    return K2egEnvironment(
        name=name,
        broker=values[_BROKER],
        command_topic=values[_COMMANDS],
        reply_topic=values.get(_REPLIES) or None,
        kafka={key.removeprefix(_KAFKA): text for key, text in values.items() if key.startswith(_KAFKA)},
    )
