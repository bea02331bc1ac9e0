"""The recorded traffic as test data: one scenario per file of the folder ``recorded``."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "recorded"
#: Recorded for their times: which messages come, and how many, is not to be compared.
TIMING_ONLY = ("burst", "many", "slow", "restart")
COMMANDS_TOPIC = "cmd-in"


@dataclass(frozen=True, slots=True)
class RecordedMessage:
    """A record as the real gateway produced it."""

    topic: str
    key: str | None
    headers: tuple[tuple[str, bytes], ...]
    value: bytes
    #: Decoded: NaN is ``"__nan__"``.
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    actions: tuple[dict[str, Any], ...]
    messages: tuple[RecordedMessage, ...]

    @property
    def timing_only(self) -> bool:
        return any(word in self.name for word in TIMING_ONLY)

    @property
    def commands(self) -> list[tuple[float, bytes]]:
        """What was put on the command topic, and when."""
        return [(a["t"], a["raw"].encode()) for a in self.actions if a["action"] == "send_command"]


def load(path: Path) -> Scenario:
    data = json.loads(path.read_text())
    messages = tuple(
        RecordedMessage(
            m["topic"],
            m["key"],
            tuple((name, value.encode()) for name, value in m["headers"]),
            base64.b64decode(m["value_base64"]),
            m["value"],
        )
        for m in data["messages"]
    )
    return Scenario(data["scenario"], tuple(data["actions"]), messages)


SCENARIOS = [load(path) for path in sorted(FOLDER.glob("*.json"))]
