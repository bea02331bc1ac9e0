"""The options of badger-k2eg itself, from environment variables, the ini file and the policy file."""

from __future__ import annotations

from collections.abc import Iterator

from ...core.errors import SettingsError
from ...core.settings import load
from . import Finding, Subject, bad, good


def check(subject: Subject) -> Iterator[Finding]:
    """Read every source; gives what is in force besides the defaults."""
    try:
        settings = load()
    except SettingsError as error:
        yield bad("options", str(error))
        return
    changed = settings.model_dump(mode="json", exclude_defaults=True)
    yield good("options", ", ".join(f"{name} = {value}" for name, value in changed.items()) or "all by default")
