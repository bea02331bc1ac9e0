"""Is there a K2EG environment, do its broker and a gateway on its command topic answer, and what is their time?"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from ...core.errors import KafkaError, OperationTimeout, SettingsError
from ...k2eg.client import K2egClient
from ...k2eg.environment import (
    ENVIRONMENT_VARIABLE,
    FOLDER_VARIABLE,
    default_app_name,
    default_environment,
    load_environment,
)
from . import Finding, Subject, bad, clock, good, note

_BROKER_PATIENCE, _GATEWAY_PATIENCE = 3.0, 5.0


def check(subject: Subject) -> Iterator[Finding]:
    """Ask broker and gateway of the environment that the variables name; without them nobody uses K2EG here."""
    if not (os.environ.get(ENVIRONMENT_VARIABLE) or os.environ.get(FOLDER_VARIABLE)):
        yield note("K2EG", f"not set up; {FOLDER_VARIABLE} and {ENVIRONMENT_VARIABLE} would say where a gateway is")
        return
    try:
        environment = load_environment(default_environment())
        client = K2egClient(environment, default_app_name())
    except SettingsError as error:
        yield bad("K2EG", str(error))
        return
    yield good("K2EG", f"environment {environment.name}, commands on topic {environment.command_topic}")
    with client:
        try:
            client.open(_BROKER_PATIENCE)
        except (KafkaError, OperationTimeout, SettingsError) as error:
            yield bad("K2EG broker", str(error))
            return
        yield good("K2EG broker", environment.broker)
        began = time.monotonic()
        try:
            client.wait_for_backends(_GATEWAY_PATIENCE)
        except (KafkaError, OperationTimeout) as error:
            yield bad("K2EG gateway", f"{error}; start one, or see {ENVIRONMENT_VARIABLE}")
            return
        yield good("K2EG gateway", f"answers within {(time.monotonic() - began) * 1000:.0f} ms")
        yield clock("K2EG clock", f"broker {environment.broker}, or its gateway,", client.ahead)
