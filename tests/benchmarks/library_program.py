"""The client library k2eg at work; run with the Python of its own environment, which has nothing of ours.

`python library_program.py ENVIRONMENT`: does what each line of JSON on its standard input says, `[method,
arguments...]`, and answers each with a line `answer` and the seconds of every single call in JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import k2eg

TIMEOUT = 10.0


class Library:
    def __init__(self, environment: str) -> None:
        self._environment = environment
        self._client: k2eg.dml | None = None
        # The library has no call for many; it may be called from many threads.
        self._pool = ThreadPoolExecutor(100)

    @property
    def client(self) -> k2eg.dml:
        assert self._client is not None, "open comes first"
        return self._client

    def open(self, app_name: str, uri: str) -> Iterable[float]:
        """Until the first answer: `wait_for_backends` of this version cannot be called."""

        def first() -> None:
            self._client = k2eg.dml(self._environment, app_name)
            self._client.get(uri, TIMEOUT)

        return [_seconds(first)]

    def close(self) -> Iterable[float]:
        return [_seconds(self.client.close)]

    def get(self, uri: str, count: int) -> Iterable[float]:
        return [_seconds(lambda: self.client.get(uri, TIMEOUT)) for _ in range(count)]

    def get_many(self, uris: list[str]) -> Iterable[float]:
        return [_seconds(lambda: list(self._pool.map(lambda uri: self.client.get(uri, TIMEOUT), uris)))]

    def monitor(self, uri: str) -> Iterable[float]:
        heard = threading.Event()

        def until_heard() -> None:
            self.client.monitor(uri, lambda *_: heard.set(), TIMEOUT)
            heard.wait(TIMEOUT)

        seconds = [_seconds(until_heard)]
        self.client.stop_monitor(uri.rpartition("://")[2])
        return seconds

    def snapshot(self, uris: list[str]) -> Iterable[float]:
        return [_seconds(lambda: self.client.snapshot_sync(uris, TIMEOUT))]


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    library = Library(sys.argv[1])
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        # The library prints, too.
        print("\nanswer", json.dumps(list(getattr(library, method)(*arguments))), flush=True)
    os._exit(0)  # whatever threads are left


if __name__ == "__main__":
    main()
