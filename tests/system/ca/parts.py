"""A backend with the names of one IOC, and how these tests wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from badger_k2eg.core.backend import Backend, Update
from badger_k2eg.core.deadline import Deadline
from badger_k2eg.core.model import Outcome, PvAddress, Reading
from badger_k2eg.testing.soft_ioc import SoftIoc

PATIENCE = 10.0
"""Seconds for what must happen in the end."""
AT_ONCE = 0.5
"""Seconds for what must not wait for anything, on a busy machine."""


class Pvs:
    """A backend and the names of one IOC, in the shortest form to write."""

    def __init__(self, ioc: SoftIoc, backend: Backend) -> None:
        self.ioc, self.backend = ioc, backend

    def at(self, name: str) -> PvAddress:
        return PvAddress.parse(name if ":" in name else f"ca://{self.ioc.pv(name.replace('_', ':'))}")

    def gets(self, *names: str, timeout: float = 3.0) -> dict[str, Update]:
        answers = self.backend.get_many([self.at(name) for name in names], Deadline(timeout))
        return {name: answers[self.at(name)] for name in names}

    def get(self, name: str, timeout: float = 3.0) -> Reading:
        answer = self.gets(name, timeout=timeout)[name]
        assert isinstance(answer, Reading), answer
        return answer

    def put(self, name: str, value: Any, timeout: float = 3.0, *, wait: bool = False) -> tuple[Outcome, str]:
        at = self.at(name)
        answer = self.backend.put_many({at: value}, Deadline(timeout), wait=[at] if wait else [])[at]
        return answer.outcome, answer.message

    def monitor(self, name: str, got: list[Update] | Callable[[Update], None], queue: int = 100) -> Any:
        return self.backend.monitor(self.at(name), got.append if isinstance(got, list) else got, queue)


def values(updates: list[Update]) -> list[Any]:
    return [update.value if isinstance(update, Reading) else type(update) for update in updates]


class Timer:
    def __enter__(self) -> Timer:
        self.began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self.began
