"""Safe file names for the ids of runs and the names of attachments, and a check that a path stays in its folder.

Ids and names come from lines that anyone may have written: ``../../etc/x`` is a name like any other, and never a path.
Pure except ``inside``, which follows links.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..core.errors import JournalError
from ..core.printable import printable

#: Characters with a meaning for a file system, a zip file or a shell; each is written as % and its code.
_QUOTED = frozenset('%/\\:*?"<>|')
_LONGEST = 200


def file_name(text: str) -> str:
    """Return a file name for a text: the text itself if it is one. Different texts get different names."""
    name = "".join(_quoted(c) if c in _QUOTED or printable(c) != c else c for c in text)
    if name[:1] in ("", ".", "-", " "):
        # Not a hidden file, the folder above, or an option of a command.
        name = _quoted(name[:1]) + name[1:] if name else "%"
    if len(name.encode()) > _LONGEST:
        name = f"{name[: _LONGEST // 4]}%{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
    return name


def _quoted(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def inside(folder: Path, *names: str) -> Path:
    """Return a path in a folder.

    :raises JournalError: when a link or a name leads out of it.
    """
    try:
        path = folder.joinpath(*names)
        if path.resolve().is_relative_to(folder.resolve()):
            return path
    except (OSError, ValueError, RuntimeError):  # a NUL in the name, a name too long, a loop of links
        pass
    raise JournalError(f"{'/'.join(names)!r} leads out of {folder}")
