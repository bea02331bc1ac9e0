"""A program that sets PVs for a long time, and says as JSON what its process had become now and then.

A process of its own: what else a test run keeps in memory is not to hide a leak, or look like one.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import threading
from pathlib import Path

from badger_k2eg.control import Control, connect
from badger_k2eg.control.validators import within
from badger_k2eg.core.settings import Settings


def resident_kilobytes() -> int:
    """Give the memory that this process holds now (not its peak)."""
    import psutil

    return int(psutil.Process().memory_info().rss) // 1024


def look() -> dict[str, int]:
    """Describe this process."""
    gc.collect()  # garbage that waits for its collection is no leak
    tasks, descriptors = Path("/proc/self/task"), Path("/proc/self/fd")
    return {
        "resident_kB": resident_kilobytes(),
        # Those of the client library too, which Python does not know of.
        "threads": len(os.listdir(tasks)) if tasks.is_dir() else threading.active_count(),
        "files": len(os.listdir(descriptors)) if descriptors.is_dir() else -1,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("prefix")
    parser.add_argument("--warm-up", type=int, required=True)
    parser.add_argument("--sets", type=int, required=True)
    parser.add_argument("--looks", type=int, required=True)
    options = parser.parse_args()

    backend = connect("pva")
    control = Control(backend, Settings(parallel=True, timeout=10.0))
    setpoints = [f"{options.prefix}:SP:{i:03d}" for i in range(4)]
    # Arrived as soon as put: watched as always, without the waiting.
    validators = {sp: within(sp.replace(":SP:", ":RB:"), tolerance=1e6) for sp in setpoints[:2]}
    rejected = {setpoints[0]: 1e9}

    def set_many(first: int, last: int) -> None:
        for number in range(first, last):
            report = control.set(dict.fromkeys(setpoints, float(number % 90)), validators)
            assert report.ok
            if number % 20 == 0:
                control.close()  # so that subscriptions come and go too; otherwise they are kept for the next set
            if number % 50 == 0:  # a leak is at home where something goes wrong
                try:
                    control.set(rejected, validators)
                except ValueError:
                    pass
                else:
                    raise AssertionError("a value out of limits was set")

    set_many(0, options.warm_up)
    seen = [look()]
    for step in range(options.looks):
        start = options.warm_up + step * options.sets // options.looks
        set_many(start, options.warm_up + (step + 1) * options.sets // options.looks)
        seen.append(look())
    backend.close()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
