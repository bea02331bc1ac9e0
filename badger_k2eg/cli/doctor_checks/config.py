"""Badger's configuration: is there one, are our plugins in its plugin root, can runs be archived?"""

from __future__ import annotations

from collections.abc import Iterator

from ...badger_app.plugin_files import plugin_names
from ...badger_app.window_config import plugin_problem, read_config
from ...core.errors import SettingsError
from . import Finding, Subject, bad, good, is_writable, note

_ARCHIVE = "BADGER_ARCHIVE_ROOT"


def check(subject: Subject) -> Iterator[Finding]:
    """Read the configuration, and look into its folders."""
    try:
        config = read_config(subject.config)
    except (SettingsError, OSError) as error:
        yield bad("configuration", str(error))
        return
    if config.exists:
        yield good("configuration", str(config.file))
    else:
        yield note("configuration", f"none yet; badger-k2eg gui writes {config.file}")
    if problem := plugin_problem(config.plugin_root):
        yield bad("plugin root", f"{problem}; badger-k2eg plugin-root names one")
    else:
        yield good("plugin root", str(config.plugin_root))
        for kind in ("interfaces", "environments"):
            yield good(kind, ", ".join(plugin_names(kind, config.plugin_root)))
    archive = config.folders[_ARCHIVE]
    if not is_writable(archive):
        yield bad("archive", f"runs cannot be archived: {archive} cannot be written; see {_ARCHIVE} in {config.file}")
    elif not archive.is_dir():
        yield note("archive", f"{archive} is not there yet; it can be made")
    else:
        yield good("archive", str(archive))
