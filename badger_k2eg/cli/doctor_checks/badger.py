"""Is Badger here, and one that we were tested with?"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata

from . import Finding, Subject, bad, good

#: What we rely on in Badger was measured on these versions: the lower bound is in, the upper one is out. The same pin
#: stands in pyproject.toml; a test compares them.
TESTED = ("1.6", "1.7")


def check(subject: Subject) -> Iterator[Finding]:
    """Compare the version that is installed."""
    try:
        version = metadata.version("badger-opt")
    except metadata.PackageNotFoundError:
        yield bad("Badger", "is not installed: pip install 'badger-k2eg[badger]'")
        return
    lower, upper = TESTED
    if _numbers(lower) <= _numbers(version) < _numbers(upper):
        yield good("Badger", f"{version}; tested with {lower} up to, not including, {upper}")
    else:
        yield bad("Badger", f"{version} was not tested with badger-k2eg: pip install 'badger-opt>={lower},<{upper}'")


def _numbers(version: str) -> tuple[int, ...]:
    parts = (part for part in version.split(".")[:2])
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in parts)
