"""Reading of ini files: a file is read completely, or one line says why not. Nothing in it may be without effect.

The only place that opens and decodes one. It knows no option.
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

#: The section whose options ``configparser`` adds to every other section, silently also to one that is missing.
DEFAULTS = "DEFAULT"

Sections = Mapping[str, Mapping[str, str]]


class _Parser(configparser.ConfigParser):
    # The base class ignores what follows the bracket: an option on the same line.
    SECTCRE = re.compile(r"\[(?P<header>[^\]]+)\]\s*([#;].*)?$")

    def __init__(self) -> None:
        # No interpolation: a % in a pattern or a password is a %. And [DEFAULT] is a section like any other (no header
        # is empty): it is visible, and a duplicate key in it is found.
        super().__init__(interpolation=None, default_section="")


def read(path: Path, section: str) -> Sections | None:
    """Return the sections of a file, ``[DEFAULT]`` as one of its own; names of options are in lower case.

    :param section: the expected one, for messages.
    :returns: None if there is no such file, nor anything else in its place.
    :raises SettingsError: if it exists and cannot be read, or has a section or an option twice.
    """
    if (text := _text(path)) is None:
        return None
    parser = _Parser()
    try:
        parser.read_string(text)
    except configparser.MissingSectionHeaderError as error:
        wrong = f"line {error.lineno} is outside any section; write [{section}] on a line of its own above it"
    except configparser.DuplicateSectionError as error:
        wrong = f"line {error.lineno}: section [{error.section}] appears twice; merge the two"
    except configparser.DuplicateOptionError as error:
        wrong = f"line {error.lineno}: {error.option!r} appears twice in [{error.section}]; keep one of them"
    except configparser.ParsingError as error:
        wrong = f"line {error.errors[0][0]} is neither a [section] nor NAME = VALUE"
    else:
        return {name: dict(parser[name]) for name in parser.sections()}
    raise SettingsError(f"{path}: {wrong}")


def read_only_section(path: Path, section: str, *, may_be_empty: bool) -> Mapping[str, str] | None:
    """Return the options of a file that may have one section only.

    :param may_be_empty: whether a file without any section is valid and says nothing; otherwise it is an error.
    :returns: None as for ``read``.
    :raises SettingsError: as ``read``, and for another section, which would be without effect.
    """
    if (sections := read(path, section)) is None:
        return None
    for name in sections:
        if name == DEFAULTS:
            raise SettingsError(f"{path}: [{DEFAULTS}] has no effect; move its options to [{section}]")
        if name != section:
            hint = f"did you mean [{section}]?" if close_to(name, [section]) else f"options belong in [{section}]"
            raise SettingsError(f"{path}: unknown section [{name}]; {hint}")
    if not sections and not may_be_empty:
        raise SettingsError(f"{path}: there is no section [{section}]; write that line above the options")
    return sections.get(section, {})


def _text(path: Path) -> str | None:
    try:
        mode = path.stat().st_mode
        # Checked before it is opened: a FIFO would wait for a writer, a device may never end.
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise SettingsError(f"{path}: is {what}; put a regular file there, or remove it")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        _find_broken_link(path)
        return None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        cure = "repair or remove it"
        if isinstance(error, PermissionError):
            cure = "make it readable for this user, and every folder above it"
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); {cure}") from None


def _find_broken_link(path: Path) -> None:
    """Raise if the file is missing because of a broken link: something was meant to be there."""
    found = next((place for place in (path, *path.parents) if os.path.lexists(place)), None)
    if found is not None and not found.exists():
        raise SettingsError(
            f"{path}: the link {found} points to {os.readlink(found)}, which does not exist; repair or remove it"
        )
