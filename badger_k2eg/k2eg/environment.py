"""The address of a K2EG gateway: the ini file of an environment, in the format of the k2eg library.

Owns the search for the file and its keys. Opens no connection; imports config_files, errors and suggestions.

::

    [DEFAULT]
    kafka_broker_url = broker1:9092,broker2:9092
    k2eg_cmd_topic = cmd-in-topic
    ; default: NAME_OF_APPLICATION-reply
    reply_topic = my-replies
    ; kafka.* are librdkafka options (see its CONFIGURATION.md) for all connections
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

#: The variable that names the folder of the ini files, also for the k2eg library.
FOLDER_VARIABLE = "K2EG_PYTHON_CONFIGURATION_PATH_FOLDER"
#: The variables with the default environment and application, also for the k2eg library's command.
ENVIRONMENT_VARIABLE = "K2EG_CLI_DEFAULT_ENVIRONMENT"
APP_NAME_VARIABLE = "K2EG_CLI_DEFAULT_APP_NAME"
#: The folder with ``local.ini``: a broker and a gateway on this host.
OWN_FOLDER = Path(__file__).parent / "environments"

_BROKER, _COMMANDS, _REPLIES, _KAFKA = "kafka_broker_url", "k2eg_cmd_topic", "reply_topic", "kafka."
_KEYS = (_BROKER, _COMMANDS, _REPLIES)
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
#: The topic names that Kafka allows.
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


@dataclass(frozen=True, slots=True)
class K2egEnvironment:
    """One environment: a broker and the topic on which its gateways take commands.

    :ivar name: the name of the file, without ``.ini``.
    :ivar broker: ``HOST:PORT`` of one or more brokers, separated by commas.
    :ivar command_topic: the topic of the commands.
    :ivar reply_topic: the topic of the replies; None for ``APP_NAME-reply``.
    :ivar kafka: librdkafka options; never shown, as they may contain passwords.
    """

    name: str
    broker: str
    command_topic: str
    reply_topic: str | None = None
    kafka: Mapping[str, str] = field(default_factory=dict, repr=False)

    def reply_topic_of(self, app_name: str) -> str:
        """Return the topic on which an application gets its replies.

        :raises SettingsError: when the application has no name, or one that Kafka does not allow in a topic's name.
        """
        if not isinstance(app_name, str) or not app_name.strip():
            raise SettingsError(f"the name of the application (app_name) is empty; {APP_NAME_VARIABLE} can set it")
        topic = self.reply_topic or f"{app_name}-reply"
        if not _TOPIC.fullmatch(topic):
            raise SettingsError(f"app_name {app_name!r}: {topic!r} is not a topic name: letters, digits, . _ -")
        return topic


def default_environment() -> str:
    """Return the name of the default environment: the variable's, or ``local``."""
    return os.environ.get(ENVIRONMENT_VARIABLE) or "local"


def default_app_name() -> str:
    """Return the default name of the application."""
    return os.environ.get(APP_NAME_VARIABLE) or "badger-k2eg"


def load_environment(name: str, folder: str | os.PathLike[str] | None = None) -> K2egEnvironment:
    """Load ``NAME.ini`` from the given folder, else the variable's, else this package's own.

    :raises SettingsError: (a ValueError) naming the folder, file or key that is missing or wrong.
    """
    place = Path(folder or os.environ.get(FOLDER_VARIABLE) or OWN_FOLDER)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SettingsError(f"{name!r} is not the name of a K2EG environment: letters, digits, . _ -")
    path = place / f"{name}.ini"
    sections = config_files.read(path, DEFAULTS)
    if sections is None:
        raise SettingsError(_missing(name, place, folder))
    return _environment(name, path, {key: text.strip() for key, text in sections.get(DEFAULTS, {}).items()})


def environment_names(folder: str | os.PathLike[str] | None = None) -> list[str]:
    """Return the names of the environments in the folder in use."""
    place = Path(folder or os.environ.get(FOLDER_VARIABLE) or OWN_FOLDER)
    return sorted(path.stem for path in place.glob("*.ini"))


def _missing(name: str, place: Path, folder: object) -> str:
    if not place.is_dir():
        source = "argument folder" if folder else f"environment variable {FOLDER_VARIABLE}"
        return f"{place}: no such folder ({source}); K2EG environments are ini files in it"
    hint = did_you_mean(name, environment_names(place), "environments there")
    if not folder and not os.environ.get(FOLDER_VARIABLE):
        hint += f" (set {FOLDER_VARIABLE} to the folder of your site)"
    return f"K2EG environment {name!r}: {place / f'{name}.ini'} does not exist; {hint}"


def _environment(name: str, path: Path, values: Mapping[str, str]) -> K2egEnvironment:
    for key in (_BROKER, _COMMANDS):
        if not values.get(key):
            raise SettingsError(f"{path}: {key} is missing from its section [{DEFAULTS}]")
    for key in values:
        if key in _KEYS or (key.startswith(_KAFKA) and key != _KAFKA):
            continue
        if meant := close_to(key, _KEYS):
            raise SettingsError(f"{path}: there is no key {key!r}; did you mean {meant!r}?")
        logger.warning("%s: ignored the unknown key %r", path, key)
    for key in (_COMMANDS, _REPLIES):
        if (topic := values.get(key)) and not _TOPIC.fullmatch(topic):
            raise SettingsError(f"{path}: {key} = {topic!r} is not a topic name: letters, digits, . _ -")
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
