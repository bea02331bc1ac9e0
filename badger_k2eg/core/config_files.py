"""Reading an ini file whole, or saying in one line why not: what stands in it must not be without effect.

The only place that opens and decodes one. Knows no option; imports errors and wording.
"""

from __future__ import annotations

import configparser
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from .base_errors import SettingsError
from .suggestions import close_to

#: Of ``configparser``: what stands there goes for every section, without a word where a section is missing.
DEFAULTS = "DEFAULT"

Sections = Mapping[str, Mapping[str, str]]


class _Parser(configparser.ConfigParser):
    # That of the base class lets go of what follows the bracket: an option on the same line.
    SECTCRE = re.compile(r"\[(?P<header>[^\]]+)\]\s*([#;].*)?$")

    def __init__(self) -> None:
        # No interpolation: a % in a pattern or a password is a %. And [DEFAULT] is a section like any other (no header
        # is empty): it shows, and a key that is twice in it is found.
        super().__init__(interpolation=None, default_section="")


def read(path: Path, section: str) -> Sections | None:
    """Read the sections of a file, ``[DEFAULT]`` among them as one of its own; names of options in small letters.

    :param section: the one that is expected, for messages.
    :returns: None when there is no such file, nor anything else in its place.
    :raises SettingsError: for whatever is there and cannot be read, and for a section or a name that is there twice.
    """
    if (text := _text(path)) is None:
        return None
    parser = _Parser()
    try:
        parser.read_string(text)
    except configparser.MissingSectionHeaderError as error:
        wrong = f"line {error.lineno} belongs to no section; write [{section}] on a line of its own above it"
    except configparser.DuplicateSectionError as error:
        wrong = f"line {error.lineno}: the section [{error.section}] stands twice; make one of the two"
    except configparser.DuplicateOptionError as error:
        wrong = f"line {error.lineno}: {error.option!r} stands twice in [{error.section}]; leave one of the two"
    except configparser.ParsingError as error:
        wrong = f"line {error.errors[0][0]} is neither a [section] nor NAME = VALUE"
    else:
        return {name: dict(parser[name]) for name in parser.sections()}
    raise SettingsError(f"{path}: {wrong}")


def read_only_section(path: Path, section: str, *, may_be_empty: bool) -> Mapping[str, str] | None:
    """Read a file that has one section, and no other.

    :param may_be_empty: whether a file without any section says nothing, or is an error too.
    :returns: its options; None as for ``read``.
    :raises SettingsError: as ``read``, and for another section: nobody would read it.
    """
    if (sections := read(path, section)) is None:
        return None
    for name in sections:
        if name == DEFAULTS:
            raise SettingsError(f"{path}: what stands in [{DEFAULTS}] has no effect; move it into [{section}]")
        if name != section:
            hint = f"did you mean [{section}]?" if close_to(name, [section]) else f"options belong into [{section}]"
            raise SettingsError(f"{path}: nobody reads the section [{name}]; {hint}")
    if not sections and not may_be_empty:
        raise SettingsError(f"{path}: has no section [{section}]; write that line above its options")
    return sections.get(section, {})


def _text(path: Path) -> str | None:
    try:
        mode = path.stat().st_mode
        # Before it is opened: a fifo would wait for somebody who writes, a device may never end.
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise SettingsError(f"{path}: is {what}; put a file there, or nothing")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        _find_broken_link(path)
        return None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        cure = "mend it, or take it away"
        if isinstance(error, PermissionError):
            cure = "make it readable for this user, and every folder above it"
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); {cure}") from None


def _find_broken_link(path: Path) -> None:
    """Tell a file that is not there from one behind a link that leads nowhere: something was meant to be there."""
    found = next((place for place in (path, *path.parents) if os.path.lexists(place)), None)
    if found is not None and not found.exists():
        raise SettingsError(
            f"{path}: the link {found} leads to {os.readlink(found)}, which is not there; mend it, or take it away"
        )
