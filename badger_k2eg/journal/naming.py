"""``file_name``: the id of a run, the name of an attachment, as the name of one file in one folder; and ``inside``.

Ids and names come out of lines that anybody may have written: ``../../etc/x`` is a name like any other, and never a
path. Pure but for ``inside``, which follows links.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..core.errors import JournalError
from ..core.printable import printable

#: What a file system, a zip file or a shell makes something of; % is what stands for it.
_QUOTED = frozenset('%/\\:*?"<>|')
_LONGEST = 200


def file_name(text: str) -> str:
    """Give the name of a file for a text: the text itself where it is one; different texts have different names."""
    name = "".join(_quoted(c) if c in _QUOTED or printable(c) != c else c for c in text)
    if name[:1] in ("", ".", "-", " "):
        # Neither hidden, nor the folder above, nor an option of a command.
        name = _quoted(name[:1]) + name[1:] if name else "%"
    if len(name.encode()) > _LONGEST:
        name = f"{name[: _LONGEST // 4]}%{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
    return name


def _quoted(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def inside(folder: Path, *names: str) -> Path:
    """Give a place in a folder.

    :raises JournalError: when a link, or a name, leads out of it.
    """
    try:
        path = folder.joinpath(*names)
        if path.resolve().is_relative_to(folder.resolve()):
            return path
    except (OSError, ValueError, RuntimeError):  # a name with a NUL, too long, a circle of links
        pass
    raise JournalError(f"{'/'.join(names)!r} leads out of {folder}")
